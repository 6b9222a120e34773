package consensus

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// Recover makes the data directory that of a group of other members, when the
// majority of the old group is lost for good. What this member has in its log
// counts as committed then, acknowledged or not, and what only the lost members
// had is gone. The members that are lost must never come back with their data,
// and the new ones must all be recovered the same way or have empty disks.
//
// The directory must not be in use, so the member must be stopped.
func Recover(store *storage.Store, members []Member, log *slog.Logger) error {
	id, ok := store.Identity()
	if !ok {
		return errors.New("recover: the data directory has no identity")
	}
	var conf raft.Configuration
	self := false
	for _, m := range members {
		self = self || m.ID == id.ID
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Address),
		})
	}
	if !self {
		return fmt.Errorf("recover: this member, %s, is not in the new group", id.ID)
	}
	cfg := Config{ID: id.ID, Timing: DefaultTiming, Logger: log}
	if log == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.TrailingLogs, DefaultTrailingLogs)
	setDefault(&cfg.SnapshotThreshold, DefaultSnapshotThreshold)
	setDefault(&cfg.SnapshotInterval, DefaultSnapshotInterval)
	m := newMachine(store, cfg.Logger, DefaultDigestEvery, func(*fsm.State) {})
	err := raft.RecoverCluster(cfg.raftConfig(), m, store.Logs(), store.Stable(), store.Snapshots(), noTransport{}, conf)
	// A batch that cannot be applied makes the snapshot fail, and with it everything.
	if stopped := m.failure(); stopped != nil {
		err = stopped
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// noTransport encodes addresses for a snapshot; nothing is ever sent.
type noTransport struct{ raft.Transport }

func (noTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
