package raftnode

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/internal/obs"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// ErrDiverged means that this member's state is not that of the majority.
var ErrDiverged = errors.New("this member's state differs from that of the majority")

const (
	// digestInterval is how often members compare digests.
	digestInterval = 10 * time.Second
	// keepIdle digests of a group in which nothing happens are kept.
	keepIdle = 4
)

// digestSource computes digests of the committed state.
type digestSource interface {
	Revision() uint64
	Digests() []consensus.Digest
	DigestNow() consensus.Digest
}

// digests collects this member's digests: those that consensus computes every so
// many revisions, and that of a state that has not changed for a while, so that
// a quiet group is compared too.
type digests struct {
	source digestSource

	mu   sync.Mutex
	last uint64 // revision at the last tick
	idle []consensus.Digest
}

// tick computes the digest of a state that has not changed since the last one.
func (d *digests) tick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.source.Revision()
	if still := now == d.last && now > 0; still {
		if n := len(d.idle); n == 0 || d.idle[n-1].Revision != now {
			d.idle = append(d.idle, d.source.DigestNow())
			d.idle = d.idle[max(0, len(d.idle)-keepIdle):]
		}
	}
	d.last = now
}

// list gives all digests for a report, oldest first.
func (d *digests) list() []*memberv1.RevisionDigest {
	d.mu.Lock()
	all := slices.Concat(d.source.Digests(), d.idle)
	d.mu.Unlock()
	slices.SortFunc(all, func(a, b consensus.Digest) int { return int(a.Revision) - int(b.Revision) })
	out := make([]*memberv1.RevisionDigest, 0, len(all))
	for _, x := range slices.Compact(all) {
		out = append(out, &memberv1.RevisionDigest{Revision: x.Revision, Digest: x.Sum[:]})
	}
	return out
}

// verdict is the result of a comparison.
type verdict struct {
	// revision that was compared; 0 when no two members have one in common.
	revision uint64
	// diverged: most voters have one digest, and this member another.
	diverged bool
	// alarm: voters differ, and no digest is that of most of them.
	alarm bool
	// others that differ from most voters, sorted.
	others []string
}

func (v verdict) String() string {
	switch {
	case v.diverged:
		return fmt.Sprintf("at revision %d it differs from the majority", v.revision)
	case v.alarm:
		return fmt.Sprintf("at revision %d the members differ and none has a majority", v.revision)
	case len(v.others) > 0:
		return fmt.Sprintf("at revision %d %s differ from the majority", v.revision, strings.Join(v.others, ", "))
	}
	return "equal"
}

type digestSum = [sha256.Size]byte

// rank orders verdicts: that this member is in the wrong weighs most, and what a
// majority says more than a disagreement without one.
func (v verdict) rank() int {
	switch {
	case v.diverged:
		return 3
	case len(v.others) > 0:
		return 2
	case v.alarm:
		return 1
	}
	return 0
}

// compareDigests judges every revision of which two members have a digest, and
// gives the worst: states that differed once do not become equal again. voters are the ids of all voters, reports the digests of the
// members that answered, self's among them.
func compareDigests(self string, voters []string, reports map[string][]*memberv1.RevisionDigest) verdict {
	sums := make(map[uint64]map[string]digestSum) // by revision, by member
	for id, list := range reports {
		for _, d := range list {
			if len(d.GetDigest()) != sha256.Size {
				continue
			}
			if sums[d.GetRevision()] == nil {
				sums[d.GetRevision()] = make(map[string]digestSum)
			}
			sums[d.GetRevision()][id] = digestSum(d.GetDigest())
		}
	}
	var worst verdict
	for revision, byMember := range sums {
		v := judge(self, voters, revision, byMember)
		if v.rank() > worst.rank() || v.rank() == worst.rank() && v.revision > worst.revision {
			worst = v
		}
	}
	return worst
}

// judge compares the digests of one revision; the zero verdict when they are
// equal.
func judge(self string, voters []string, revision uint64, byMember map[string]digestSum) verdict {
	votes := make(map[digestSum]int)
	different := make(map[digestSum]struct{})
	for id, sum := range byMember {
		different[sum] = struct{}{}
		if slices.Contains(voters, id) {
			votes[sum]++
		}
	}
	if len(different) < 2 {
		return verdict{}
	}
	for sum, n := range votes {
		if n <= len(voters)/2 {
			continue
		}
		v := verdict{revision: revision}
		for id, other := range byMember {
			switch {
			case other == sum:
			case id == self:
				v.diverged = true
			default:
				v.others = append(v.others, id)
			}
		}
		slices.Sort(v.others)
		return v
	}
	return verdict{revision: revision, alarm: true}
}

// comparer compares digests with the other members.
type comparer struct {
	self    string
	digests *digests
	members func() []consensus.Member
	report  func(ctx context.Context, m consensus.Member) (*memberv1.ReportResponse, error)
	// diverged is called once when this member is in the wrong.
	diverged func(error)
	interval time.Duration
	log      *slog.Logger

	mu      sync.Mutex
	problem string
	said    bool // diverged was called
}

// Problem says what the last comparison found; empty when nothing.
func (c *comparer) Problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem
}

// run compares until ctx ends.
func (c *comparer) run(ctx context.Context) error {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		c.digests.tick()
		c.judge(c.compare(ctx))
	}
}

func (c *comparer) compare(ctx context.Context) verdict {
	ctx, cancel := context.WithTimeout(ctx, c.interval/2)
	defer cancel()
	var voters []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	reports := make(map[string][]*memberv1.RevisionDigest)
	for _, m := range c.members() {
		if m.Voter {
			voters = append(voters, m.ID)
		}
		wg.Go(func() {
			rep, err := c.report(ctx, m)
			if err != nil {
				return // it is compared when it answers again
			}
			mu.Lock()
			defer mu.Unlock()
			reports[m.ID] = rep.GetDigests()
		})
	}
	wg.Wait()
	return compareDigests(c.self, voters, reports)
}

func (c *comparer) judge(v verdict) {
	text := ""
	if v.revision != 0 {
		text = v.String()
	}
	c.mu.Lock()
	news := text != c.problem
	c.problem = text
	first := v.diverged && !c.said
	c.said = c.said || v.diverged
	c.mu.Unlock()
	if news && text != "" {
		c.log.Error("digests of the state differ", "finding", text, obs.KeyRevision, v.revision)
	}
	if first {
		c.diverged(fmt.Errorf("%w at revision %d", ErrDiverged, v.revision))
	}
}
