package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

// openEtcd starts three etcd members on hosts of their own, and gives the clients'
// host the fourth.
func openEtcd(o options) (etcd *peers.Etcd, l *lab.Lab, remove func(), err error) {
	if err := peers.HasEtcd(); err != nil {
		return nil, nil, nil, err
	}
	dir, err := runDir(o, "etcd")
	if err != nil {
		return nil, nil, nil, err
	}
	remove = func() {
		if l != nil {
			_ = l.Close()
		}
		_ = os.RemoveAll(dir)
	}
	if l, err = lab.New(lab.Options{Dir: dir}); err == nil {
		etcd, err = startEtcd(l, dir)
	}
	if err != nil {
		remove()
	}
	return etcd, l, remove, err
}

func startEtcd(l *lab.Lab, dir string) (*peers.Etcd, error) {
	sw, err := l.NewSwitch("mgmt")
	if err != nil {
		return nil, err
	}
	var hosts []*lab.Host
	for i := range 4 {
		h, err := l.NewHost(fmt.Sprintf("h%d", i))
		if err != nil {
			return nil, err
		}
		if err := h.Plug(sw, "eth0", fmt.Sprintf("10.0.1.%d/24", i+1)); err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return peers.StartEtcd(dir, "eth0", hosts[3], hosts[:3]...)
}

// etcdWrites measures puts at each member; whichever leads is the fastest.
func etcdWrites(ctx context.Context, r *recorder) error {
	etcd, _, remove, err := openEtcd(r.o)
	if err != nil {
		return err
	}
	defer remove()
	var best []time.Duration
	var leader *grpc.ClientConn
	for i := range 3 {
		conn, err := etcd.Conn(i)
		if err != nil {
			return err
		}
		defer conn.Close()
		times, err := quietPuts(ctx, conn)
		if err != nil {
			return err
		}
		if best == nil || samplesOf(times).median() < samplesOf(best).median() {
			best, leader = times, conn
		}
	}
	r.times("etcd-latency", best)
	for _, n := range writers {
		rate, err := allAtOnce(ctx, n, putter(leader))
		if err != nil {
			return err
		}
		r.say("%d clients of etcd: %s", n, perSecond(rate))
		r.curve("etcd puts", float64(n), rate)
		r.Samples[fmt.Sprintf("etcd-rate-%d", n)] = []float64{rate}
	}
	return r.save()
}

func samplesOf(times []time.Duration) (s samples) {
	for _, d := range times {
		s = append(s, d.Seconds())
	}
	return s
}

// putter writes values of about a declaration's size.
func putter(conn *grpc.ClientConn) func(context.Context, string) error {
	value := make([]byte, 100)
	return func(ctx context.Context, key string) error { return peers.Put(ctx, conn, key, value) }
}

func quietPuts(ctx context.Context, conn *grpc.ClientConn) ([]time.Duration, error) {
	put := putter(conn)
	err := lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return put(ctx, "ready")
	})
	if err != nil {
		return nil, errors.Join(errors.New("etcd does not answer"), err)
	}
	return oneByOne(ctx, put)
}
