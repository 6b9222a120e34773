package peers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

func TestEtcdPut(t *testing.T) {
	lab.Require(t)
	if err := peers.HasEtcd(); err != nil {
		t.Skip(err)
	}
	l, err := lab.New(lab.Options{Dir: t.TempDir(), KeepDir: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { err = errors.Join(err, l.Close()) })
	sw, err := l.NewSwitch("mgmt")
	if err != nil {
		t.Fatal(err)
	}
	var hosts []*lab.Host
	for i := range 4 {
		h, err := l.NewHost(fmt.Sprintf("h%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Plug(sw, "eth0", fmt.Sprintf("10.0.1.%d/24", i+1)); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	etcd, err := peers.StartEtcd(l.Dir(), "eth0", hosts[3], hosts[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := etcd.Conn(0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = lab.Poll(t.Context(), 20*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return peers.Put(ctx, conn, "a", []byte("b"))
	})
	if err != nil {
		t.Fatal(err)
	}
}
