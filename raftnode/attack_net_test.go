package raftnode

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// attackNet stands between everybody of an attack, by name: members, speakers and
// operators. What is sent over a link that is held arrives when it is let go, as with
// TCP over a network that is broken for a while. It never answers in a peer's name.
type attackNet struct {
	mu    sync.Mutex
	names map[string]string // by host:port
	links map[attackLink]*attackLinkState
	made  map[attackLink]*[2]bool // read and write held, by who made the connection to whom
	conns map[*attackConn]struct{}
}

// attackLink is one direction.
type attackLink struct{ from, to string }

type attackLinkState struct {
	held, raftLost bool
	// raft messages that are kept back: requests and answers on this direction.
	raftHeld bool
	opened   chan struct{} // closed when raftHeld ends
}

func newAttackNet() *attackNet {
	return &attackNet{
		names: make(map[string]string), links: make(map[attackLink]*attackLinkState),
		made: make(map[attackLink]*[2]bool), conns: make(map[*attackConn]struct{}),
	}
}

func (n *attackNet) name(addr, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[addr] = name
}

func (n *attackNet) link(from, to string) *attackLinkState {
	l := n.links[attackLink{from, to}]
	if l == nil {
		l = &attackLinkState{opened: make(chan struct{})}
		n.links[attackLink{from, to}] = l
	}
	return l
}

// hold keeps back all gRPC bytes of a direction.
func (n *attackNet) hold(from, to string, held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(from, to).held = held
}

// holdMade keeps back what comes (answers) and what goes (requests) on gRPC connections
// that one party made to another.
func (n *attackNet) holdMade(by, to string, answers, requests bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made[attackLink{by, to}] = &[2]bool{answers, requests}
}

// holdRaft keeps back Raft's requests and answers of a direction.
func (n *attackNet) holdRaft(from, to string, held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	if l.raftHeld && !held {
		close(l.opened)
		l.opened = make(chan struct{})
	}
	l.raftHeld = held
}

// loseRaft loses Raft's requests and answers of a direction.
func (n *attackNet) loseRaft(from, to string, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(from, to).raftLost = lost
}

// cut breaks or mends all between two parties.
func (n *attackNet) cut(a, b string, broken bool) {
	n.hold(a, b, broken)
	n.hold(b, a, broken)
	n.loseRaft(a, b, broken)
	n.loseRaft(b, a, broken)
}

// isolate cuts or mends one party from the others.
func (n *attackNet) isolate(a string, others []string, broken bool) {
	for _, b := range others {
		if a != b {
			n.cut(a, b, broken)
		}
	}
}

// reset breaks the connections between two parties.
func (n *attackNet) reset(a, b string) {
	n.mu.Lock()
	var ends []*attackConn
	for c := range n.conns {
		if c.local == a && c.remote == b || c.local == b && c.remote == a {
			ends = append(ends, c)
		}
	}
	n.mu.Unlock()
	for _, c := range ends {
		c.Close()
	}
}

// heal mends everything.
func (n *attackNet) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.made)
	for _, l := range n.links {
		l.held, l.raftLost = false, false
		if l.raftHeld {
			l.raftHeld = false
			close(l.opened)
			l.opened = make(chan struct{})
		}
	}
}

// dialer is how a party reaches the others.
func (n *attackNet) dialer(local string) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		c := &attackConn{Conn: raw, net: n, local: local, remote: n.names[addr], closed: make(chan struct{})}
		n.conns[c] = struct{}{}
		return c, nil
	})
}

// attackConn is a connection that a party has made.
type attackConn struct {
	net.Conn
	net           *attackNet
	local, remote string
	once          sync.Once
	closed        chan struct{}

	mu      sync.Mutex
	read    time.Time // deadline
	queue   []byte    // written and not sent
	sending bool
	failed  error
}

// isOpen tells whether a direction is not held.
func (c *attackConn) isOpen(from, to string) bool {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.net.link(from, to).held {
		return false
	}
	m := c.net.made[attackLink{c.local, c.remote}]
	return m == nil || from == c.remote && !m[0] || from == c.local && !m[1]
}

// pass waits while the direction is held.
func (c *attackConn) pass(from, to string, deadline *time.Time) error {
	for {
		if c.isOpen(from, to) {
			return nil
		}
		c.mu.Lock()
		until := *deadline
		c.mu.Unlock()
		if !until.IsZero() && time.Now().After(until) {
			return os.ErrDeadlineExceeded
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-c.closed:
			return net.ErrClosed
		}
	}
}

// Read gives what has arrived. What arrived before the direction was held and was
// not read by then is held as well.
func (c *attackConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	return n, c.pass(c.remote, c.local, &c.read)
}

// Write takes what it is given, as a kernel's buffer does, and sends it when the
// direction is open.
func (c *attackConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return 0, c.failed
	}
	if len(c.queue) == 0 && !c.sending && c.isOpen(c.local, c.remote) {
		return c.Conn.Write(p)
	}
	c.queue = append(c.queue, p...)
	if !c.sending {
		c.sending = true
		go c.send() // ends with the queue or the connection
	}
	return len(p), nil
}

func (c *attackConn) send() {
	for {
		if err := c.pass(c.local, c.remote, new(time.Time)); err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		next := c.queue
		c.queue = nil
		c.sending = len(next) > 0
		c.mu.Unlock()
		if len(next) == 0 {
			return
		}
		if _, err := c.Conn.Write(next); err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *attackConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed, c.sending = err, false
}

func (c *attackConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *attackConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.Conn.SetReadDeadline(t)
}

func (c *attackConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		delete(c.net.conns, c)
		c.net.mu.Unlock()
	})
	return c.Conn.Close()
}

// attackFault is the net for one member's Raft messages. Faults has what an attack
// wants beyond that.
type attackFault struct {
	net    *attackNet
	local  string
	Faults transport.Faults
}

func (f *attackFault) pass(from, to string) error {
	for {
		f.net.mu.Lock()
		l := f.net.link(from, to)
		lost, held, opened := l.raftLost, l.raftHeld, l.opened
		f.net.mu.Unlock()
		switch {
		case lost:
			time.Sleep(5 * time.Millisecond) // Raft tries again at once
			return transport.ErrLost
		case !held:
			return nil
		}
		<-opened
	}
}

// BeforeSend implements transport.Fault.
func (f *attackFault) BeforeSend(op transport.Op, to raft.ServerID) error {
	if err := f.pass(f.local, storage.MemberName(string(to))); err != nil {
		return err
	}
	return f.Faults.BeforeSend(op, to)
}

// BeforeAnswer implements transport.Fault.
func (f *attackFault) BeforeAnswer(op transport.Op, from raft.ServerID) error {
	if err := f.pass(storage.MemberName(string(from)), f.local); err != nil {
		return err
	}
	return f.Faults.BeforeAnswer(op, from)
}
