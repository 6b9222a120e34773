package sim

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// breakAfter is how long a connection bears it that nothing arrives: the kernel's
// timeout for data that nobody acknowledges.
const breakAfter = 600 * time.Millisecond

var errBroken = status.Error(codes.Unavailable, "the connection broke")

// half is one end of a stream. Messages arrive in order, as over TCP: what a cut
// holds back comes after it, or the connection breaks.
type half struct {
	p    *proc
	peer *half
	// out is the link to the peer. loose messages may be doubled and overtake: those
	// that are sent over several ways anyway.
	out   *link
	loose bool

	// Guarded by World.mu: when the newest message arrives, whether the connection is
	// about to break, and whether the stream is over for this end.
	fifo   time.Duration
	doomed bool
	over   bool

	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	inbox [][]byte
	err   error
	ready chan struct{}
}

func newHalf(ctx context.Context, p *proc, out *link, loose bool) *half {
	h := &half{p: p, out: out, loose: loose, ready: make(chan struct{}, 1)}
	h.ctx, h.cancel = context.WithCancel(ctx)
	return h
}

// send carries a message to the peer; nil ends what this end sends, with final
// as the peer's last word.
func (h *half) send(b []byte, final error) error {
	w := h.p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.over || h.p.dead.Load() {
		return io.EOF // Recv tells why
	}
	if h.doomed {
		return nil
	}
	w.sent[h.out.class] += len(b)
	leaves := max(w.now(), h.p.stalled())
	if leaves < h.out.cutUntil {
		if h.out.cutUntil-leaves > breakAfter {
			h.doomed = true // what is lost is never followed by what came after it
			w.after(leaves+breakAfter-w.now(), h.breakBoth)
			return nil
		}
		leaves = h.out.cutUntil
	}
	at := leaves + h.out.delay(leaves)
	if h.loose && b != nil && leaves < h.out.wildUntil {
		h.sendWild(b, at)
		return nil
	}
	h.fifo = max(h.fifo, at)
	w.after(h.fifo-w.now(), func() { h.peer.deliver(b, final) })
	return nil
}

// sendWild doubles, delays or loses a message, without order.
func (h *half) sendWild(b []byte, at time.Duration) {
	w := h.p.w
	copies := 1
	switch h.out.rng.IntN(6) {
	case 0:
		copies = 0
	case 1:
		copies = 2
	}
	for range copies {
		w.after(at+h.out.upTo(300*time.Millisecond)-w.now(), func() { h.peer.deliver(b, nil) })
	}
}

// deliver takes in a message. World.mu is held.
func (h *half) deliver(b []byte, final error) {
	w := h.p.w
	if h.over {
		return
	}
	if h.p.dead.Load() {
		h.peer.refused()
		return
	}
	if until := h.p.stalled(); until > 0 {
		w.after(until-w.now(), func() { h.deliver(b, final) })
		return
	}
	h.mu.Lock()
	if b != nil {
		h.inbox = append(h.inbox, b)
	} else if h.err == nil {
		h.err = final
	}
	h.mu.Unlock()
	h.wake()
}

// refused tells an end, after a while, that the other is gone.
func (h *half) refused() {
	w := h.p.w
	d := h.peer.out.delay(w.now())
	if w.now() < h.peer.out.cutUntil || h.peer.p.mach.off() {
		d = breakAfter
	}
	w.after(d, func() { h.fail(errBroken) })
}

// fail ends the stream for this end. World.mu is held.
func (h *half) fail(err error) {
	if h.over {
		return
	}
	h.over = true
	delete(h.p.ends, h)
	h.mu.Lock()
	if h.err == nil {
		h.err = err
	}
	h.mu.Unlock()
	h.wake()
	h.cancel()
}

// breakBoth breaks the connection: both ends miss each other.
func (h *half) breakBoth() {
	h.fail(errBroken)
	h.peer.fail(errBroken)
}

// abandon is what the death of its process does to an end. World.mu is held.
func (h *half) abandon() {
	h.over = true
	h.cancel()
	if !h.peer.over {
		h.peer.refused()
	}
}

// leave ends the stream because this end wants no more; the peer hears of it.
func (h *half) leave() {
	w := h.p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.over {
		return
	}
	h.over = true
	delete(h.p.ends, h)
	if w.now() >= h.out.cutUntil && !h.p.dead.Load() {
		at := max(h.fifo, w.now()+h.out.delay(w.now()))
		w.after(at-w.now(), func() { h.peer.fail(status.Error(codes.Canceled, "the other end has gone")) })
	}
}

func (h *half) wake() {
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

// recv waits for the next message.
func (h *half) recv() ([]byte, error) {
	for {
		h.mu.Lock()
		if len(h.inbox) > 0 {
			b := h.inbox[0]
			h.inbox = h.inbox[1:]
			h.mu.Unlock()
			return b, nil
		}
		err := h.err
		h.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-h.ready:
		case <-h.ctx.Done():
			h.mu.Lock()
			err := h.err
			h.mu.Unlock()
			if err == nil {
				err = status.FromContextError(h.ctx.Err()).Err()
			}
			return nil, err
		}
	}
}

// The rest makes a half the stream that gRPC's generated code works with.

func (h *half) Context() context.Context     { return h.ctx }
func (h *half) SetHeader(metadata.MD) error  { return nil }
func (h *half) SendHeader(metadata.MD) error { return nil }
func (h *half) SetTrailer(metadata.MD)       {}

func (h *half) SendMsg(m any) error {
	b, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return err
	}
	if b == nil {
		b = []byte{} // nil is the end
	}
	return h.send(b, nil)
}

func (h *half) RecvMsg(m any) error {
	b, err := h.recv()
	if err != nil {
		return err
	}
	return proto.Unmarshal(b, m.(proto.Message))
}

// clientHalf is the end of the one who opened the stream.
type clientHalf struct{ *half }

func (c clientHalf) Header() (metadata.MD, error) { return nil, nil }
func (c clientHalf) Trailer() metadata.MD         { return nil }
func (c clientHalf) CloseSend() error             { return c.send(nil, io.EOF) }

var (
	_ grpc.ClientStream = clientHalf{}
	_ grpc.ServerStream = (*half)(nil)
)
