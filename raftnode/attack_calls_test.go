package raftnode

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// call repeats a call, which must be idempotent, through whatever member until it
// succeeds.
func (g *attackGroup) call(what string, f func(ctx context.Context, c adminv1.AdminServiceClient) error) {
	g.t.Helper()
	deadline := time.Now().Add(attackPatience)
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
		err := f(ctx, g.admin[g.names[i%len(g.names)]])
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: %v", what, err)
		}
		if i%20 == 0 {
			g.t.Logf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (g *attackGroup) apply(resources ...*adminv1.Resource) (resp *adminv1.ApplyResponse) {
	g.t.Helper()
	g.call("apply", func(ctx context.Context, c adminv1.AdminServiceClient) (err error) {
		resp, err = c.Apply(ctx, &adminv1.ApplyRequest{Resources: resources})
		return err
	})
	return resp
}

func (g *attackGroup) drain(node string) {
	g.t.Helper()
	g.call("drain", func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.Drain(ctx, &adminv1.DrainRequest{Node: node})
		return err
	})
}

func (g *attackGroup) undrain(node string) {
	g.t.Helper()
	g.call("undrain", func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.Undrain(ctx, &adminv1.UndrainRequest{Node: node})
		return err
	})
}

// save makes a backup.
func (g *attackGroup) save() (backup []byte) {
	g.t.Helper()
	g.call("save", func(ctx context.Context, c adminv1.AdminServiceClient) (err error) {
		backup, err = saveThrough(ctx, c)
		return err
	})
	return backup
}

func saveThrough(ctx context.Context, c adminv1.AdminServiceClient) (backup []byte, err error) {
	stream, err := c.SnapshotSave(ctx, &adminv1.SnapshotSaveRequest{})
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return backup, nil
		}
		if err != nil {
			return nil, err
		}
		backup = append(backup, m.GetChunk()...)
	}
}

func (g *attackGroup) restore(backup []byte) {
	g.t.Helper()
	g.call("restore", func(ctx context.Context, c adminv1.AdminServiceClient) error { return restoreThrough(ctx, c, backup) })
}

func restoreThrough(ctx context.Context, c adminv1.AdminServiceClient, backup []byte) error {
	stream, err := c.SnapshotRestore(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&adminv1.SnapshotRestoreRequest{Chunk: backup}); err != nil && err != io.EOF {
		return err
	}
	_, err = stream.CloseAndRecv()
	return err
}

// found declares a pool of Release addresses and n services, and gives their
// addresses.
func (g *attackGroup) found(n int) (addrs []netip.Addr) {
	g.t.Helper()
	resources := []*adminv1.Resource{
		{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: "p", Addresses: []string{"192.0.2.0/24"}}}},
		{Kind: &adminv1.Resource_L2Advertisement{L2Advertisement: &logv1.L2Advertisement{
			Name: "ad", OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_RELEASE, Placement: logv1.Placement_PLACEMENT_STICKY,
		}}},
	}
	for i := range n {
		resources = append(resources, attackService(fmt.Sprintf("s%d", i)))
	}
	for _, r := range g.apply(resources...).GetResults()[2:] {
		addrs = append(addrs, netip.MustParseAddr(r.GetAddresses()[0]))
	}
	return addrs
}

func attackService(name string, addresses ...string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: &logv1.Service{
		Namespace: "test", Name: name, Delivery: logv1.Delivery_DELIVERY_HOST, Addresses: addresses,
		IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, IpFamilies: []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4},
		ExternalTrafficPolicy: logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_CLUSTER,
		Ports:                 []*logv1.Port{{Name: "http", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}},
	}}}
}
