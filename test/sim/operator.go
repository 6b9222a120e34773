package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// firstTimes are the lease times of a new group. The settle time is short, so that
// a schedule need not be long.
var firstTimes = fsm.LeaseTimes{Detection: 750 * time.Millisecond, Heartbeat: 150 * time.Millisecond, Settle: 1500 * time.Millisecond}

// operator declares and deletes, moves and drains, and remembers what it was told.
type operator struct {
	w *World

	mu       sync.Mutex
	attempts []attempt
	marks    int
	// old is a state to restore.
	old *fsm.State
}

// attempt is a declaration with a mark that no other has.
type attempt struct {
	mark string
	rev  uint64
	err  error
}

// submit has a command decided by whoever leads. It is tried elsewhere only while
// it is certain that nothing was done.
func (o *operator) submit(ctx context.Context, first int, cmd decider.Command) (decider.Result, error) {
	err := errors.New("no member runs")
	for i := first; ctx.Err() == nil; i++ {
		m := o.w.members[i%maxMembers]
		o.w.mu.Lock()
		b := m.brain
		if b != nil && b.p.stalled() > 0 {
			b = nil
		}
		o.w.mu.Unlock()
		if b != nil {
			var r decider.Result
			if r, err = b.decider.Submit(ctx, cmd); !errors.Is(err, decider.ErrNotLeader) && !errors.Is(err, decider.ErrNotFounded) {
				return r, err
			}
		}
		if i%maxMembers == maxMembers-1 {
			_ = pause(ctx, 20*time.Millisecond)
		}
	}
	return decider.Result{}, err
}

// declare declares a service with a mark of its own.
func (o *operator) declare(ctx context.Context, rng *rand.Rand, svc *logv1.Service, more ...*adminv1.Resource) error {
	o.mu.Lock()
	o.marks++
	mark := fmt.Sprintf("mark-%d", o.marks)
	o.mu.Unlock()
	labels := maps.Clone(svc.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels["mark"] = mark
	svc.Labels = labels
	cmd := &decider.Apply{Actor: "admin:sim", Resources: append(more, &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: svc}})}
	r, err := o.submit(ctx, rng.IntN(maxMembers), cmd)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attempts = append(o.attempts, attempt{mark, r.Revision, err})
	return err
}

func pool(name, addresses string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: name, Addresses: []string{addresses}}}}
}

func ad(name, pool string, loss logv1.ControlLoss, placement logv1.Placement) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_L2Advertisement{L2Advertisement: &logv1.L2Advertisement{
		Name: name, IpAddressPools: []string{pool}, OnControlLoss: loss, Placement: placement,
	}}}
}

// service number i: those with an even number are of the pool under Hold.
func service(i int) *logv1.Service {
	s := &logv1.Service{Namespace: "sim", Name: fmt.Sprintf("s%d", i), Pool: "hold", Ports: []*logv1.Port{{Protocol: logv1.Protocol_PROTOCOL_TCP, Port: uint32(80 + i)}}}
	if i%2 == 1 {
		s.Pool = "release"
	}
	return s
}

// services is how many there may be.
const services = 8

const (
	holdLoss    = logv1.ControlLoss_CONTROL_LOSS_HOLD
	releaseLoss = logv1.ControlLoss_CONTROL_LOSS_RELEASE
	sticky      = logv1.Placement_PLACEMENT_STICKY
)

// setUp declares what there is at first, for as long as it takes.
func (o *operator) setUp(ctx context.Context, rng *rand.Rand) {
	more := []*adminv1.Resource{
		pool("hold", "10.0.0.0/28"), pool("release", "10.0.1.0/28"),
		ad("hold", "hold", holdLoss, sticky), ad("release", "release", releaseLoss, sticky),
	}
	n := 3 + rng.IntN(3)
	for i := 0; i < n && ctx.Err() == nil; {
		if o.declare(ctx, rng, service(i), more...) == nil {
			i, more = i+1, nil
		} else {
			_ = pause(ctx, 20*time.Millisecond)
		}
	}
}

// order is something that an operator does, drawn from rng when the schedule is made.
func (o *operator) order(rng *rand.Rand) (name string, do func(ctx context.Context)) {
	at, node, addr := rng.IntN(maxMembers), nodeName(rng.IntN(o.w.nodes)), address(rng)
	send := func(name string, cmd decider.Command) (string, func(context.Context)) {
		return name, func(ctx context.Context) { _, _ = o.submit(ctx, at, cmd) }
	}
	switch rng.IntN(25 + poolOrders) {
	case 0, 1, 2:
		svc := service(rng.IntN(services))
		switch rng.IntN(4) {
		case 0:
			svc.SharingKey = "key"
		case 1:
			svc.Addresses = []string{addr.String()}
		case 2:
			svc.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
			svc.PreferredNode = node
		}
		return "declare " + svc.Name, func(ctx context.Context) { _ = o.declare(ctx, rng, svc) }
	case 3, 4:
		svc := service(rng.IntN(services))
		if rng.IntN(4) == 0 {
			svc.Namespace = "other"
		}
		return send("delete "+svc.GetName(), &decider.Delete{Actor: "admin:sim", Names: []*adminv1.ResourceName{{Kind: decider.KindService, Namespace: svc.GetNamespace(), Name: svc.GetName()}}})
	case 5, 6, 7, 8:
		return send(fmt.Sprintf("move %v", addr), &decider.Move{Address: addr, Actor: "admin:sim"})
	case 9:
		grace := time.Duration(at) * 3 * time.Second
		return send(fmt.Sprintf("drain %s, grace %v", node, grace), &decider.Drain{Node: node, Grace: grace, Actor: "admin:sim"})
	case 10, 11:
		return send("undrain "+node, &decider.Undrain{Node: node, Actor: "admin:sim"})
	case 12, 13:
		t := leaseTimes[rng.IntN(len(leaseTimes))]
		return send(fmt.Sprintf("lease times %v", t), &decider.SetLeaseTimes{Times: t, Actor: "admin:sim"})
	case 14:
		return o.policy(rng, at)
	case 15:
		cmd := &decider.Apply{Actor: "admin:sim", Force: rng.IntN(2) == 0, Resources: []*adminv1.Resource{pool("hold", fmt.Sprintf("10.0.0.0/%d", 27+rng.IntN(4)))}}
		return send("resize a pool", cmd)
	case 16:
		return send("forget "+node, &decider.ForgetNode{Node: node, Actor: "admin:sim"})
	case 17:
		return "save", func(context.Context) { o.save() }
	case 18:
		return "restore", func(ctx context.Context) { o.restore(ctx, at) }
	case 19:
		return send("retention", &decider.SetRetention{Retention: time.Duration(rng.IntN(3)) * time.Second, Actor: "admin:sim"})
	case 21:
		return send("rebalance", &decider.Rebalance{PerMinute: fsm.MaxRebalancePerMinute, Stop: rng.IntN(4) == 0, Actor: "admin:sim"})
	case 22:
		cmd := &decider.EndpointsObserved{Service: fsm.KeyOf("sim", service(rng.IntN(services)).GetName()), Ready: []string{node}, Actor: "admin:sim"}
		if rng.IntN(2) == 0 {
			cmd.Ready, cmd.Terminating = nil, cmd.Ready
		}
		if at == 0 {
			cmd.Ready, cmd.Terminating = nil, nil
			return send("no endpoints", cmd)
		}
		return send("endpoints on "+node, cmd)
	case 20:
		return "announcing fails", func(ctx context.Context) { o.failToAnnounce(ctx, at, addr) }
	case 23, 24:
		return "hand over", func(context.Context) { o.handOver(rng.IntN(maxMembers)) }
	default:
		return o.poolOrder(rng)
	}
}

func (o *operator) policy(rng *rand.Rand, at int) (string, func(ctx context.Context)) {
	name := []string{"hold", "release"}[rng.IntN(2)]
	loss := []logv1.ControlLoss{holdLoss, releaseLoss}[rng.IntN(2)]
	placement := []logv1.Placement{sticky, logv1.Placement_PLACEMENT_IDEAL}[rng.IntN(2)]
	return fmt.Sprintf("%s becomes %v %v", name, loss, placement), func(ctx context.Context) {
		_, _ = o.submit(ctx, at, &decider.Apply{Actor: "admin:sim", Resources: []*adminv1.Resource{ad(name, name, loss, placement)}})
	}
}

var leaseTimes = func() (out []fsm.LeaseTimes) {
	for _, ms := range []time.Duration{750, 250, 1500} {
		t := firstTimes
		t.Detection, t.Heartbeat = ms*time.Millisecond, ms*time.Millisecond/5
		out = append(out, t)
	}
	return out
}()

func address(rng *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(2)), byte(rng.IntN(4))})
}

// save keeps the state of whichever member runs, as a backup.
func (o *operator) save() {
	for _, m := range o.w.members {
		o.w.mu.Lock()
		b := m.brain
		o.w.mu.Unlock()
		if b == nil {
			continue
		}
		b.Read(func(s *fsm.State) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if s.ClusterID != [16]byte{} {
				o.old = s.Clone()
			}
		})
		return
	}
}

func (o *operator) restore(ctx context.Context, at int) {
	o.mu.Lock()
	old := o.old
	o.mu.Unlock()
	if old != nil {
		_, _ = o.submit(ctx, at, &decider.RestoreTo{Older: old, Actor: "admin:sim"})
	}
}

// failToAnnounce reports of an owner that it cannot announce.
func (o *operator) failToAnnounce(ctx context.Context, at int, addr netip.Addr) {
	o.w.check.histMu.Lock()
	now := o.w.check.history[len(o.w.check.history)-1].owners[addr]
	o.w.check.histMu.Unlock()
	if now.node != "" {
		_, _ = o.submit(ctx, at, &decider.AnnounceFailed{Node: now.node, Address: addr, Epoch: now.epoch, Reason: "sim"})
	}
}

func (o *operator) handOver(to int) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if l := o.w.leader(); l != nil {
		l.handOver(to)
	}
}

// acknowledged holds what the operator was told against the log.
func (c *checker) acknowledged(o *operator) {
	c.histMu.Lock()
	defer c.histMu.Unlock()
	at := make(map[string]uint64)
	for rev, r := range c.history {
		restores := false
		for _, ev := range r.batch.GetEvents() {
			restores = restores || ev.GetRestoreBegun() != nil
			mark := ev.GetServiceDeclared().GetService().GetLabels()["mark"]
			if mark == "" {
				continue
			}
			if first, twice := at[mark]; twice && !restores {
				c.fail("%s is in the log at %d and %d", mark, first, rev)
			} else if !twice {
				at[mark] = uint64(rev)
			}
		}
	}
	for _, a := range o.attempts {
		rev, is := at[a.mark]
		switch {
		case a.err == nil && rev != a.rev:
			c.fail("%s was acknowledged at %d and is in the log at %d (%v)", a.mark, a.rev, rev, is)
		case a.err == nil:
			c.w.Stats.Acked++
		case errors.Is(a.err, decider.ErrUnknownOutcome):
			c.w.Stats.Unknown++
		case is:
			c.fail("%s is said not to be done (%v) and is in the log at %d", a.mark, a.err, rev)
		default:
			c.w.Stats.Refused++
		}
	}
}

// describe writes a batch in one line.
func describe(b *logv1.Batch) string {
	var parts []string
	for _, ev := range b.GetEvents() {
		s := fsm.EventName(ev)
		switch f := ev.GetFact().(type) {
		case *logv1.Event_OwnerReleased:
			s += fmt.Sprintf("(%v %s %v)", addrOf(f.OwnerReleased.GetAddress()), f.OwnerReleased.GetNode(), f.OwnerReleased.GetReason())
		case *logv1.Event_OwnerAssigned:
			s += fmt.Sprintf("(%v %s %v)", addrOf(f.OwnerAssigned.GetAddress()), f.OwnerAssigned.GetNode(), f.OwnerAssigned.GetReason())
		case *logv1.Event_AddressAllocated:
			s += fmt.Sprintf("(%v %s)", addrOf(f.AddressAllocated.GetAddress()), f.AddressAllocated.GetName())
		case *logv1.Event_AddressReleased:
			s += fmt.Sprintf("(%v %s)", addrOf(f.AddressReleased.GetAddress()), f.AddressReleased.GetName())
		case *logv1.Event_ServiceDeclared:
			s += "(" + f.ServiceDeclared.GetService().GetName() + ")"
		case *logv1.Event_ServiceDeleted:
			s += "(" + f.ServiceDeleted.GetName() + ")"
		case *logv1.Event_SessionOpened:
			s += fmt.Sprintf("(%s %d)", f.SessionOpened.GetNode(), f.SessionOpened.GetIncarnation())
		case *logv1.Event_SessionExpired:
			s += "(" + f.SessionExpired.GetNode() + ")"
		case *logv1.Event_SessionClosed:
			s += "(" + f.SessionClosed.GetNode() + ")"
		case *logv1.Event_NodeDrained:
			s += "(" + f.NodeDrained.GetNode() + ")"
		case *logv1.Event_NodeUndrained:
			s += "(" + f.NodeUndrained.GetNode() + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func addrOf(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a }
