package membership

import (
	"context"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// promoteEvery is how often members without a vote are looked at. A member has
// caught up if it has, at one look, what this leader had at the look before,
// twice in a row.
const promoteEvery = 500 * time.Millisecond

// promoteWhileLeader runs promote while this member leads, and awaits its end.
func (m *Membership) promoteWhileLeader(ctx context.Context, node *consensus.Node) error {
	for {
		l := node.Leadership()
		if !l.Leader {
			select {
			case <-l.Changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		reign, end := context.WithCancel(ctx)
		var lost sync.WaitGroup
		lost.Go(func() {
			select {
			case <-l.Changed:
				end()
			case <-reign.Done():
			}
		})
		m.promote(reign, node)
		end()
		lost.Wait()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// watched is what is known of a member without a vote.
type watched struct {
	// had is the leader's revision at the look before.
	had uint64
	// good counts looks in a row at which the member had it.
	good int
}

// promote gives votes to members that have caught up, one at a time.
func (m *Membership) promote(ctx context.Context, node *consensus.Node) {
	seen := make(map[string]watched)
	for m.pause(ctx, promoteEvery) == nil {
		now := make(map[string]watched)
		for _, member := range node.Members() {
			if member.Voter {
				continue
			}
			w := m.look(ctx, node, member, seen[member.ID])
			if w.good >= 2 {
				m.changing.Lock()
				err := node.Promote(ctx, member.ID)
				m.changing.Unlock()
				if err == nil {
					m.log.Info("member has a vote now", "member", member.ID)
				} else if ctx.Err() == nil {
					m.log.Warn("promotion failed", "member", member.ID, "error", err)
				}
				w = watched{}
			}
			now[member.ID] = w
		}
		seen = now
	}
}

// look asks a member how far it is.
func (m *Membership) look(ctx context.Context, node *consensus.Node, member consensus.Member, before watched) watched {
	var mine uint64
	var version uint32
	node.Read(func(s *fsm.State) { mine, version = s.Revision, s.ClusterVersion })
	after := watched{had: mine}
	h, err := m.hello(ctx, member.Address)
	if err == nil && h.GetId() == member.ID && h.GetMaxClusterVersion() >= version && before.had > 0 && h.GetRevision() >= before.had {
		after.good = before.good + 1
	}
	return after
}
