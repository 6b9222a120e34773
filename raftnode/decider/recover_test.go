package decider

import (
	"context"
	"errors"
	"log/slog"

	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// answers collects what becomes of commands submitted without waiting.
type answers struct {
	wg   sync.WaitGroup
	errs []error
	res  []Result
}

// send submits the commands one after the other, in this order, and waits for none.
func (h *harness) send(cmds ...Command) *answers {
	a := &answers{errs: make([]error, len(cmds)), res: make([]Result, len(cmds))}
	for i, cmd := range cmds {
		a.wg.Go(func() { a.res[i], a.errs[i] = h.submit(cmd) })
		synctest.Wait() // decided, or in the queue
	}
	return a
}

func (a *answers) expect(t *testing.T, want ...error) {
	t.Helper()
	a.wg.Wait()
	for i, w := range want {
		if !errors.Is(a.errs[i], w) || w == nil && a.errs[i] != nil {
			t.Errorf("command %d: got %v, want %v", i, a.errs[i], w)
		}
	}
}

func (h *harness) hasPool(name string) (has bool) {
	h.log.Read(func(s *fsm.State) { has = s.Pools[name] != nil })
	return has
}

func TestCommandsArePipelined(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.log.set(func(l *memLog) { l.stalled = true })
		before := h.log.revision()
		a := h.send(apply(pool("a", "10.1.0.0/24")), apply(pool("b", "10.2.0.0/24")), apply(pool("b", "10.2.0.0/24")))
		if n := h.d.Stats().InFlight.Load(); n != 2 {
			t.Errorf("%d batches in flight, want 2: the third command changes nothing", n)
		}
		h.log.set(func(l *memLog) { l.stalled = false })
		a.expect(t, nil, nil, nil)
		for i, want := range []uint64{before + 1, before + 2, before + 2} {
			if a.res[i].Revision != want {
				t.Errorf("command %d applied at %d, want %d", i, a.res[i].Revision, want)
			}
		}
	})
}

func TestWaitingCommandsShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *Config) { c.MaxInFlight = 1 })
		defer h.stop()
		h.log.lead()
		synctest.Wait()
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
		h.log.set(func(l *memLog) { l.stalled = true })
		before := h.log.revision()
		a := h.send(apply(pool("a", "10.1.0.0/24")), apply(pool("b", "10.2.0.0/24")), apply(pool("c", "10.3.0.0/24")))
		h.log.set(func(l *memLog) { l.stalled = false })
		a.expect(t, nil, nil, nil)
		h.then(h.log.events(before), "PoolDefined a", "--", "PoolDefined b", "PoolDefined c")
	})
}

func TestLeadershipLostWithBatchesInFlight(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.log.set(func(l *memLog) { l.stalled = true })
		a := h.send(apply(pool("a", "10.1.0.0/24")), apply(pool("b", "10.2.0.0/24")), apply(pool("c", "10.3.0.0/24")))
		// The first survives in the log of the next leader, who goes on from there.
		h.log.lose(1)
		synctest.Wait()
		h.log.foreign(poolDefined(pool("x", "10.9.0.0/24").GetPool()))
		a.expect(t, nil, ErrNotLeader, ErrNotLeader)
		if !h.hasPool("a") || h.hasPool("b") || h.hasPool("c") {
			t.Error("answers and state differ")
		}
		h.refused(apply(pool("d", "10.4.0.0/24")), ErrNotLeader)
	})
}

func TestUnknownOutcome(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.log.set(func(l *memLog) { l.stalled = true })
		a := h.send(apply(pool("a", "10.1.0.0/24")), apply(pool("a", "10.1.0.0/24")))
		began := time.Now()
		h.log.lose(1)
		// The second has changed nothing by itself.
		a.expect(t, ErrUnknownOutcome, ErrNotLeader)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("the outcome was called unknown after %v", took)
		}
	})
}

// TestUnknownOutcomeBehindAProof has a batch in flight behind a command that changes
// nothing, whose proof of leadership fails. That says nothing of the batch: it may be
// applied, so nobody may be told that it was not.
func TestUnknownOutcomeBehindAProof(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.log.set(func(l *memLog) { l.stalled = true })
		a := h.send(remove(KindPool, "none"), apply(pool("a", "10.1.0.0/24")))
		h.log.set(func(l *memLog) { l.failProofs() })
		synctest.Wait()
		h.log.lose(1)
		synctest.Wait()
		h.log.foreign(poolDefined(pool("x", "10.9.0.0/24").GetPool()))
		a.expect(t, ErrNotLeader, nil)
		if !h.hasPool("a") {
			t.Error("answers and state differ")
		}
	})
}

func TestLeadershipRegainedWithBatchesInFlight(t *testing.T) {
	for name, keep := range map[string]int{"nothing survives": 0, "the first survives": 1, "all survives": 3} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.log.set(func(l *memLog) { l.stalled = true })
				a := h.send(apply(pool("a", "10.1.0.0/24")), apply(pool("b", "10.2.0.0/24")), apply(pool("c", "10.3.0.0/24")))
				h.log.lose(keep)
				h.log.lead()
				h.log.set(func(l *memLog) { l.stalled = false })
				a.expect(t, nil, nil, nil)
				for _, p := range []string{"a", "b", "c"} {
					if !h.hasPool(p) {
						t.Errorf("pool %s is acknowledged and missing", p)
					}
				}
				if n := h.d.Stats().Redecided.Load(); n != uint64(3-keep) {
					t.Errorf("%d commands decided again, want %d", n, 3-keep)
				}
			})
		})
	}
}

// A head that is behind the log, because another leader has been in between
// unnoticed, is refused by the guard and corrected.
func TestRefusedBatchIsDecidedAgain(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.log.foreign(poolDefined(pool("x", "10.9.0.0/24").GetPool()))
		leads := h.leases.leads
		h.must(apply(pool("a", "10.1.0.0/24")))
		h.refused(apply(pool("b", "10.9.0.0/25")), new(*InvalidError))
		if got := h.leases.leads - leads; got != 1 {
			t.Errorf("the leases were told of %d new heads, want 1", got)
		}
	})
}

func TestFailuresOfProposals(t *testing.T) {
	for name, answer := range map[string]func(l *memLog, raw []byte) Future{
		"not appended": func(*memLog, []byte) Future { return newFuture().end(errMemNotLeader, nil) },
		"failed but appended": func(l *memLog, raw []byte) Future {
			l.set(func(l *memLog) { l.append(raw, true) })
			return newFuture().end(errMemLost, nil)
		},
		"failed and lost": func(*memLog, []byte) Future { return newFuture().end(errMemLost, nil) },
		"hangs but appended": func(l *memLog, raw []byte) (f Future) {
			l.set(func(l *memLog) { l.append(raw, true); f = l.hang() })
			return f
		},
		"hangs and lost": func(l *memLog, raw []byte) (f Future) {
			l.set(func(l *memLog) { f = l.hang() })
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				n := 0
				h.log.set(func(l *memLog) {
					l.onPropose = func(raw []byte) Future {
						if n++; n > 1 {
							return nil
						}
						return answer(l, raw)
					}
				})
				a := h.send(apply(pool("a", "10.1.0.0/24")))
				a.expect(t, nil)
				if !h.hasPool("a") {
					t.Error("acknowledged and missing")
				}
			})
		})
	}
}

// sabotage is a command that goes wrong as told.
type sabotage struct {
	pool string
	how  func(t *tx)
}

func (c *sabotage) kind() string  { return "sabotage" }
func (c *sabotage) actor() string { return "admin:test" }

func (c *sabotage) decide(t *tx) (answer, error) {
	t.emit(poolDefined(pool(c.pool, "10.66.0.0/24").GetPool()))
	c.how(t)
	return nil, nil
}

func TestAFaultyCommandIsIsolated(t *testing.T) {
	for name, how := range map[string]func(t *tx){
		"panics":            func(*tx) { panic("test") },
		"impossible event":  func(t *tx) { t.emit(poolDeleted("no such pool")) },
		"impossible batch":  func(t *tx) { t.emit(poolDefined(pool("inside", "10.66.0.0/25").GetPool())) },
		"cannot be encoded": func(t *tx) { t.emit(poolDefined(pool("\xff", "10.67.0.0/25").GetPool())) },
		"unknown enum": func(t *tx) {
			t.emit(adDefined(&logv1.L2Advertisement{Name: "ad", Placement: 99}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, func(c *Config) { c.MaxInFlight = 1; c.Logger = nil })
				defer h.stop()
				h.log.lead()
				synctest.Wait()
				h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
				h.log.set(func(l *memLog) { l.stalled = true })
				a := h.send(
					apply(pool("first", "10.0.0.0/24")), // alone in its batch
					apply(pool("a", "10.1.0.0/24")),
					&sabotage{"bad", how},
					apply(pool("b", "10.2.0.0/24")),
				)
				h.log.set(func(l *memLog) { l.stalled = false })
				a.expect(t, nil, nil, ErrInternal, nil)
				if !h.hasPool("a") || !h.hasPool("b") || h.hasPool("bad") {
					t.Error("the others have not all gone through, or the faulty one has")
				}
				h.checkHead()
			})
		})
	}
}

func TestAFaultWithOneAddressLeavesTheOthersAlone(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.d.logger = slog.New(slog.DiscardHandler)
		oneVip(h)
		h.must(apply(service("two")))
		if o := h.owner("10.0.0.2"); o != "n2" {
			t.Fatalf("owner is %q", o)
		}
		h.open("n3")
		h.leases.set(func(l *fakeLeases) { l.broken, l.over["n2"] = "n1", true })
		h.must(&Drain{Node: "n1"})
		h.must(&Drain{Node: "n2"})
		h.settle()
		if a, b := h.owner(vip), h.owner("10.0.0.2"); a != "" || b != "n3" {
			t.Errorf("owners are %q and %q", a, b)
		}
		h.then(h.when(func() { h.must(apply(service("three"))) }),
			"ServiceDeclared three", "AddressAllocated 10.0.0.3 three FRESH", "OwnerAssigned 10.0.0.3 n3 NEW_ADDRESS")
		// It is tried again by and by.
		h.leases.set(func(l *fakeLeases) { l.broken, l.over["n1"] = "", true })
		time.Sleep(2 * time.Minute)
		h.settle()
		if a := h.owner(vip); a != "n3" {
			t.Errorf("owner is %q", a)
		}
		h.checkHead()
	})
}

func TestCommandsGoOnWhenReconciliationCannot(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.d.logger = slog.New(slog.DiscardHandler)
		oneVip(h)
		h.leases.set(func(l *fakeLeases) { l.broken = "all" })
		for i, name := range []string{"a", "b", "c"} {
			began := time.Now()
			h.must(apply(service(name)))
			if took := time.Since(began); took > time.Second {
				t.Errorf("command %d took %v", i, took)
			}
		}
		h.leases.set(func(l *fakeLeases) { l.broken = "" })
		time.Sleep(time.Minute)
		h.settle()
		for _, addr := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"} {
			if h.owner(addr) == "" {
				t.Errorf("nobody owns %s", addr)
			}
		}
		h.checkHead()
	})
}

// checkHead holds head against the committed state, with nothing in flight.
func (h *harness) checkHead() {
	h.t.Helper()
	h.settle()
	var head, committed [32]byte
	var time int64
	h.log.Read(func(s *fsm.State) { committed, time = s.Digest(), s.Time })
	h.inspect(func(s *fsm.State) {
		at := *s
		at.Time = time // it is that of the next batch already
		head = at.Digest()
	})
	if head != committed {
		h.t.Errorf("head and the committed state differ")
	}
}

// inspect shows the decider's head on its own goroutine.
func (h *harness) inspect(f func(s *fsm.State)) {
	h.t.Helper()
	if _, err := h.submit(&peek{f}); err != nil {
		h.t.Fatal(err)
	}
}

type peek struct{ f func(s *fsm.State) }

func (c *peek) kind() string  { return "peek" }
func (c *peek) actor() string { return "admin:test" }
func (c *peek) decide(t *tx) (answer, error) {
	c.f(t.s)
	return nil, nil
}

func TestClockJump(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.wall.jump(2 * time.Hour)
		h.refused(apply(pool("a", "10.1.0.0/24")), ErrClockJump)
		// A failover is not held up.
		h.then(h.when(func() { h.must(h.expire("n1")) }),
			"SessionExpired n1", "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
		h.log.Read(func(s *fsm.State) {
			if ahead := time.Duration(s.Time - time.Now().UnixNano()); ahead > time.Minute {
				t.Errorf("the log's time is %v ahead", ahead)
			}
		})
		h.wall.jump(-2 * time.Hour)
		h.must(apply(pool("a", "10.1.0.0/24")))
		// Backwards the log just goes on.
		h.wall.jump(-24 * time.Hour)
		h.must(apply(pool("b", "10.2.0.0/24")))
		// A long quiet time is no jump.
		h.wall.jump(24 * time.Hour)
		time.Sleep(48 * time.Hour)
		h.must(apply(pool("c", "10.3.0.0/24")))
	})
}

func TestSubmitGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *Config) { c.MaxInFlight = 1; c.MaxQueue = 1 })
		defer h.stop()
		h.log.lead()
		synctest.Wait()
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
		h.log.set(func(l *memLog) { l.stalled = true })
		submit := func(name, addrs string) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := h.d.Submit(ctx, apply(pool(name, addrs)))
			return err
		}
		errs := make([]error, 3)
		var wg sync.WaitGroup
		for i, name := range []string{"a", "b", "c"} {
			wg.Go(func() { errs[i] = submit(name, "10."+string(rune('1'+i))+".0.0/24") })
			synctest.Wait()
		}
		wg.Wait()
		if !errors.Is(errs[0], ErrUnknownOutcome) || !errors.Is(errs[0], context.DeadlineExceeded) {
			t.Errorf("in flight: %v", errs[0])
		}
		for _, err := range errs[1:] {
			if errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("not decided: %v", err)
			}
		}
		h.log.set(func(l *memLog) { l.stalled = false })
		h.settle()
		if !h.hasPool("a") || h.hasPool("b") || h.hasPool("c") {
			t.Error("answers and state differ")
		}
	})
}

func TestBeforeTheFounding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, nil)
		defer h.stop()
		h.refused(&Found{ClusterID: [16]byte{1}, Version: 1}, ErrNotLeader)
		h.log.lead()
		synctest.Wait()
		h.refused(apply(pool("a", "10.1.0.0/24")), ErrNotFounded)
		h.refused(&Found{Version: 1}, new(*InvalidError))
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1, Times: fsm.LeaseTimes{Detection: time.Second, Heartbeat: time.Second / 5}})
		h.must(apply(pool("a", "10.1.0.0/24")))
		if r := h.must(&Found{ClusterID: [16]byte{2}, Version: 1}); r.Changed {
			t.Error("founded twice")
		}
		h.log.Read(func(s *fsm.State) {
			if s.ClusterID != [16]byte{1} || s.Lease.Detection != time.Second {
				t.Errorf("founded as %x with %v", s.ClusterID, s.Lease)
			}
		})
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, nil)
		h.log.lead()
		synctest.Wait()
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
		h.log.set(func(l *memLog) { l.stalled = true })
		a := h.send(apply(pool("a", "10.1.0.0/24")))
		h.stop()
		a.expect(t, ErrUnknownOutcome)
		h.refused(apply(pool("b", "10.2.0.0/24")), ErrStopped)
	})
}
