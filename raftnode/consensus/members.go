package consensus

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// Member of the group.
type Member struct {
	// ID in the group; Name is the id without its suffix.
	ID, Name string
	// Address of its port, host:port.
	Address string
	// Voter tells whether it has a vote.
	Voter bool
}

// Members of the newest configuration that this member knows; it may not be
// committed yet.
func (n *Node) Members() []Member {
	servers := n.raft.GetConfiguration().Configuration().Servers
	out := make([]Member, len(servers))
	for i, s := range servers {
		out[i] = Member{
			ID: string(s.ID), Name: storage.MemberName(string(s.ID)), Address: string(s.Address), Voter: s.Suffrage == raft.Voter,
		}
	}
	return out
}

// Member gives the member of an id.
func (n *Node) Member(id string) (Member, bool) {
	for _, m := range n.Members() {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// HasState tells whether this member has taken part in a group: it has a term
// or an entry.
func (n *Node) HasState() bool { return n.raft.CurrentTerm() > 0 || n.raft.LastIndex() > 0 }

// Bootstrap founds a group of voters. Only one member of them may, with an
// empty disk, and never again.
func (n *Node) Bootstrap(ctx context.Context, members []Member) error {
	var conf raft.Configuration
	for _, m := range members {
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Address),
		})
	}
	if err := await(ctx, n.raft.BootstrapCluster(conf)); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// AddNonvoter takes in a member that gets the log but has no vote, or changes
// the address of one.
func (n *Node) AddNonvoter(ctx context.Context, id, address string) error {
	return n.change(ctx, "add "+id, func(prev uint64, timeout time.Duration) raft.IndexFuture {
		return n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), prev, timeout)
	})
}

// AddVoter takes in a member with a vote, or changes the address of one.
func (n *Node) AddVoter(ctx context.Context, id, address string) error {
	return n.change(ctx, "add voter "+id, func(prev uint64, timeout time.Duration) raft.IndexFuture {
		return n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), prev, timeout)
	})
}

// Promote gives a vote to a member that has none.
func (n *Node) Promote(ctx context.Context, id string) error {
	m, ok := n.Member(id)
	if !ok {
		return fmt.Errorf("promote %s: %w", id, ErrNoMember)
	}
	if m.Voter {
		return nil
	}
	return n.AddVoter(ctx, id, m.Address)
}

// SetAddress changes the address of a member.
func (n *Node) SetAddress(ctx context.Context, id, address string) error {
	m, ok := n.Member(id)
	switch {
	case !ok:
		return fmt.Errorf("set address of %s: %w", id, ErrNoMember)
	case m.Address == address:
		return nil
	case m.Voter:
		return n.AddVoter(ctx, id, address)
	default:
		return n.AddNonvoter(ctx, id, address)
	}
}

// Remove takes a member out of the group. It may be this one, which then
// follows and leads no more.
func (n *Node) Remove(ctx context.Context, id string) error {
	members := n.Members()
	found, voters := false, 0
	for _, m := range members {
		if m.ID == id {
			found = true
		} else if m.Voter {
			voters++
		}
	}
	if !found {
		return fmt.Errorf("remove %s: %w", id, ErrNoMember)
	}
	if voters == 0 {
		return fmt.Errorf("remove %s: it is the only member with a vote", id)
	}
	return n.change(ctx, "remove "+id, func(prev uint64, timeout time.Duration) raft.IndexFuture {
		return n.raft.RemoveServer(raft.ServerID(id), prev, timeout)
	})
}

// change makes one change of the configuration, on top of the newest committed
// one that the caller can have seen. Another change in between makes it fail.
// When leadership is lost meanwhile the outcome is unknown; look at Members.
func (n *Node) change(ctx context.Context, what string, do func(prev uint64, timeout time.Duration) raft.IndexFuture) error {
	if err := n.ensureReady(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := await(ctx, do(n.machine.configurationIndex(), timeLeft(ctx))); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Transfer hands leadership to a member, or to the one that answered last if to
// is empty. It ends within two election timeouts, or with ctx.
func (n *Node) Transfer(ctx context.Context, to string) error {
	term, err := n.leads()
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	if to == "" {
		to = n.successor(term)
	}
	m, ok := n.Member(to)
	if !ok || !m.Voter || to == n.cfg.ID {
		return fmt.Errorf("transfer leadership to %q: %w that has a vote and answers", to, ErrNoMember)
	}
	// Raft itself gives up after one election timeout for each of its two steps.
	ctx, cancel := context.WithTimeout(ctx, 2*n.cfg.Timing.Election+100*time.Millisecond)
	defer cancel()
	if err := await(ctx, n.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(m.Address))); err != nil {
		return fmt.Errorf("transfer leadership to %s: %w", to, err)
	}
	return nil
}

// Alive tells whether a member has answered this leader within the last second
// or two heartbeat timeouts.
func (n *Node) Alive(id string) bool {
	if id == n.cfg.ID {
		return true
	}
	within := max(time.Second, 2*n.cfg.Timing.Heartbeat)
	a := n.cfg.Transport.Answered(raft.ServerID(id))
	return a.Term > 0 && a.Sent >= n.cfg.Clock.Now()-within
}

// successor is the voter that answered this leader last, within the lease;
// empty for none. Raft's own choice does not know who is alive.
func (n *Node) successor(term uint64) (id string) {
	newest := n.cfg.Clock.Now() - n.cfg.Timing.Lease
	for _, m := range n.Members() {
		if !m.Voter || m.ID == n.cfg.ID {
			continue
		}
		if a := n.cfg.Transport.Answered(raft.ServerID(m.ID)); a.Term == term && a.Sent >= newest {
			id, newest = m.ID, a.Sent
		}
	}
	return id
}

// handOver transfers leadership before the end, if this member has it and
// somebody can take it.
func (n *Node) handOver() error {
	term, err := n.leads()
	if err != nil {
		return nil
	}
	to := n.successor(term)
	if to == "" {
		return nil
	}
	return n.Transfer(context.Background(), to)
}
