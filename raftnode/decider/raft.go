package decider

import "github.com/quorumlb/quorumlb/raftnode/consensus"

// OnRaft makes a member's Raft node a Log. The caller subscribes Applied to the
// node: node.Subscribe(d.Applied).
func OnRaft(n *consensus.Node) Log { return raftLog{n} }

type raftLog struct{ *consensus.Node }

func (l raftLog) Propose(raw []byte) Future { return l.Node.Propose(raw) }
func (l raftLog) Verify() Future            { return l.Node.Verify() }

func (l raftLog) Leadership() Leadership {
	now := l.Node.Leadership()
	return Leadership{Leader: now.Leader, Term: now.Term, Changed: now.Changed}
}
