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
func benchARP(ctx context.Context, o options, r *report) error {
	s, remove, err := openStage(ctx, o, "arp", quiet(scenario.Options{}))
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
	ours, err := s.Router.FloodARP(ctx, cluster.LAN, mac, vip, floodFor)
	if err != nil {
		return err
	}
	r.add(row{what: "ARP replies, 64 questions under way", ours: perSecond(ours), peer: "the kernel's own responder: " + perSecond(kernel)})
	return nil
}

// quiet makes the audience cost little.
func quiet(opts scenario.Options) scenario.Options {
	opts.UDPEvery, opts.TCPEvery, opts.AskEvery = time.Second, time.Second, time.Second
	return opts
}

// benchFootprint measures what daemons cost while nothing happens.
func benchFootprint(ctx context.Context, o options, r *report) error {
	s, remove, err := openStage(ctx, o, "footprint", quiet(scenario.Options{}))
	if err != nil {
		return err
	}
	defer remove()
	leader, err := s.Leader(ctx)
	if err != nil {
		return err
	}
	n := s.Nodes[len(s.Nodes)-1]
	idle, err := observe(ctx, n.Speaker(), leader.Member())
	if err != nil {
		return err
	}
	r.add(row{
		what: "heartbeats of one speaker at the default profile, CPU of the speaker",
		ours: fmt.Sprintf("%.2f %% of a core", idle[0].cpu),
	})
	r.add(row{
		what: fmt.Sprintf("leader with %d speakers and nothing to decide, CPU / memory", len(s.Nodes)),
		ours: fmt.Sprintf("%.2f %% of a core / %d MB", idle[1].cpu, idle[1].rss>>20),
	})
	if err := giveAllTo(ctx, s, n); err != nil {
		return err
	}
	// The announcements after a takeover go on for 10 s.
	if err := lab.Wait(ctx, 12*time.Second); err != nil {
		return err
	}
	many, err := observe(ctx, n.Speaker())
	if err != nil {
		return err
	}
	r.add(row{
		what: fmt.Sprintf("speaker that owns %d addresses, memory / CPU", manyVIPs),
		ours: fmt.Sprintf("%d MB / %.2f %% of a core", many[0].rss>>20, many[0].cpu),
		aim:  "below 30 MB", met: many[0].rss < 30<<20,
	})
	return nil
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
		rss, err2 := memory(p.PID())
		errs = append(errs, err1, err2)
		out[i] = cost{cpu: 100 * float64(now-before[i]) / float64(time.Since(start)), rss: rss}
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

// memory is the process's resident set.
func memory(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

// benchSpurious keeps every core busy and counts who is expired.
func benchSpurious(ctx context.Context, o options, r *report) error {
	s, remove, err := openStage(ctx, o, "spurious", quiet(scenario.Options{}))
	if err != nil {
		return err
	}
	defer remove()
	stop, err := s.Admin.Burn(1)
	if err != nil {
		return err
	}
	defer stop()
	if err := lab.Wait(ctx, o.spurious); err != nil {
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
	r.add(row{
		what: fmt.Sprintf("nodes expired in %v with every core busy", o.spurious), ours: strconv.Itoa(expired),
		aim: "none", met: expired == 0,
	})
	return nil
}
