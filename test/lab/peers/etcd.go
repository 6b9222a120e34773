package peers

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quorumlb/quorumlb/test/lab"
)

// Etcd is a group of etcd members, one on each host.
type Etcd struct {
	addrs []string // host:port of the client side
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

// HasEtcd is nil when etcd is installed.
func HasEtcd() error {
	_, err := find("etcd", "etcd-server")
	return err
}

// StartEtcd starts etcd on the hosts, which reach each other by the addresses of
// ifname. from is where clients are.
func StartEtcd(dir, ifname string, from *lab.Host, hosts ...*lab.Host) (*Etcd, error) {
	path, err := find("etcd", "etcd-server")
	if err != nil {
		return nil, err
	}
	e := &Etcd{dial: from.Dial}
	var initial []string
	for _, h := range hosts {
		ip := h.Addr(ifname, false).String()
		e.addrs = append(e.addrs, ip+":2379")
		initial = append(initial, fmt.Sprintf("%s=http://%s:2380", h.Name(), ip))
	}
	for _, h := range hosts {
		ip := h.Addr(ifname, false).String()
		data := filepath.Join(dir, h.Name()+"-etcd")
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, err
		}
		_, err := h.Start("etcd", path, "--name", h.Name(), "--data-dir", data,
			"--listen-peer-urls", "http://"+ip+":2380", "--initial-advertise-peer-urls", "http://"+ip+":2380",
			"--listen-client-urls", "http://"+ip+":2379", "--advertise-client-urls", "http://"+ip+":2379",
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new")
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Conn connects to the i-th member.
func (e *Etcd) Conn(i int) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+e.addrs[i],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return e.dial(ctx, "tcp", addr) }),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
}

// Put stores a value. The request is written by hand, so that etcd's client and
// all that it needs stay out of go.mod.
func Put(ctx context.Context, conn *grpc.ClientConn, key string, value []byte) error {
	req := append([]byte{1<<3 | 2}, binary.AppendUvarint(nil, uint64(len(key)))...)
	req = append(req, key...)
	req = append(req, 2<<3|2)
	req = append(binary.AppendUvarint(req, uint64(len(value))), value...)
	var resp []byte
	return conn.Invoke(ctx, "/etcdserverpb.KV/Put", &req, &resp)
}

// rawCodec passes encoded messages through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }
