package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/quorumlb/quorumlb/test/lab"
)

// bareRole is a member of a bare Raft group: no TLS, no API, an empty state.
const bareRole = "bare-raft"

// bareRaft gives the times of applies to a bare group of three on this disk, each
// in a process and on a host of its own as our members are: the least that
// hashicorp/raft costs here.
func bareRaft(ctx context.Context, o options) (times []time.Duration, err error) {
	dir, err := runDir(o, "raft")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l, err := lab.New(lab.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	sw, err := l.NewSwitch("mgmt")
	if err != nil {
		return nil, err
	}
	var members []string
	for i := range 3 {
		members = append(members, fmt.Sprintf("10.0.1.%d:7400", i+1))
	}
	result := filepath.Join(dir, "result")
	for i, addr := range members {
		h, err := l.NewHost(fmt.Sprintf("h%d", i))
		if err != nil {
			return nil, err
		}
		if err := h.Plug(sw, "eth0", fmt.Sprintf("10.0.1.%d/24", i+1)); err != nil {
			return nil, err
		}
		if _, err := h.StartRole("raft", bareRole, addr, strings.Join(members, ","), filepath.Join(dir, fmt.Sprint(i)), result); err != nil {
			return nil, err
		}
	}
	err = lab.Poll(ctx, 60*time.Second, func(context.Context) error {
		raw, err := os.ReadFile(result)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &times)
	})
	return times, err
}

// runBare is one member: its address, all addresses, its directory, and the file
// in which the leader writes the times of its applies.
func runBare(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("bare raft: %d arguments", len(args))
	}
	self, members, dir, result := args[0], strings.Split(args[1], ","), args[2], args[3]
	r, err := bareMember(self, dir)
	if err != nil {
		return err
	}
	var servers []raft.Server
	for _, m := range members {
		servers = append(servers, raft.Server{ID: raft.ServerID(m), Address: raft.ServerAddress(m)})
	}
	if err := r.BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
		return err
	}
	for range r.LeaderCh() {
		if err := r.Barrier(5 * time.Second).Error(); err != nil {
			continue
		}
		var times []time.Duration
		value := make([]byte, 150) // about a declaration's batch
		for range quietWrites {
			start := time.Now()
			if err := r.Apply(value, time.Second).Error(); err != nil {
				return err
			}
			times = append(times, time.Since(start))
		}
		raw, err := json.Marshal(times)
		if err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(result+".new", raw, 0o644), os.Rename(result+".new", result)); err != nil {
			return err
		}
	}
	return nil
}

func bareMember(self, dir string) (*raft.Raft, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	store, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return nil, err
	}
	transport, err := raft.NewTCPTransport(self, nil, 3, time.Second, io.Discard)
	if err != nil {
		return nil, err
	}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(self)
	conf.Logger = hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 250*time.Millisecond, 250*time.Millisecond, 250*time.Millisecond
	return raft.NewRaft(conf, discardFSM{}, store, store, raft.NewInmemSnapshotStore(), transport)
}

// discardFSM forgets everything.
type discardFSM struct{}

func (discardFSM) Apply(*raft.Log) any                 { return nil }
func (discardFSM) Snapshot() (raft.FSMSnapshot, error) { return discardFSM{}, nil }
func (discardFSM) Restore(r io.ReadCloser) error       { return r.Close() }
func (discardFSM) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (discardFSM) Release()                            {}
