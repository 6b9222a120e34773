package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

const (
	writers     = 256             // clients at once for the rate
	writesFor   = 5 * time.Second // how long
	quietWrites = 500             // one after the other for the latency
)

const ledgerPool = `
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: ledger}
spec:
  addresses: [10.64.0.0/10]
`

// benchWrites measures declarations beside etcd's puts and bare Raft, all on one disk.
func benchWrites(ctx context.Context, o options, r *report) error {
	ourRate, ourTimes, err := ourWrites(ctx, o)
	if err != nil {
		return err
	}
	x := row{what: fmt.Sprintf("service declarations, %d clients, three members, fsync", writers), ours: perSecond(ourRate), aim: "10,000/s and more than etcd"}
	etcdRate, etcdTimes, err := etcdWrites(ctx, o)
	if err != nil {
		fmt.Fprintf(r.progress, "  etcd: %v\n", err)
	} else {
		x.peer = fmt.Sprintf("etcd puts, TLS too: %s (p50 of one client %v)", perSecond(etcdRate), ms(etcdTimes.median()))
	}
	x.met = ourRate > 10_000 && etcdRate > 0 && ourRate > etcdRate
	r.add(x)

	bare, err := bareRaft(ctx, o)
	if err != nil {
		return err
	}
	r.add(row{
		what: "latency of one declaration at low load, p50 / p99", ours: fmt.Sprintf("%v / %v", ms(ourTimes.median()), ms(ourTimes.at(990))),
		peer: fmt.Sprintf("bare hashicorp/raft apply: %v / %v", ms(bare.median()), ms(bare.at(990))),
		aim:  "p50 within 1.5 x", met: ourTimes.median() <= bare.median()*3/2,
	})
	return nil
}

func perSecond(rate float64) string { return fmt.Sprintf("%.0f/s", rate) }

func ourWrites(ctx context.Context, o options) (rate float64, quiet durations, err error) {
	dir, err := runDir(o, "writes")
	if err != nil {
		return 0, nil, err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.New(ctx, cluster.Options{Nodes: 3, Lab: lab.Options{Dir: dir}})
	if err != nil {
		return 0, nil, err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return 0, nil, err
	}
	if _, err := c.Apply(ctx, ledgerPool); err != nil {
		return 0, nil, err
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return 0, nil, err
	}
	client, err := c.AdminAt(leader)
	if err != nil {
		return 0, nil, err
	}
	declare := func(ctx context.Context, name string) error {
		resp, err := client.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{ledgerService(name)}})
		if err == nil && len(resp.GetResults()[0].GetAddresses()) != 1 {
			err = fmt.Errorf("%s got no address: %s", name, resp.GetResults()[0].GetPending())
		}
		return err
	}
	if quiet, err = oneByOne(ctx, declare); err != nil {
		return 0, nil, err
	}
	rate, err = allAtOnce(ctx, declare)
	return rate, quiet, err
}

func ledgerService(name string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: &logv1.Service{
		Namespace: "ledger", Name: name, Pool: "ledger",
		Ports:          []*logv1.Port{{Name: "x", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}},
		IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, IpFamilies: []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4},
		ExternalTrafficPolicy: logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_CLUSTER, Delivery: logv1.Delivery_DELIVERY_NONE,
	}}}
}

// oneByOne gives the time of each of some writes by a single client.
func oneByOne(ctx context.Context, write func(context.Context, string) error) (times durations, err error) {
	for i := range quietWrites {
		start := time.Now()
		if err := write(ctx, fmt.Sprintf("quiet-%06d", i)); err != nil {
			return times, err
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// allAtOnce gives the writes per second of many clients.
func allAtOnce(ctx context.Context, write func(context.Context, string) error) (float64, error) {
	var done atomic.Int64
	start := time.Now()
	g, writing := errgroup.WithContext(ctx)
	for w := range writers {
		g.Go(func() error {
			for i := 0; time.Since(start) < writesFor && writing.Err() == nil; i++ {
				if err := write(writing, fmt.Sprintf("w%03d-%06d", w, i)); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), err
}

func etcdWrites(ctx context.Context, o options) (rate float64, quiet durations, err error) {
	if err := peers.HasEtcd(); err != nil {
		return 0, nil, err
	}
	dir, err := runDir(o, "etcd")
	if err != nil {
		return 0, nil, err
	}
	defer os.RemoveAll(dir)
	l, err := lab.New(lab.Options{Dir: dir})
	if err != nil {
		return 0, nil, err
	}
	defer l.Close()
	sw, err := l.NewSwitch("mgmt")
	if err != nil {
		return 0, nil, err
	}
	var hosts []*lab.Host
	for i := range 4 {
		h, err := l.NewHost(fmt.Sprintf("h%d", i))
		if err != nil {
			return 0, nil, err
		}
		if err := h.Plug(sw, "eth0", fmt.Sprintf("10.0.1.%d/24", i+1)); err != nil {
			return 0, nil, err
		}
		hosts = append(hosts, h)
	}
	etcd, err := peers.StartEtcd(dir, "eth0", hosts[3], hosts[:3]...)
	if err != nil {
		return 0, nil, err
	}
	best := durations(nil)
	for i := range 3 { // whichever leads is the fastest
		conn, err := etcd.Conn(i)
		if err != nil {
			return 0, nil, err
		}
		times, r, err := etcdAt(ctx, conn)
		err = errors.Join(err, conn.Close())
		if err != nil {
			return 0, nil, err
		}
		if r > rate {
			rate = r
		}
		if best == nil || times.median() < best.median() {
			best = times
		}
	}
	return rate, best, nil
}

func etcdAt(ctx context.Context, conn *grpc.ClientConn) (durations, float64, error) {
	value := make([]byte, 100) // about a declaration's size
	put := func(ctx context.Context, key string) error { return peers.Put(ctx, conn, key, value) }
	err := lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return put(ctx, "ready")
	})
	if err != nil {
		return nil, 0, err
	}
	times, err := oneByOne(ctx, put)
	if err != nil {
		return nil, 0, err
	}
	rate, err := allAtOnce(ctx, put)
	return times, rate, err
}
