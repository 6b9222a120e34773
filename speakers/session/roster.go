package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// rosterFile is the name of the remembered member list.
const rosterFile = "members.json"

// member is one member as a speaker reaches it.
type member struct {
	address string
	// beat carries heartbeats and nothing else; conn all the rest.
	beat, conn Conn
	// heard is when the member last said anything about a heartbeat, boot time.
	heard atomic.Int64
}

func (m *member) client() speakerv1.SpeakerServiceClient {
	return speakerv1.NewSpeakerServiceClient(m.conn)
}

func (m *member) close() {
	m.beat.Close()
	m.conn.Close()
}

// roster is the list of members. It follows what the members say, each of
// them, and falls back on what it was told at the start when none is reached.
type roster struct {
	cfg    Config
	dialer *dialer
	log    *slog.Logger
	file   string
	seeds  []string
	// unsaved has a token when the file is to be written.
	unsaved chan struct{}
	replace func(name string, content []byte) error

	mu      sync.Mutex
	members map[string]*member
	// lists are what the members that are attached to say; last is what they all said
	// together, the last time that any was.
	lists   map[string][]rosterEntry
	last    []rosterEntry
	changed chan struct{}
}

// rosterEntry is a member in the list and in the file.
type rosterEntry struct {
	ID      string `json:"id,omitempty"`
	Address string `json:"address"`
	// Dialed is the IP address and port that the address stood for.
	Dialed string `json:"dialed,omitempty"`
}

func newRoster(cfg Config, times func() *times, log *slog.Logger) (*roster, error) {
	r := &roster{
		cfg: cfg, log: log, seeds: cfg.Members,
		members: make(map[string]*member), lists: make(map[string][]rosterEntry), changed: make(chan struct{}),
		unsaved: make(chan struct{}, 1), replace: system.ReplaceFile,
	}
	r.dialer = &dialer{times: times, known: make(map[string]string), learned: r.remember}
	for i, seed := range cfg.Members {
		if _, _, err := net.SplitHostPort(seed); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	if cfg.StateDir != "" {
		r.file = filepath.Join(cfg.StateDir, rosterFile)
		r.load()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r, r.update()
}

// load reads what an earlier process has learned. It is a help, not a need.
func (r *roster) load() {
	b, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(b, &r.last)
	}
	if err != nil {
		r.log.Warn("cannot read the remembered members", "file", r.file, "error", err)
		return
	}
	for _, e := range r.last {
		if e.Dialed != "" {
			r.dialer.known[e.Address] = e.Dialed
		}
	}
}

// remember has the file written. It does not wait: the disk may stall, and dials and
// heartbeats must not.
func (r *roster) remember() {
	select {
	case r.unsaved <- struct{}{}:
	default:
	}
}

// run writes the file when it is to be written, until ctx ends.
func (r *roster) run(ctx context.Context) {
	for {
		select {
		case <-r.unsaved:
			r.save()
		case <-ctx.Done():
			return
		}
	}
}

func (r *roster) save() {
	if r.file == "" {
		return
	}
	r.mu.Lock()
	list := slices.Clone(r.last)
	r.mu.Unlock()
	r.dialer.mu.Lock()
	for i := range list {
		list[i].Dialed = r.dialer.known[list[i].Address]
	}
	r.dialer.mu.Unlock()
	if len(list) == 0 {
		return
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = r.replace(r.file, append(b, '\n'))
	}
	if err != nil {
		r.log.Warn("cannot remember the members", "file", r.file, "error", err)
	}
}

// told takes the list of a member that is attached to; nil when it is no more.
func (r *roster) told(by string, list []*speakerv1.MemberAddress) {
	r.mu.Lock()
	before := r.last
	if len(list) == 0 {
		delete(r.lists, by)
	} else {
		entries := make([]rosterEntry, 0, len(list))
		for _, m := range list {
			entries = append(entries, rosterEntry{ID: m.GetId(), Address: m.GetAddress()})
		}
		r.lists[by] = entries
	}
	if err := r.update(); err != nil {
		r.log.Error("cannot follow the member list", "error", err)
	}
	differs := !slices.Equal(before, r.last)
	r.mu.Unlock()
	if differs {
		r.remember()
	}
}

// update makes the members what the lists say; r.mu is held.
func (r *roster) update() error {
	union := make(map[string]rosterEntry)
	for _, list := range r.lists {
		for _, e := range list {
			if _, _, err := net.SplitHostPort(e.Address); err == nil {
				union[e.Address] = e
			}
		}
	}
	if len(union) > 0 {
		r.last = slices.SortedFunc(maps.Values(union), func(a, b rosterEntry) int {
			return strings.Compare(a.Address, b.Address)
		})
	} else {
		for _, e := range r.last {
			union[e.Address] = e
		}
		for _, seed := range r.seeds {
			union[seed] = rosterEntry{Address: seed}
		}
	}
	differs := false
	for address := range union {
		if r.members[address] != nil {
			continue
		}
		m, err := r.connect(address)
		if err != nil {
			return err
		}
		r.members[address] = m
		differs = true
	}
	for address, m := range r.members {
		if _, ok := union[address]; !ok {
			delete(r.members, address)
			m.close() // its streams end with an error
			differs = true
		}
	}
	if differs {
		close(r.changed)
		r.changed = make(chan struct{})
	}
	return nil
}

func (r *roster) connect(address string) (*member, error) {
	dial := r.cfg.Dial
	if dial == nil {
		dial = func(address string) (Conn, error) { return r.dialer.client(r.cfg, address) }
	}
	m := &member{address: address}
	var err error
	if m.beat, err = dial(address); err != nil {
		return nil, err
	}
	if m.conn, err = dial(address); err != nil {
		m.beat.Close()
		return nil, err
	}
	return m, nil
}

// get returns the members in order of their addresses, and a channel that is
// closed when there are others.
func (r *roster) get() ([]*member, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.members), func(a, b *member) int {
		return strings.Compare(a.address, b.address)
	}), r.changed
}

func (r *roster) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		m.close()
	}
}

// mark notes that the member was heard.
func (m *member) mark(now time.Duration) { m.heard.Store(int64(now)) }
