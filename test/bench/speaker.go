package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

const (
	floodFor   = 3 * time.Second
	observeFor = 10 * time.Second
	manyVIPs   = 1000
)

// benchARP measures answers per second beside the kernel's own responder on
// the same host.
func benchARP(ctx context.Context, r *recorder) error {
	r.clear()
	s, remove, err := openStage(ctx, r.o, "arp", quiet(scenario.Options{Cluster: cluster.Options{SpeakerArgs: profileArgs(r)}}))
	if err != nil {
		return err
	}
	defer remove()
	owners, err := s.Owners(ctx)
	if err != nil {
		return err
	}
	var vip netip.Addr
	for _, a := range s.Addrs {
		if a.Is4() {
			vip = a
		}
	}
	n := s.Node(owners[vip.String()])
	mac := n.Host.MAC(cluster.LAN)
	kernel, err := s.Router.FloodARP(ctx, cluster.LAN, mac, n.Host.Addr(cluster.LAN, false), floodFor)
	if err != nil {
		return err
	}
	stop := startProfile(ctx, r, n, "speaker", "speaker", floodFor)
	ours, err := s.Router.FloodARP(ctx, cluster.LAN, mac, vip, floodFor)
	if err != nil {
		return err
	}
	stop()
	return r.add(map[string]float64{"ours": ours, "kernel": kernel})
}

// benchFootprint measures what daemons cost while nothing happens.
func benchFootprint(ctx context.Context, r *recorder) error {
	r.clear()
	s, remove, err := openStage(ctx, r.o, "footprint", quiet(scenario.Options{
		Cluster: cluster.Options{MemberArgs: profileArgs(r), SpeakerArgs: profileArgs(r)},
	}))
	if err != nil {
		return err
	}
	defer remove()
	leader, err := s.Leader(ctx)
	if err != nil {
		return err
	}
	n := s.Nodes[len(s.Nodes)-1]
	stop := startProfile(ctx, r, leader, "member", "idle-leader", observeFor)
	idle, err := observe(ctx, n.Speaker(), leader.Member())
	if err != nil {
		return err
	}
	stop()
	if err := giveAllTo(ctx, s, n); err != nil {
		return err
	}
	// The announcements after a takeover go on for 10 s.
	if err := lab.Wait(ctx, 12*time.Second); err != nil {
		return err
	}
	stop = startProfile(ctx, r, n, "speaker", "speaker", observeFor)
	many, err := observe(ctx, n.Speaker(), leader.Member())
	if err != nil {
		return err
	}
	stop()
	return r.add(map[string]float64{
		"speaker-cpu": idle[0].cpu, "speaker-rss": float64(idle[0].rss), "leader-cpu": idle[1].cpu, "leader-rss": float64(idle[1].rss),
		"many-cpu": many[0].cpu, "many-rss": float64(many[0].rss), "many-private": float64(many[0].private),
	})
}

// giveAllTo drains the other nodes and declares services until n owns many addresses.
func giveAllTo(ctx context.Context, s *scenario.Stage, n *cluster.Node) error {
	for _, other := range s.Nodes {
		if other == n {
			continue
		}
		err := s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
			_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: other.Name})
			return err
		})
		if err != nil {
			return err
		}
	}
	doc := &strings.Builder{}
	doc.WriteString("apiVersion: quorumlb.io/v1\nkind: IPAddressPool\nmetadata: {name: many}\nspec:\n  addresses: [10.50.0.0/20]\n" +
		"---\napiVersion: quorumlb.io/v1\nkind: L2Advertisement\nmetadata: {name: many}\nspec:\n  ipAddressPools: [many]\n")
	want := manyVIPs - scenario.ConfigVIPs
	for i := range want {
		fmt.Fprintf(doc, "---\napiVersion: quorumlb.io/v1\nkind: VirtualService\nmetadata: {name: many-%d}\nspec:\n"+
			"  pool: many\n  ports: [{port: 80}]\n  delivery: Host\n", i)
	}
	if _, err := s.Apply(ctx, doc.String()); err != nil {
		return err
	}
	return lab.Poll(ctx, 60*time.Second, func(ctx context.Context) error {
		_, err := s.WaitAnnounced(ctx, manyVIPs, time.Second)
		return err
	})
}

// cost of a process.
type cost struct {
	cpu float64 // percent of one core
	rss int64   // bytes
	// private is rss without what the program's file holds anyway.
	private int64
}

// observe measures processes over some seconds.
func observe(ctx context.Context, procs ...*lab.Process) ([]cost, error) {
	before := make([]time.Duration, len(procs))
	var errs []error
	for i, p := range procs {
		var err error
		before[i], err = cpuTime(p.PID())
		errs = append(errs, err)
	}
	start := time.Now()
	if err := lab.Wait(ctx, observeFor); err != nil {
		return nil, err
	}
	out := make([]cost, len(procs))
	for i, p := range procs {
		now, err1 := cpuTime(p.PID())
		rss, err2 := memory(p.PID(), "VmRSS")
		private, err3 := memory(p.PID(), "RssAnon")
		errs = append(errs, err1, err2, err3)
		out[i] = cost{cpu: 100 * float64(now-before[i]) / float64(time.Since(start)), rss: rss, private: private}
	}
	return out, errors.Join(errs...)
}

// cpuTime is what the process has used, user and system, in nanoseconds from
// the scheduler (the clock ticks of /proc/PID/stat are too coarse).
func cpuTime(pid int) (total time.Duration, err error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(raw))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// memory is a field of the process's status: VmRSS is its resident set, RssAnon what
// of it is no file's.
func memory(pid int, field string) (int64, error) {
	words := strings.Fields(fieldOf(fmt.Sprintf("/proc/%d/status", pid), field))
	if len(words) == 0 {
		return 0, fmt.Errorf("process %d has no %s", pid, field)
	}
	kb, err := strconv.ParseInt(words[0], 10, 64)
	return kb << 10, err
}

// benchSpurious keeps every core busy and counts who is expired.
func benchSpurious(ctx context.Context, r *recorder) error {
	r.clear()
	s, remove, err := openStage(ctx, r.o, "spurious", quiet(scenario.Options{}))
	if err != nil {
		return err
	}
	defer remove()
	stop, err := s.Admin.Burn(1)
	if err != nil {
		return err
	}
	defer stop()
	if err := lab.Wait(ctx, r.o.spurious); err != nil {
		return err
	}
	facts, err := s.Facts(ctx, 0)
	if err != nil {
		return err
	}
	expired := 0
	for _, f := range facts {
		if f.GetEvent().GetSessionExpired() != nil {
			expired++
		}
	}
	return r.add(map[string]float64{"expired": float64(expired), "busy": r.o.spurious.Seconds()})
}
