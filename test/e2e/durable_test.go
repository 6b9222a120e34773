package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// ledger is a pool that nobody announces: its services cost no frames.
const ledger = `
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: ledger}
spec:
  addresses: [10.99.0.0/16]
`

func ledgerService(name string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: &logv1.Service{
		Namespace: "ledger", Name: name, Pool: "ledger",
		Ports:          []*logv1.Port{{Name: "x", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}},
		IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, IpFamilies: []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4},
		ExternalTrafficPolicy: logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_CLUSTER, Delivery: logv1.Delivery_DELIVERY_NONE,
	}}}
}

// TestAcknowledgedWritesSurvive kills two of three members, again and again, at
// random moments while services are declared one by one.
func TestAcknowledgedWritesSurvive(t *testing.T) {
	s := open(t, scenario.Options{UDPEvery: 50 * time.Millisecond, TCPEvery: 100 * time.Millisecond})
	ctx := t.Context()
	_, err := s.Apply(ctx, ledger)
	ok(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	acked := map[string][]string{} // name: addresses
	writing, stop := context.WithCancel(ctx)
	g, writing := errgroup.WithContext(writing)
	g.Go(func() error {
		for i := 0; writing.Err() == nil; i++ {
			name := fmt.Sprintf("s%06d", i)
			resp, err := declare(writing, s, ledgerService(name))
			if err == nil {
				acked[name] = resp.GetResults()[0].GetAddresses()
			}
		}
		return nil
	})
	for range number(t, "QUORUMLB_E2E_KILLS", 3) {
		ok(t, lab.Wait(ctx, time.Duration(200+random.IntN(600))*time.Millisecond))
		spared := random.IntN(3)
		var victims []*cluster.Node
		for i, m := range s.Members() {
			if i != spared {
				victims = append(victims, m)
			}
		}
		ok(t, scenario.KillMembers(victims...))
		for _, v := range victims {
			ok(t, v.StartMember())
		}
		ok(t, s.WaitMembers(ctx, 20*time.Second))
	}
	ok(t, lab.Wait(ctx, 500*time.Millisecond))
	stop()
	ok(t, g.Wait())

	resp, err := s.Get(ctx, false, "services")
	ok(t, err)
	have := map[string][]string{}
	for _, x := range resp.GetServices() {
		have[x.GetService().GetName()] = x.GetAddresses()
	}
	for name, addrs := range acked {
		if strings.Join(have[name], ",") != strings.Join(addrs, ",") {
			t.Errorf("%s was acknowledged with %v and has %v", name, addrs, have[name])
		}
	}
	if len(acked) < 20 {
		t.Errorf("only %d writes were acknowledged", len(acked))
	}
	t.Logf("%d writes acknowledged, all there", len(acked))
	sameDigests(t, s)
	ok(t, s.WaitAnswered(ctx, 10*time.Second, nil))
}

// declare applies one resource, with any member, trying again when none answers.
func declare(ctx context.Context, s *scenario.Stage, r ...*adminv1.Resource) (resp *adminv1.ApplyResponse, err error) {
	err = s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) (err error) {
		resp, err = a.Apply(ctx, &adminv1.ApplyRequest{Resources: r})
		return err
	})
	return resp, err
}

// sameDigests waits until all members have the same revision and digest. A
// member computes one when nothing has happened for 10 s.
func sameDigests(t *testing.T, s *scenario.Stage) {
	t.Helper()
	ok(t, lab.Poll(t.Context(), 40*time.Second, func(ctx context.Context) error {
		resp, err := s.Get(ctx, false, "members")
		if err != nil {
			return err
		}
		members := resp.GetMembers()
		if len(members) != len(s.Members()) {
			return fmt.Errorf("%d members", len(members))
		}
		for _, m := range members {
			if m.GetRevision() != members[0].GetRevision() || len(m.GetDigest()) == 0 || !bytes.Equal(m.GetDigest(), members[0].GetDigest()) {
				return fmt.Errorf("%s is at %d with %x, %s at %d with %x", m.GetId(), m.GetRevision(), m.GetDigest(),
					members[0].GetId(), members[0].GetRevision(), members[0].GetDigest())
			}
		}
		return nil
	}))
}

// TestRestartOfAllMembers kills all of them with a log of 100,000 events and wants
// them back within seconds, equal, with nothing lost on the wire meanwhile.
func TestRestartOfAllMembers(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	_, err := s.Apply(ctx, ledger)
	ok(t, err)
	const services = 50_000 // each is declared and gets an address: two events
	for first := 0; first < services; first += 500 {
		var list []*adminv1.Resource
		for i := range 500 {
			list = append(list, ledgerService(fmt.Sprintf("s%06d", first+i)))
		}
		_, err := declare(ctx, s, list...)
		ok(t, err)
	}
	before := status(t, s)
	play(t, s, scenario.Event{
		Name: "kill -9 and restart of all members",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			if err := scenario.KillMembers(s.Members()...); err != nil {
				return err
			}
			start := time.Now()
			for _, m := range s.Members() {
				if err := m.StartMember(); err != nil {
					return err
				}
			}
			err := s.WaitMembers(ctx, time.Minute)
			took := time.Since(start).Round(time.Millisecond)
			if t.Logf("ready after %v", took); took > 20*time.Second {
				err = errors.Join(err, fmt.Errorf("ready only after %v", took))
			}
			return errors.Join(err, s.WaitNodes(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
		},
	})
	after := status(t, s)
	if before.GetServices() != services+scenario.ConfigVIPs || after.GetServices() != before.GetServices() ||
		after.GetVips() != before.GetVips() || after.GetRevision() < before.GetRevision() {
		t.Errorf("before: %d services, %d addresses, revision %d; after: %d, %d, %d", before.GetServices(), before.GetVips(),
			before.GetRevision(), after.GetServices(), after.GetVips(), after.GetRevision())
	}
	sameDigests(t, s)
}

func status(t *testing.T, s *scenario.Stage) (resp *adminv1.StatusResponse) {
	t.Helper()
	ok(t, s.Do(t.Context(), func(ctx context.Context, a adminv1.AdminServiceClient) (err error) {
		resp, err = a.Status(ctx, &adminv1.StatusRequest{})
		return err
	}))
	return resp
}

// TestRestoreKeepsLiveOwners reverts to an older state while owners live: intent
// and allocations are the old ones, sessions and owners stay.
func TestRestoreKeepsLiveOwners(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	client := adminClient(t, s)
	backup := save(t, client)
	had, err := s.Get(ctx, false, "services", "nodes")
	ok(t, err)

	_, err = s.Apply(ctx, ledger)
	ok(t, err)
	_, err = declare(ctx, s, ledgerService("late"))
	ok(t, err)

	play(t, s, scenario.Event{
		Name: "restore to an older state",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			stream, err := client.SnapshotRestore(ctx)
			if err != nil {
				return err
			}
			for len(backup) > 0 {
				n := min(len(backup), 64<<10)
				if err := stream.Send(&adminv1.SnapshotRestoreRequest{Chunk: backup[:n]}); err != nil {
					break // CloseAndRecv tells why
				}
				backup = backup[n:]
			}
			if _, err := stream.CloseAndRecv(); err != nil {
				return err
			}
			return errors.Join(s.WaitNodes(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
		},
	})

	has, err := s.Get(ctx, false, "services", "nodes")
	ok(t, err)
	if len(has.GetServices()) != len(had.GetServices()) {
		t.Errorf("%d services after the restore, %d before", len(has.GetServices()), len(had.GetServices()))
	}
	for i, x := range had.GetServices() {
		if got := has.GetServices()[i]; strings.Join(got.GetAddresses(), ",") != strings.Join(x.GetAddresses(), ",") {
			t.Errorf("%s has %v, had %v", x.GetService().GetName(), got.GetAddresses(), x.GetAddresses())
		}
	}
	for i, x := range had.GetNodes() {
		if got := has.GetNodes()[i]; got.GetSession() != x.GetSession() {
			t.Errorf("%s has session %d, had %d", x.GetName(), got.GetSession(), x.GetSession())
		}
	}
	sameDigests(t, s)
}

func adminClient(t *testing.T, s *scenario.Stage) adminv1.AdminServiceClient {
	t.Helper()
	leader, err := s.Leader(t.Context())
	ok(t, err)
	client, err := s.AdminAt(leader)
	ok(t, err)
	return client
}

func save(t *testing.T, client adminv1.AdminServiceClient) (backup []byte) {
	t.Helper()
	backup, err := cluster.SaveSnapshot(t.Context(), client)
	ok(t, err)
	if len(backup) == 0 {
		t.Fatal("an empty backup")
	}
	return backup
}

// TestFullDisks fills first a follower's disk, then the leader's: writes go on.
func TestFullDisks(t *testing.T) {
	s := open(t, scenario.Options{
		Cluster:  cluster.Options{MemberDisk: 64 << 20},
		UDPEvery: 50 * time.Millisecond, TCPEvery: 100 * time.Millisecond,
	})
	ctx := t.Context()
	_, err := s.Apply(ctx, ledger)
	ok(t, err)
	for round, who := range []string{"follower", "leader"} {
		victim, err := s.Leader(ctx)
		ok(t, err)
		if who == "follower" {
			victim = s.Members()[(victim.Number())%len(s.Members())]
		}
		free, err := lab.FillDisk(victim.Disk())
		ok(t, err)
		for i := range 50 {
			_, err := declare(ctx, s, ledgerService(fmt.Sprintf("s%d-%02d", round, i)))
			ok(t, err)
		}
		ok(t, free())
		if !victim.Member().Running() {
			t.Logf("the %s ended, which it may", who)
			ok(t, victim.StartMember())
		}
		ok(t, s.WaitMembers(ctx, 20*time.Second))
		sameDigests(t, s)
	}
	ok(t, s.WaitAnswered(ctx, 10*time.Second, nil))
}
