package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/quorumlb/quorumlb/test/lab"
)

// bareRaft gives the times of applies to a bare group of three on this disk,
// in one process over the loopback interface, without TLS: the least that
// hashicorp/raft costs.
func bareRaft(ctx context.Context, o options) (times durations, err error) {
	dir, err := runDir(o, "raft")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var group []*raft.Raft
	var servers []raft.Server
	defer func() {
		for _, r := range group {
			_ = r.Shutdown().Error()
		}
	}()
	for i := range 3 {
		r, server, err := bareMember(filepath.Join(dir, fmt.Sprint(i)), fmt.Sprintf("m%d", i))
		if err != nil {
			return nil, err
		}
		group, servers = append(group, r), append(servers, server)
	}
	if err := group[0].BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
		return nil, err
	}
	var leader *raft.Raft
	err = lab.Poll(ctx, 10*time.Second, func(context.Context) error {
		for _, r := range group {
			if r.State() == raft.Leader {
				leader = r
				return nil
			}
		}
		return fmt.Errorf("no leader")
	})
	if err != nil {
		return nil, err
	}
	value := make([]byte, 150) // about a declaration's batch
	for range quietWrites {
		start := time.Now()
		if err := leader.Apply(value, time.Second).Error(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

func bareMember(dir, id string) (*raft.Raft, raft.Server, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, raft.Server{}, err
	}
	store, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return nil, raft.Server{}, err
	}
	transport, err := raft.NewTCPTransport("127.0.0.1:0", nil, 3, time.Second, io.Discard)
	if err != nil {
		return nil, raft.Server{}, err
	}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(id)
	conf.Logger = hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 250*time.Millisecond, 250*time.Millisecond, 250*time.Millisecond
	r, err := raft.NewRaft(conf, discardFSM{}, store, store, raft.NewInmemSnapshotStore(), transport)
	return r, raft.Server{ID: conf.LocalID, Address: transport.LocalAddr()}, err
}

// discardFSM forgets everything.
type discardFSM struct{}

func (discardFSM) Apply(*raft.Log) any                 { return nil }
func (discardFSM) Snapshot() (raft.FSMSnapshot, error) { return discardFSM{}, nil }
func (discardFSM) Restore(r io.ReadCloser) error       { return r.Close() }
func (discardFSM) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (discardFSM) Release()                            {}
