package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

const (
	writesFor   = 4 * time.Second // at each number of clients
	quietWrites = 500             // one after the other for the latency
)

// writers are the numbers of clients at once.
var writers = []int{1, 4, 16, 64, 256}

const ledgerPool = `
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: ledger}
spec:
  addresses: [10.64.0.0/10]
`

// benchWrites measures declarations beside etcd's puts and bare Raft, all on one disk.
func benchWrites(ctx context.Context, r *recorder) error {
	r.clear()
	if err := ourWrites(ctx, r); err != nil {
		return err
	}
	if err := etcdWrites(ctx, r); err != nil {
		r.say("etcd: %v", err)
	}
	bare, err := bareRaft(ctx, r.o)
	if err != nil {
		return err
	}
	r.times("bare-latency", bare)
	return nil
}

// times records a sample of times as a whole.
func (r *recorder) times(kind string, list []time.Duration) {
	r.Samples[kind] = nil
	for _, d := range list {
		r.Samples[kind] = append(r.Samples[kind], d.Seconds())
	}
}

func ourWrites(ctx context.Context, r *recorder) error {
	dir, err := runDir(r.o, "writes")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.New(ctx, cluster.Options{Nodes: 3, Lab: lab.Options{Dir: dir}, MemberArgs: profileArgs(r)})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	if _, err := c.Apply(ctx, ledgerPool); err != nil {
		return err
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	client, err := c.AdminAt(leader)
	if err != nil {
		return err
	}
	declare := func(ctx context.Context, name string) error {
		resp, err := client.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{ledgerService(name)}})
		if err == nil && len(resp.GetResults()[0].GetAddresses()) != 1 {
			err = fmt.Errorf("%s got no address: %s", name, resp.GetResults()[0].GetPending())
		}
		return err
	}
	quiet, err := oneByOne(ctx, declare)
	if err != nil {
		return err
	}
	r.times("our-latency", quiet)
	for _, n := range writers {
		stop := startProfile(ctx, r, leader, "member", fmt.Sprintf("leader-%d-clients", n), writesFor)
		rate, err := allAtOnce(ctx, n, declare)
		stop()
		if err != nil {
			return err
		}
		r.say("%d clients: %s", n, perSecond(rate))
		r.curve("QuorumLB declarations", float64(n), rate)
		r.Samples[fmt.Sprintf("our-rate-%d", n)] = []float64{rate}
	}
	return r.save()
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
func oneByOne(ctx context.Context, write func(context.Context, string) error) (times []time.Duration, err error) {
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
func allAtOnce(ctx context.Context, clients int, write func(context.Context, string) error) (float64, error) {
	var done atomic.Int64
	start := time.Now()
	g, writing := errgroup.WithContext(ctx)
	for w := range clients {
		g.Go(func() error {
			for i := 0; time.Since(start) < writesFor && writing.Err() == nil; i++ {
				if err := write(writing, fmt.Sprintf("of%03d-w%03d-%06d", clients, w, i)); err != nil {
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
