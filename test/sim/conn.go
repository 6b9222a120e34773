package sim

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// registry holds the services of a process by method, as a gRPC server does.
type registry struct {
	unary   map[string]handler[grpc.MethodDesc]
	streams map[string]handler[grpc.StreamDesc]
}

type handler[D any] struct {
	desc D
	impl any
}

func newRegistry() *registry {
	return &registry{unary: make(map[string]handler[grpc.MethodDesc]), streams: make(map[string]handler[grpc.StreamDesc])}
}

// RegisterService is called by generated code.
func (r *registry) RegisterService(d *grpc.ServiceDesc, impl any) {
	for _, m := range d.Methods {
		r.unary["/"+d.ServiceName+"/"+m.MethodName] = handler[grpc.MethodDesc]{m, impl}
	}
	for _, s := range d.Streams {
		r.streams["/"+d.ServiceName+"/"+s.StreamName] = handler[grpc.StreamDesc]{s, impl}
	}
}

// conn is a connection from a process to a member, whoever it is when it is used.
type conn struct {
	p  *proc
	to *member
}

// forwardedKey marks the context of a call that a member makes for another.
type forwardedKey struct{}

func (c *conn) Connect()     {}
func (c *conn) Close() error { return nil }

// classesOf gives the links for requests and answers of a method, and whether its
// messages need no order.
func classesOf(method string) (there, back class, loose bool) {
	switch method {
	case memberv1.MemberService_Pulse_FullMethodName:
		return pulseClass, pulseClass, false
	case speakerv1.SpeakerService_Heartbeat_FullMethodName:
		return beatClass, ackClass, true
	case speakerv1.SpeakerService_Watch_FullMethodName:
		return callClass, viewClass, false
	}
	return callClass, callClass, false
}

// connectPatience is how long an attempt to connect may take.
const connectPatience = 200 * time.Millisecond

// open makes a stream and has the member serve it.
func (c *conn) open(ctx context.Context, method string, forwarded bool) (*half, error) {
	w := c.p.w
	there, back, loose := classesOf(method)
	w.mu.Lock()
	target := c.to.proc
	out, in := w.link(there, c.p.mach, c.to.mach), w.link(back, c.to.mach, c.p.mach)
	leaves := max(w.now(), c.p.stalled())
	var wait time.Duration
	switch cut := max(out.cutUntil, in.cutUntil); {
	case c.p.dead.Load():
		w.mu.Unlock()
		return nil, status.Error(codes.Unavailable, "this process is dead")
	case target == nil || target.dead.Load() || c.to.services == nil: // nobody listens (yet)
		wait = leaves + out.delay(leaves) + in.delay(leaves)
	case leaves < cut:
		wait = leaves + connectPatience
	}
	if wait > 0 {
		wait -= w.now()
		w.mu.Unlock()
		if err := pause(ctx, wait); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		return nil, status.Errorf(codes.Unavailable, "cannot connect to %s", c.to.addr)
	}
	client := newHalf(ctx, c.p, out, loose)
	server := newHalf(target.ctx, target, in, loose)
	client.peer, server.peer = server, client
	c.p.ends[client], target.ends[server] = struct{}{}, struct{}{}
	client.fifo = leaves + out.delay(leaves)
	serve := c.to.services.serve(method, server, forwarded)
	w.after(client.fifo-w.now(), func() {
		w.arrive(target, func() { target.run(func(context.Context) { serve() }) })
	})
	w.mu.Unlock()
	context.AfterFunc(client.ctx, client.leave)
	return client, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NewStream opens a stream.
func (c *conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	h, err := c.open(ctx, method, false)
	if err != nil {
		return nil, err
	}
	return clientHalf{h}, nil
}

// Invoke makes a call with one answer.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h, err := c.open(ctx, method, ctx.Value(forwardedKey{}) != nil)
	if err != nil {
		return err
	}
	if err := h.SendMsg(args); err != nil {
		return errBroken
	}
	return h.RecvMsg(reply)
}

// serve returns what the server does with a new stream.
func (r *registry) serve(method string, h *half, forwarded bool) func() {
	return func() {
		err := r.handle(method, h, forwarded)
		final := err
		if err == nil {
			final = io.EOF
		} else if _, ok := status.FromError(err); !ok {
			final = status.FromContextError(err).Err()
		}
		_ = h.send(nil, final)
		h.end()
	}
}

func (r *registry) handle(method string, h *half, forwarded bool) error {
	if s, ok := r.streams[method]; ok {
		return s.desc.Handler(s.impl, h)
	}
	m, ok := r.unary[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "%s", method)
	}
	ctx := h.ctx
	if forwarded {
		ctx = context.WithValue(ctx, forwardedKey{}, true)
	}
	resp, err := m.desc.Handler(m.impl, ctx, func(req any) error { return h.RecvMsg(req) }, nil)
	if err != nil {
		return err
	}
	return h.SendMsg(resp.(proto.Message))
}

// end closes an end whose last word is on its way.
func (h *half) end() {
	w := h.p.w
	w.mu.Lock()
	h.over = true
	delete(h.p.ends, h)
	w.mu.Unlock()
	h.cancel()
}
