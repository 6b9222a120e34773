package chaos

import (
	"net/netip"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

var (
	began  = time.Unix(1000, 0)
	aAddr  = netip.MustParseAddr("192.0.2.100")
	macOf  = map[string]lab.MAC{"n1": {1}, "n2": {2}}
	nodeOf = map[lab.MAC]string{{1}: "n1", {2}: "n2"}
)

func ms(n int) time.Time { return began.Add(time.Duration(n) * time.Millisecond) }

// claims makes one claim of the node every 10 ms.
func claims(node string, from, to int) (list []lab.Claim) {
	for ; from < to; from += 10 {
		list = append(list, lab.Claim{At: ms(from), Addr: aAddr, MAC: macOf[node], Kind: lab.ARPReply})
	}
	return list
}

// TestJudge has n1 own the address from 0, and n2 from 1000 ms on.
func TestJudge(t *testing.T) {
	moved := []Change{{At: ms(0), Node: "n1"}, {At: ms(1000), Node: "n2"}}
	expired := []Expiry{{At: ms(1000), Node: "n1"}}
	for _, tt := range []struct {
		name     string
		claims   []lab.Claim
		changes  []Change
		hold     bool
		expiries []Expiry
		heard    int // when n1's line carries n2's claim; 0: never
		noise    time.Duration
		deposed  bool
		bad      bool
	}{
		{name: "one after the other", claims: claims("n1", 0, 1000)},
		{name: "a frame's flight", claims: claims("n1", 0, 1020)},
		{name: "frames in hand", claims: append(claims("n1", 0, 1000), claims("n1", 1700, 1720)...)},
		{name: "goes on", claims: claims("n1", 0, 1100), bad: true},
		{name: "goes on while the machine stands still", claims: claims("n1", 0, 1100), noise: 100 * time.Millisecond},
		{name: "expired, Release", claims: claims("n1", 0, 1100), expiries: expired, bad: true},
		{name: "expired, Hold, deaf", claims: claims("n1", 0, 3000), hold: true, expiries: expired},
		{name: "expired, Hold, yields", claims: claims("n1", 0, 2090), hold: true, expiries: expired, heard: 2000},
		{name: "expired, Hold, does not yield", claims: claims("n1", 0, 2300), hold: true, expiries: expired, heard: 2000, bad: true},
		{name: "expired by the next leader, Hold", claims: claims("n1", 0, 2090), hold: true, expiries: expired, heard: 1200, deposed: true},
		{name: "moved, Hold", claims: claims("n1", 0, 1100), hold: true, bad: true},
		{
			name: "moved without its word, Hold, yields", claims: claims("n1", 0, 2090), hold: true, heard: 2000,
			changes: []Change{{At: ms(0), Node: "n1"}, {At: ms(300), Node: "n1", Lost: true}, {At: ms(1000), Node: "n2"}},
		},
		{
			name: "moved without its word, Hold, does not yield", claims: claims("n1", 0, 2300), hold: true, heard: 2000, bad: true,
			changes: []Change{{At: ms(0), Node: "n1"}, {At: ms(300), Node: "n1", Lost: true}, {At: ms(1000), Node: "n2"}},
		},
		{
			name: "moved without its word, Release", claims: claims("n1", 0, 1100), bad: true,
			changes: []Change{{At: ms(0), Node: "n1"}, {At: ms(300), Node: "n1", Lost: true}, {At: ms(1000), Node: "n2"}},
		},
		{
			name: "moved with its word, Hold", claims: claims("n1", 0, 1100), hold: true, bad: true,
			changes: []Change{{At: ms(0), Node: "n1"}, {At: ms(900), Node: "n1", Lost: true}, {At: ms(1000), Node: "n2"}},
		},
		{name: "never had it", claims: claims("n1", 0, 100), changes: []Change{{At: ms(0), Node: "n2"}}, bad: true},
		{
			name: "got it back", claims: claims("n1", 2000, 2500),
			changes: append(moved[:2:2], Change{At: ms(1500), Node: "n2", Lost: true}, Change{At: ms(1900), Node: "n1"}),
		},
		{
			name: "taken, given to nobody", claims: claims("n1", 0, 1500),
			changes: []Change{{At: ms(0), Node: "n1"}, {At: ms(1000), Node: "n1", Lost: true}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.changes == nil {
				tt.changes = moved
			}
			ev := evidence{
				changes: tt.changes, expiries: tt.expiries, hold: tt.hold,
				nameOf: func(m lab.MAC) string { return nodeOf[m] },
				heard: func(_ string, after time.Time) (time.Time, bool) {
					return ms(tt.heard), tt.heard > 0 && !ms(tt.heard).Before(after)
				},
				deposed:     func(time.Time) bool { return tt.deposed },
				noise:       func(time.Time) time.Duration { return tt.noise },
				late:        func(string, time.Time) time.Duration { return 0 },
				pausedUntil: func(_ string, at time.Time) time.Time { return at },
			}
			bad := false
			for _, o := range judge(aAddr, tt.claims, ev) {
				t.Log(o, o.Allowed)
				bad = bad || o.Allowed == ""
			}
			if bad != tt.bad {
				t.Errorf("a violation: %v, want %v", bad, tt.bad)
			}
		})
	}
}

func TestGaps(t *testing.T) {
	var samples []lab.Sample
	for i := 0; i < 3000; i += 20 {
		x := lab.Sample{Sent: ms(i), Answered: ms(i + 1)}
		if i >= 1000 && i < 1800 {
			x.Answered = time.Time{}
		}
		samples = append(samples, x)
	}
	gaps := gapsOf(aAddr, samples, ms(0), ms(3000))
	if len(gaps) != 1 || gaps[0].For < 800*time.Millisecond || gaps[0].For > 850*time.Millisecond {
		t.Fatalf("gaps %v", gaps)
	}
	g := gaps[0]
	g.Owner = "n1"
	injury := func(class, node string, from, to int) Injury {
		return Injury{Class: class, From: ms(from), To: ms(to), target: Target{Nodes: []string{node}}}
	}
	for _, tt := range []struct {
		name     string
		injuries []Injury
		noise    time.Duration
		want     string
	}{
		{name: "nobody", want: classNone},
		{name: "one", injuries: []Injury{injury("a", "n2", 900, 2000)}, want: "a"},
		{name: "long over", injuries: []Injury{injury("a", "n1", -9000, -8000)}, want: classNone},
		{name: "begins later", injuries: []Injury{injury("a", "n1", 1500, 2000)}, want: classNone},
		{name: "the owner's", injuries: []Injury{injury("a", "n2", 900, 2000), injury("b", "n1", 950, 2000)}, want: "b"},
		{name: "neither's", injuries: []Injury{injury("a", "n2", 900, 2000), injury("b", "n3", 950, 2000)}, want: classMixed},
		{name: "the machine's", injuries: []Injury{injury("a", "n1", 900, 2000)}, noise: 700 * time.Millisecond, want: classNoise},
	} {
		g.Noise = tt.noise
		if got := blame(g, tt.injuries); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
