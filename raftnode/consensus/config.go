package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/raftnode/raftlog"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// Timing of Raft.
type Timing struct {
	// Heartbeat is the silence after which a follower looks for a new leader
	// (after one to three times of it, on average two).
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes.
	Election time.Duration
	// Lease is the silence of a majority after which a leader steps down.
	Lease time.Duration
	// Commit is how soon followers learn of a commit when nothing follows it.
	Commit time.Duration
	// RPC limits a dial and an answer between members.
	RPC time.Duration
}

// DefaultTiming is for a network and disks that answer within milliseconds.
var DefaultTiming = Timing{
	Heartbeat: 250 * time.Millisecond,
	Election:  250 * time.Millisecond,
	Lease:     250 * time.Millisecond,
	Commit:    5 * time.Millisecond,
	RPC:       time.Second,
}

// Times gives the timing multiplied.
func (t Timing) Times(n int) Timing {
	k := time.Duration(n)
	return Timing{Heartbeat: k * t.Heartbeat, Election: k * t.Election, Lease: k * t.Lease, Commit: k * t.Commit, RPC: k * t.RPC}
}

// Profiles of Timing.
const (
	ProfileDefault = "default"
	ProfileFast    = "fast"
	ProfilePatient = "patient"
)

// TimingOf gives the timing of a profile. The fast profile is about leases; its
// Raft timing is the default one.
func TimingOf(profile string) (Timing, error) {
	switch profile {
	case ProfileDefault, ProfileFast, "":
		return DefaultTiming, nil
	case ProfilePatient:
		return DefaultTiming.Times(4), nil
	default:
		return Timing{}, fmt.Errorf("unknown profile %q (default, fast, patient)", profile)
	}
}

// Defaults of Config.
const (
	DefaultTrailingLogs      = 100_000
	DefaultSnapshotThreshold = 25_000
	DefaultSnapshotInterval  = 10 * time.Second
	DefaultEnqueueTimeout    = 2 * time.Second
	DefaultDigestEvery       = 4096
)

// Config of a Node.
type Config struct {
	// ID of this member in the group, from its data directory.
	ID string
	// Store is the data directory. The caller closes it after Run.
	Store *storage.Store
	// Transport is closed by Run.
	Transport *transport.Raft
	// Timing; zero means DefaultTiming.
	Timing Timing
	// Logger; nil discards.
	Logger *slog.Logger
	// Clock for confirmations of leadership; it must be the transport's. nil
	// means clock.Boottime.
	Clock clock.Clock

	// TrailingLogs is how many log entries are kept behind a snapshot, at least;
	// 0 means DefaultTrailingLogs.
	TrailingLogs uint64
	// SnapshotThreshold is how many entries make a snapshot worth while, and
	// SnapshotInterval how often that is looked at (up to twice that); 0 means
	// the default.
	SnapshotThreshold uint64
	SnapshotInterval  time.Duration
	// EnqueueTimeout bounds Propose; 0 means DefaultEnqueueTimeout.
	EnqueueTimeout time.Duration
	// DigestEvery is after how many revisions a digest is computed; 0 means
	// DefaultDigestEvery. All members must have the same.
	DigestEvery uint64

	// AskRevision asks a member, by address, for the newest revision that it has
	// applied. CaughtUp uses it; without it a follower trusts what it has heard.
	AskRevision AskRevision
}

func (c *Config) setDefaults() error {
	if c.ID == "" || c.Store == nil || c.Transport == nil {
		return errors.New("consensus: ID, Store and Transport are needed")
	}
	if c.Timing == (Timing{}) {
		c.Timing = DefaultTiming
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.Boottime
	}
	setDefault(&c.TrailingLogs, DefaultTrailingLogs)
	setDefault(&c.SnapshotThreshold, DefaultSnapshotThreshold)
	setDefault(&c.SnapshotInterval, DefaultSnapshotInterval)
	setDefault(&c.EnqueueTimeout, DefaultEnqueueTimeout)
	setDefault(&c.DigestEvery, DefaultDigestEvery)
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// raftConfig is what Raft is told.
func (c *Config) raftConfig() *raft.Config {
	r := raft.DefaultConfig()
	r.ProtocolVersion = raft.ProtocolVersionMax
	r.LocalID = raft.ServerID(c.ID)
	r.HeartbeatTimeout = c.Timing.Heartbeat
	r.ElectionTimeout = c.Timing.Election
	r.LeaderLeaseTimeout = c.Timing.Lease
	r.CommitTimeout = c.Timing.Commit
	r.TrailingLogs = c.TrailingLogs
	r.SnapshotThreshold = c.SnapshotThreshold
	r.SnapshotInterval = c.SnapshotInterval
	// A member that was removed stays, so that its operator sees why.
	r.ShutdownOnRemove = false
	r.NoLegacyTelemetry = true
	// RestoreCommittedLogs stays off: with more than 128 batches of entries to
	// replay NewRaft waits for an apply goroutine that it has not started yet.
	r.Logger = raftlog.New(c.Logger, "raft")
	return r
}
