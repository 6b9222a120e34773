package layer2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// maxWait is how long a request may have waited in the socket, after this
// process was stopped or starved, and still be answered: its sender has asked
// again since, perhaps somebody else.
const maxWait = 500 * time.Millisecond

// maxWaitUnsure is the same when the members may have given the address to
// another node: its claim may be waiting behind the request.
const maxWaitUnsure = 50 * time.Millisecond

// eventQueue bounds what is heard and not yet handled.
const eventQueue = 4096

// conn is a packet socket.
type conn interface {
	Receive() (int, error)
	Frame(i int) system.Frame
	Send(link int, frame []byte) error
	Lost() (uint32, error)
	Close() error
}

// ear is one socket with the goroutine that listens on it.
type ear struct {
	name  string
	conn  conn
	judge func(*Table, *recent, *system.Frame) judgement
	// busy is held while one frame is judged and answered.
	busy sync.Mutex
	// frame is the one being judged; here, so that it need not be allocated.
	frame system.Frame
	seen  recent

	received [verdicts]atomic.Uint64
	lost     atomic.Uint64
}

// packetResponder answers from user space, on one packet socket per family.
type packetResponder struct {
	clock clock.Clock
	ears  []*ear

	table atomic.Pointer[Table]
	until atomic.Int64
	fresh atomic.Int64

	events chan event
	// missed is set when a claim could not be queued.
	missed atomic.Bool
	sent   [kinds]atomic.Uint64
	// full counts announcements that a full send queue swallowed.
	full atomic.Uint64
}

func newPacketResponder(c clock.Clock, arp, ndp conn) *packetResponder {
	r := &packetResponder{clock: c, events: make(chan event, eventQueue)}
	r.ears = []*ear{{name: "arp", conn: arp, judge: judgeARP}, {name: "ndp", conn: ndp, judge: judgeNDP}}
	r.table.Store(emptyTable)
	return r
}

// Install puts a table in force; see Responder.
func (r *packetResponder) Install(t *Table) {
	r.table.Store(t)
	for _, e := range r.ears {
		e.settle()
	}
}

// settle waits for the frame that is being judged, perhaps by an older table.
func (e *ear) settle() {
	e.busy.Lock()
	defer e.busy.Unlock()
}

// Confirm sets the end of the confirmation; see Responder.
func (r *packetResponder) Confirm(until, fresh int64) {
	r.until.Store(until)
	r.fresh.Store(fresh)
}

// run listens until ctx ends, and closes the sockets.
func (r *packetResponder) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, e := range r.ears {
		group.Go(func() error { return r.listen(e) })
		group.Go(func() error {
			<-ctx.Done()
			return e.conn.Close()
		})
	}
	return group.Wait()
}

func (r *packetResponder) listen(e *ear) error {
	for {
		n, err := e.conn.Receive()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		for i := range n {
			e.busy.Lock()
			v := r.handle(e, e.conn.Frame(i))
			e.busy.Unlock()
			e.received[v].Add(1)
		}
	}
}

// handle does all that is to be done about one frame and says what that was.
func (r *packetResponder) handle(e *ear, frame system.Frame) Verdict {
	t := r.table.Load()
	e.frame = frame
	f := &e.frame
	j := e.judge(t, &e.seen, f)
	if j.used != nil {
		r.tell(event{kind: eventUse, addr: j.used.Addr, epoch: j.used.Epoch, mac: j.mac, link: f.Link})
	}
	if j.found.IsValid() {
		r.tell(event{kind: eventFound, addr: j.found, mac: j.mac, link: f.Link})
	}
	switch j.verdict {
	case Replied:
		return r.reply(e, f, &j)
	case Claimed:
		r.claimed(t, f, &j)
	case Answered, Found:
		// What tells a probe who has an address may be an answer to us as well.
		if j.entry != nil {
			r.reached(f, &j)
		}
	}
	return j.verdict
}

// reply sends an answer if the address may still be answered.
func (r *packetResponder) reply(e *ear, f *system.Frame, j *judgement) Verdict {
	if r.late(f) {
		return Late
	}
	if f.Type == system.ToHost {
		// It was sent to our MAC: the asker has the address here already.
		r.reached(f, j)
	}
	until := r.until.Load()
	if until == 0 || (j.entry.Mode != Hold || j.entry.Soft) && int64(r.clock.Now()) >= until {
		return Unconfirmed
	}
	// Nothing may come between the check of the deadline and the send.
	if e.conn.Send(f.Link, j.reply) != nil {
		return SendFailed
	}
	r.sent[j.kind].Add(1)
	return Replied
}

// late reports whether a request has waited for too long.
func (r *packetResponder) late(f *system.Frame) bool {
	waited := time.Duration(time.Now().UnixNano() - f.Time)
	if f.Time == 0 || waited <= maxWaitUnsure {
		return false
	}
	return waited > maxWait || int64(r.clock.Now()) >= r.fresh.Load()
}

// claimed silences the address at once if the node cannot be sure to be its
// owner, and reports the claim.
func (r *packetResponder) claimed(t *Table, f *system.Frame, j *judgement) {
	until := r.until.Load()
	_, speaker := t.peers[j.mac]
	if speaker {
		until = r.fresh.Load()
	}
	yield := j.entry.Mode == Hold && int64(r.clock.Now()) >= until || j.entry.Soft && speaker
	if yield {
		j.entry.muted.Store(true)
	}
	r.tell(event{kind: eventClaim, addr: j.entry.Addr, epoch: j.entry.Epoch, mac: j.mac, link: f.Link, yielded: yield})
}

// reached reports that a neighbour has the address here, while that is news.
func (r *packetResponder) reached(f *system.Frame, j *judgement) {
	if j.by.IsValid() && !j.by.IsUnspecified() && j.entry.curious.Load() {
		r.tell(event{kind: eventAnswer, addr: j.entry.Addr, epoch: j.entry.Epoch, mac: j.mac, by: j.by, to: j.to, link: f.Link})
	}
}

func (r *packetResponder) tell(e event) {
	select {
	case r.events <- e:
	default:
		if e.kind == eventClaim {
			r.missed.Store(true)
		}
	}
}

// send sends a frame of our own.
func (r *packetResponder) send(link int, v6 bool, frame []byte, kind Kind) error {
	e := r.ears[0]
	if v6 {
		e = r.ears[1]
	}
	if err := e.conn.Send(link, frame); err != nil {
		return err
	}
	r.sent[kind].Add(1)
	return nil
}
