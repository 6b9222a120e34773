package consensus

import (
	"errors"

	"github.com/hashicorp/raft"
)

// Errors of Raft that callers tell apart.
var (
	// ErrNotLeader means that this member does not lead.
	ErrNotLeader = raft.ErrNotLeader
	// ErrEnqueueTimeout means that Raft did not take a proposal in time.
	ErrEnqueueTimeout = raft.ErrEnqueueTimeout
	// ErrTransferInProgress means that leadership is being handed over.
	ErrTransferInProgress = raft.ErrLeadershipTransferInProgress
	// ErrLeadershipLost means that leadership ended while a proposal was under
	// way: it may be applied later or never.
	ErrLeadershipLost = raft.ErrLeadershipLost
)

// Errors of this package.
var (
	// ErrClosed means that the node has ended, or is about to. A proposal that
	// ends with it may be applied later or never.
	ErrClosed = errors.New("the member is stopping")
	// ErrStopped means that the member met a batch that it can neither apply nor
	// skip. It wraps the reason and is what Run returns.
	ErrStopped = errors.New("the member stops: it cannot apply the log")
	// ErrTransferStuck means that a transfer of leadership never ended, a known
	// fault of the library; only a restart of the process helps.
	ErrTransferStuck = errors.New("a transfer of leadership is stuck")
	// ErrHung means that Raft did not end in time, most likely because of the
	// disk. The data directory must not be closed; end the process.
	ErrHung = errors.New("raft did not shut down in time")
	// ErrIncomplete means that the log of this member does not reach back to the
	// revision that was asked for.
	ErrIncomplete = errors.New("the log does not reach back that far")
	// ErrNoMember means that the group has no member of this id.
	ErrNoMember = errors.New("no such member")
)

// NotAppended tells whether an error of a proposal means that it is in no log
// and never will be. Every other error leaves the outcome unknown.
func (n *Node) NotAppended(err error) bool {
	return errors.Is(err, ErrNotLeader) || errors.Is(err, ErrEnqueueTimeout) || errors.Is(err, ErrTransferInProgress)
}
