package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// swarmRig is three real members and the process that is all their speakers.
type swarmRig struct {
	*cluster.Cluster
	proc   *lab.Process
	remove func()
}

// openSwarm starts the members and the speakers, each with so many watches, and
// waits until all are confirmed and watch.
func openSwarm(ctx context.Context, r *recorder, watches int) (rig *swarmRig, err error) {
	dir, err := runDir(r.o, r.Part)
	if err != nil {
		return nil, err
	}
	rig = &swarmRig{}
	rig.remove = func() {
		if rig.Cluster != nil {
			_ = rig.Close()
		}
		_ = os.RemoveAll(dir)
	}
	if err := rig.open(ctx, r, dir, watches); err != nil {
		rig.remove()
		return nil, err
	}
	return rig, nil
}

func (rig *swarmRig) open(ctx context.Context, r *recorder, dir string, watches int) (err error) {
	rig.Cluster, err = cluster.New(ctx, cluster.Options{
		Nodes: 3, LogLevel: "warn", Lab: lab.Options{Dir: dir}, MemberArgs: profileArgs(r),
	})
	if err != nil {
		return err
	}
	for _, n := range rig.Nodes {
		if err := n.StartMember(); err != nil {
			return err
		}
	}
	if err := rig.WaitMembers(ctx, 20*time.Second); err != nil {
		return err
	}
	if _, err := rig.Apply(ctx, ledgerPool+fanAdvertisement); err != nil {
		return err
	}
	cfg := swarmConfig{Watches: watches}
	for _, n := range rig.Nodes {
		cfg.Members = append(cfg.Members, n.MemberAddr())
	}
	if cfg.Admin, err = rig.Identity(pki.KindAdmin, "swarm"); err != nil {
		return err
	}
	for i := range r.o.speakers {
		node := fmt.Sprintf("s%04d", i+1)
		files, err := rig.Identity(pki.KindSpeaker, node)
		if err != nil {
			return err
		}
		cfg.Speakers = append(cfg.Speakers, swarmSpeaker{Node: node, Files: files})
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "swarm.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return err
	}
	start := time.Now()
	if rig.proc, err = rig.Admin.StartRole("swarm", swarmRole, path); err != nil {
		return err
	}
	if err := rig.waitSwarm(ctx, r.o.speakers, watches); err != nil {
		return err
	}
	r.say("%d speakers confirmed and watching after %v", r.o.speakers, time.Since(start).Round(time.Millisecond))
	r.Samples["joined"] = []float64{time.Since(start).Seconds()}
	return nil
}

const fanAdvertisement = `
---
apiVersion: quorumlb.io/v1
kind: L2Advertisement
metadata: {name: ledger}
spec:
  ipAddressPools: [ledger]
`

// waitSwarm waits until all speakers are well.
func (rig *swarmRig) waitSwarm(ctx context.Context, speakers, watches int) error {
	return lab.Poll(ctx, 2*time.Minute, func(ctx context.Context) error {
		if !rig.proc.Running() {
			return rig.proc.Wait(ctx)
		}
		st, err := rig.state(ctx)
		if err != nil {
			return err
		}
		if st.Confirmed != speakers || st.Watching != speakers*watches {
			return fmt.Errorf("%d of %d confirmed, %d of %d watches, %d sessions opened again; %s", st.Confirmed, speakers, st.Watching, speakers*watches, st.Reopened, st.FirstFailure)
		}
		return nil
	})
}

func (rig *swarmRig) state(ctx context.Context) (st swarmState, err error) {
	err = rig.ask(ctx, http.MethodGet, "/state", &st)
	return st, err
}

func (rig *swarmRig) ask(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+swarmHTTP+path, nil)
	if err != nil {
		return err
	}
	client := rig.Admin.HTTP()
	client.Timeout = roundPatience + 5*time.Second
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("swarm: %s", text)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// members are the leader's process first, then those of the others.
func (rig *swarmRig) processes(ctx context.Context) (leader *cluster.Node, procs []*lab.Process, err error) {
	if leader, err = rig.Leader(ctx); err != nil {
		return nil, nil, err
	}
	procs = append(procs, leader.Member())
	for _, n := range rig.Members() {
		if n != leader {
			procs = append(procs, n.Member())
		}
	}
	return leader, append(procs, rig.proc), nil
}

// benchLeases measures what many speakers cost while nothing happens.
func benchLeases(ctx context.Context, r *recorder) error {
	r.clear()
	rig, err := openSwarm(ctx, r, 2)
	if err != nil {
		return err
	}
	defer rig.remove()
	// What the sessions' opening has left to do is done by then.
	if err := lab.Wait(ctx, 5*time.Second); err != nil {
		return err
	}
	leader, procs, err := rig.processes(ctx)
	if err != nil {
		return err
	}
	before, err := rig.state(ctx)
	if err != nil {
		return err
	}
	stop := startProfile(ctx, r, leader, "member", "leader", observeFor)
	start := time.Now()
	costs, err := observe(ctx, procs...)
	if err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	after, err := rig.state(ctx)
	if err != nil {
		return err
	}
	stop()
	for i, name := range []string{"leader", "follower", "follower", "swarm"} {
		r.Samples[name+"-cpu"] = append(r.Samples[name+"-cpu"], costs[i].cpu)
		r.Samples[name+"-rss"] = append(r.Samples[name+"-rss"], float64(costs[i].rss))
	}
	r.Samples["heartbeats"] = []float64{float64(after.Heartbeats-before.Heartbeats) / took}
	r.Samples["bytes-up"] = []float64{float64(after.BeatsOut-before.BeatsOut) / took}
	r.Samples["bytes-down"] = []float64{float64(after.BeatsIn-before.BeatsIn) / took}
	r.Samples["ack"] = after.Latencies
	r.Samples["unconfirmed"] = []float64{float64(r.o.speakers - after.Confirmed)}
	r.Samples["broken"] = []float64{float64(after.Broken - before.Broken)}
	r.Samples["reopened"] = []float64{float64(after.Reopened - before.Reopened)}
	r.Samples["speakers"] = []float64{float64(r.o.speakers)}
	return r.save()
}

// fanRounds is how many rounds make one sample of CPU time.
const fanRounds = 25

// benchFanout measures how long a change takes to every node.
func benchFanout(ctx context.Context, r *recorder) error {
	r.clear()
	if err := ourFanout(ctx, r); err != nil {
		return err
	}
	if err := etcdFanout(ctx, r); err != nil {
		r.say("etcd: %v", err)
	}
	return nil
}

func ourFanout(ctx context.Context, r *recorder) error {
	rig, err := openSwarm(ctx, r, 1)
	if err != nil {
		return err
	}
	defer rig.remove()
	if err := lab.Wait(ctx, 5*time.Second); err != nil {
		return err
	}
	leader, procs, err := rig.processes(ctx)
	if err != nil {
		return err
	}
	idle, err := observe(ctx, procs[:3]...)
	if err != nil {
		return err
	}
	r.Samples["speakers"] = []float64{float64(r.o.speakers)}
	stop := startProfile(ctx, r, leader, "member", "leader", 10*time.Second)
	defer stop()
	host := false
	for range r.o.repeats {
		busy, err := spend(procs[:3], func() error {
			for range fanRounds {
				host = !host
				if err := rig.fanRound(ctx, r, host); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		var cpu float64
		for i := range busy.used {
			cpu += busy.used[i].Seconds() - idle[i].cpu/100*busy.took.Seconds()
		}
		if err := r.add(map[string]float64{"members-cpu": cpu / fanRounds}); err != nil {
			return err
		}
	}
	return nil
}

func (rig *swarmRig) fanRound(ctx context.Context, r *recorder, host bool) error {
	path := "/round?deliver=none"
	if host {
		path = "/round?deliver=host"
	}
	var out swarmRound
	if err := rig.ask(ctx, http.MethodPost, path, &out); err != nil {
		return err
	}
	// The first of them may have it before the call is answered.
	for kind, v := range map[string]float64{
		"answered": out.Answered, "last": out.Last, "after-commit": max(0, out.Last-out.Answered), "bytes": float64(out.Bytes),
	} {
		r.Samples[kind] = append(r.Samples[kind], v)
	}
	return nil
}

// spent is what processes used while something was done.
type spent struct {
	used []time.Duration
	took time.Duration
}

func spend(procs []*lab.Process, do func() error) (s spent, err error) {
	start, before := time.Now(), make([]time.Duration, len(procs))
	for i, p := range procs {
		if before[i], err = cpuTime(p.PID()); err != nil {
			return s, err
		}
	}
	err = do()
	s.took = time.Since(start)
	for i, p := range procs {
		now, cerr := cpuTime(p.PID())
		err = errors.Join(err, cerr)
		s.used = append(s.used, now-before[i])
	}
	return s, err
}
