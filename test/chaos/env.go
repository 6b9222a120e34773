package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// Env is what a fault has at hand: a running cluster with its audience and operators.
type Env struct {
	*scenario.Stage
	keeper    *keeper
	history   *history
	chronicle *chronicle
	ears      *ears
	vitals    vitals
	holds     holds
	// machine probes the client's own address: no fault is between the two, so what it
	// misses is this machine's doing. The stage's control probe crosses the segment.
	machine *lab.UDPProbe

	moves, movesRefused atomic.Int64

	mu      sync.Mutex
	closers []func() error
}

func (e *Env) onClose(fn func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closers = append(e.closers, fn)
}

// Close ends the operators' connections and removes the lab.
func (e *Env) Close() error {
	for _, fn := range e.closers {
		_ = fn()
	}
	return e.Stage.Close()
}

// config has two pools of each family: addresses under Hold and under Release, and one
// that nobody announces, for operators to fight about.
func config() string {
	var b strings.Builder
	for _, p := range []struct{ name, v4, v6 string }{
		{"hold", "192.0.2.100-192.0.2.119", "2001:db8:1::100-2001:db8:1::11f"},
		{"release", "192.0.2.120-192.0.2.139", "2001:db8:1::120-2001:db8:1::13f"},
	} {
		policy := strings.ToUpper(p.name[:1]) + p.name[1:]
		fmt.Fprintf(&b, "apiVersion: quorumlb.io/v1\nkind: IPAddressPool\nmetadata: {name: %s}\nspec:\n  addresses: [%q, %q]\n---\n", p.name, p.v4, p.v6)
		fmt.Fprintf(&b, "apiVersion: quorumlb.io/v1\nkind: L2Advertisement\nmetadata: {name: %s}\nspec:\n  ipAddressPools: [%s]\n  onControlLoss: %s\n---\n", p.name, p.name, policy)
		for i, family := range []string{"IPv4", "IPv4", "IPv6"} {
			fmt.Fprintf(&b, "apiVersion: quorumlb.io/v1\nkind: VirtualService\nmetadata: {name: %s-%d}\nspec:\n  pool: %s\n"+
				"  ports: [{name: http, protocol: TCP, port: 8080}, {name: echo, protocol: UDP, port: 7007}]\n"+
				"  ipFamilies: [%s]\n  delivery: Host\n---\n", p.name, i, p.name, family)
		}
	}
	b.WriteString("apiVersion: quorumlb.io/v1\nkind: IPAddressPool\nmetadata: {name: ledger}\nspec:\n  addresses: [10.99.0.0/16]\n")
	return b.String()
}

// configVIPs is how many addresses config asks for on the wire.
const configVIPs = 6

// open starts the cluster and its audience.
func open(ctx context.Context, o Options, shape Shape) (*Env, error) {
	bin, err := cluster.BuildWith(ctx, "chaos")
	if err != nil {
		return nil, err
	}
	e := &Env{history: newHistory(), chronicle: newChronicle()}
	e.Stage, err = scenario.Open(ctx, scenario.Options{
		Config: config(), VIPs: configVIPs,
		UDPEvery: 20 * time.Millisecond, TCPEvery: 50 * time.Millisecond, AskEvery: 25 * time.Millisecond,
		Cluster: cluster.Options{
			Nodes: shape.Nodes, Members: shape.Members, Bin: bin, LogLevel: o.LogLevel,
			MemberDisk: 64 << 20, SmallDisk: func(n int) bool { return n == shape.Small },
			MemberEnv: func(n *cluster.Node) []string {
				return []string{"QUORUMLB_CHAOS_DISK=" + sickness(n, filepath.Dir(filepath.Dir(n.StateDir())))}
			},
			Lab: lab.Options{Dir: filepath.Join(o.Dir, "lab")},
		},
	})
	if err != nil {
		if e.Stage != nil {
			err = fmt.Errorf("%w\n%s", err, e.LogTails(20))
			_ = e.Stage.Close()
		}
		return nil, err
	}
	e.keeper = newKeeper(e)
	if e.ears, err = newEars(e.LAN, e.Nodes); err != nil {
		_ = e.Close()
		return nil, err
	}
	// The client asks too: on a split segment the router hears one side only.
	asker, err := e.Client.Ask(cluster.LAN, 50*time.Millisecond)
	if err != nil {
		_ = e.Close()
		return nil, err
	}
	asker.SetAddrs(e.Addrs)
	if _, err := e.Client.StartResponder(); err != nil {
		_ = e.Close()
		return nil, err
	}
	if e.machine, err = e.Client.ProbeUDP(e.Client.Addr(cluster.LAN, false), 20*time.Millisecond); err != nil {
		_ = e.Close()
		return nil, err
	}
	return e, nil
}

// panics looks for daemons that died of a fault of their own.
func (e *Env) panics() (list []string) {
	logs, _ := filepath.Glob(filepath.Join(e.Dir(), "*.log"))
	for _, path := range logs {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "WARNING: DATA RACE") {
				list = append(list, filepath.Base(path)+": "+strings.TrimSpace(line))
			}
		}
	}
	return list
}

// holds are what the faults under way hold.
type holds struct {
	mu    sync.Mutex
	taken [][]Hold
}

// take takes all holds at once, or waits until ctx ends.
func (h *holds) take(ctx context.Context, want []Hold) (free func(), err error) {
	err = lab.Poll(ctx, time.Hour, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, t := range h.taken {
			if collide(t, want) {
				return fmt.Errorf("busy")
			}
		}
		h.taken = append(h.taken, want)
		return nil
	})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for i, t := range h.taken {
			if len(t) > 0 && len(want) > 0 && &t[0] == &want[0] {
				h.taken = append(h.taken[:i], h.taken[i+1:]...)
				return
			}
		}
	}, err
}
