package decider

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/rules"
)

// perRun is how many operations a run has.
const perRun = 120

// TestOperationsAgainstTheRules: whatever operators declare and delete, and time, leaders and
// foreign stations do in between, nobody gets an address against a rule, nobody waits for what
// it could have, and every member has the same state. A million operations are
//
//	go test ./raftnode/decider -run TestOperationsAgainstTheRules -timeout 2h -rapid.checks=8400
func TestOperationsAgainstTheRules(t *testing.T) {
	judged := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		// Each is the seed of one; 0 is none, so that runs shrink by leaving them out.
		list := rapid.SliceOfN(rapid.Uint64(), perRun, perRun).Draw(rt, "operations")
		var wrong string
		synctest.Test(t, func(t *testing.T) { wrong = playAgainstTheRules(t, list, judged) })
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
	t.Logf("the rules had to judge %v", judged)
	for _, name := range rules.Rules {
		if judged[name] == 0 && !testing.Short() && flag.Lookup("rapid.checks").Value.(flag.Getter).Get().(int) >= 100 {
			t.Errorf("not once: %s", name)
		}
	}
}

// complaints takes down what the harness has to say, so that the run can be shrunk.
type complaints struct {
	testing.TB
	list []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.list = append(c.list, fmt.Sprintf(format, args...))
}

func (c *complaints) Fatalf(format string, args ...any) {
	c.Errorf(format, args...)
	runtime.Goexit()
}

func playAgainstTheRules(t *testing.T, list []uint64, judged map[string]int) string {
	c := &complaints{TB: t}
	h := newHarness(c, func(cfg *Config) { cfg.Logger = nil })
	h.leases.auto = 20 * time.Millisecond
	book := rules.Book{Judged: judged}
	var raws [][]byte
	h.log.applied = func(b *logv1.Batch, ch fsm.Changes, s *fsm.State) {
		for _, wrong := range book.Take(s, b) {
			var events []string
			for _, ev := range b.GetEvents() {
				events = append(events, eventText(ev))
			}
			c.Errorf("revision %d: %s\n  %s", b.GetRevision(), wrong, strings.Join(events, "\n  "))
		}
		h.d.Applied(b, ch, s)
	}
	h.log.folded = func(raw []byte) { raws = append(raws, raw) }
	h.log.lead()
	synctest.Wait()
	h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
	h.must(apply(pool("hold", "10.0.0.0/30"), pool("release", "10.0.1.0/30"), ad("a")))
	h.open("n0", "n1")
	var since []string // what was done last
	for i, seed := range list {
		if seed == 0 {
			continue
		}
		what := operate(h, rand.New(rand.NewPCG(seed, uint64(i))))
		if since = append(since, fmt.Sprintf("operation %d: %s", i, what)); len(since) > 8 {
			since = since[1:]
		}
		for range 3 {
			synctest.Wait()
			time.Sleep(3 * time.Millisecond)
		}
		synctest.Wait()
		if i%8 == 7 {
			time.Sleep(4 * time.Second)
			synctest.Wait()
		}
		if len(c.list) == 0 {
			// What the last operation helped has been helped, and what time helps for two seconds.
			h.log.Read(func(s *fsm.State) {
				if wrong := rules.Unserved(s, max(s.Time, time.Now().Add(-2*time.Second).UnixNano())); wrong != "" {
					c.Errorf("%s", wrong)
				}
			})
		}
		if n := h.d.Stats().Internal.Load(); n > 0 {
			c.Errorf("%d faults of the program", n)
		}
		if len(c.list) > 0 {
			c.list = append(c.list, since...)
			break
		}
	}
	h.stop()
	if len(c.list) == 0 {
		sameEverywhere(c, h.log, raws)
	}
	return strings.Join(c.list, "\n")
}

// operate does one thing, and says what.
func operate(h *harness, rng *rand.Rand) string {
	do := func(cmd Command) string {
		if a, is := cmd.(*Apply); is {
			a.DryRun, a.Force = rng.IntN(8) == 0, rng.IntN(4) == 0
		}
		_, err := h.submit(cmd)
		return fmt.Sprintf("%s %+v: %v", cmd.kind(), cmd, err)
	}
	reserve := func() *adminv1.Resource {
		return &adminv1.Resource{Kind: &adminv1.Resource_Reservation{Reservation: rules.Reservation(rng, time.Now())}}
	}
	aPool := func(p *logv1.Pool) *adminv1.Resource { return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: p}} }
	node := fmt.Sprintf("n%d", rng.IntN(3))
	switch rng.IntN(20) {
	case 0, 1, 2, 3, 4, 5:
		var list []*adminv1.Resource
		for i := rng.IntN(8); i < 8 && len(list) < 3; i += 1 + rng.IntN(4) {
			svc := rules.Service(rng, i)
			if len(list) > 0 && rng.IntN(2) == 0 {
				svc = rules.Twin(list[0].GetService(), i)
			}
			list = append(list, &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: svc}})
		}
		return do(apply(list...))
	case 6, 7, 8:
		svc := rules.Service(rng, rng.IntN(8))
		return do(&Delete{Actor: "admin:test", Names: []*adminv1.ResourceName{{Kind: KindService, Namespace: svc.GetNamespace(), Name: svc.GetName()}}})
	case 9:
		return do(apply(aPool(rules.Pool(rng, rules.PoolNames[rng.IntN(len(rules.PoolNames))])), reserve()))
	case 10:
		from, to := rules.Exchange(rng)
		svc := &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: rules.Service(rng, rng.IntN(8))}}
		return do(apply(aPool(to), aPool(from), svc))
	case 11:
		return do(apply(reserve()))
	case 12:
		return do(remove(KindReservation, rules.ReservationName(rng)))
	case 13:
		return do(apply(&adminv1.Resource{Kind: &adminv1.Resource_Namespace{Namespace: &logv1.Namespace{
			Name: []string{"sim", "other"}[rng.IntN(2)], Labels: map[string]string{"team": []string{"a", "b"}[rng.IntN(2)]},
		}}}))
	case 14:
		addr := rules.Address(rng)
		h.log.Read(func(s *fsm.State) {
			if rec := s.Addresses[addr]; rec != nil {
				node = rec.Owner
			}
		})
		return do(&ConflictObserved{Node: node, Address: addr, MAC: fsm.MAC{2, 9}, Kind: logv1.ConflictKind_CONFLICT_KIND_FOREIGN})
	case 15:
		return do(&EndQuarantine{Address: rules.Address(rng), Actor: "admin:test"})
	case 16:
		return do(&SetRetention{Retention: time.Duration(rng.IntN(4)) * time.Second, Actor: "admin:test"})
	case 17:
		d := time.Duration(rng.IntN(5000)) * time.Millisecond
		time.Sleep(d)
		return fmt.Sprintf("%v later", d)
	case 18:
		h.log.lose(0)
		synctest.Wait()
		h.log.lead()
		return "another leader"
	default:
		return do(openSession(node, byte(1+rng.IntN(2))))
	}
}

// sameEverywhere plays the log again, and reads the state from a snapshot.
func sameEverywhere(c *complaints, l *memLog, raws [][]byte) {
	other := fsm.New()
	for _, raw := range raws {
		if _, _, err := other.Apply(raw); err != nil {
			c.Errorf("another member: %v", err)
			return
		}
	}
	var snap bytes.Buffer
	if err := fsm.WriteSnapshot(&snap, l.state); err != nil {
		c.Errorf("%v", err)
		return
	}
	back, err := fsm.ReadSnapshot(&snap)
	if err != nil {
		c.Errorf("%v", err)
		return
	}
	if d := l.state.Digest(); other.Digest() != d || back.Digest() != d {
		c.Errorf("the state differs after a replay or a snapshot")
	}
}
