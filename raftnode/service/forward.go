package service

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/quorumlb/quorumlb/internal/sent"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// Group tells who leads.
type Group interface {
	Leadership() consensus.Leadership
}

// Times of forwarding.
const (
	// DefaultHold is how long a call waits while nobody leads: several elections.
	DefaultHold = 5 * time.Second
	// forwardTimeout bounds a forwarded call whose caller set no deadline.
	forwardTimeout = 15 * time.Second
	// forwardGrace is how long a leader that lost its place has to answer.
	forwardGrace = time.Second
	// retryMin and retryMax bound the pause before another try. It is random, so
	// that held calls do not fall on a new leader together.
	retryMin, retryMax = 5 * time.Millisecond, 50 * time.Millisecond
)

// forwarder takes calls that only the leader answers to the leader.
type forwarder struct {
	self  string // this member's id
	group Group
	peers *Peers
	hold  time.Duration
}

func (f *forwarder) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !methods[info.FullMethod].leader {
		return next(ctx, req)
	}
	var resp any
	err := f.atLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = next(ctx, req)
		return err
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		reply, err := newReply(info.FullMethod)
		if err != nil {
			return err
		}
		resp = reply
		return conn.Invoke(f.behalf(ctx), info.FullMethod, req, reply)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// atLeader runs local when this member leads, or remote with a connection to
// the member that does. It tries again while it is certain that nothing was
// done, for at most the hold time. A call that was forwarded once is not
// forwarded again: members that disagree about who leads would pass it round.
func (f *forwarder) atLeader(ctx context.Context,
	local func(context.Context) error, remote func(context.Context, *grpc.ClientConn) error,
) error {
	held, cancel := context.WithTimeout(ctx, f.hold)
	defer cancel()
	var last error
	for {
		l := f.group.Leadership()
		switch {
		case l.Leader:
			if last = local(ctx); !isNotLeader(last) {
				return last
			}
		case l.Address == "":
			last = errNoLeader()
		case callerOf(ctx).via != "":
			return errElsewhere(l)
		default:
			if last = f.forward(ctx, l, remote); !isNotLeader(last) {
				return last
			}
		}
		if callerOf(ctx).via != "" {
			return last // the member that forwarded it holds it
		}
		if err := pause(held, l.Changed); err != nil {
			return last
		}
	}
}

// behalf makes a call one in the caller's name.
func (f *forwarder) behalf(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, metaActor, callerOf(ctx).role.String(), metaForwarded, f.self)
}

// forward makes one call to the leader.
func (f *forwarder) forward(outer context.Context, l consensus.Leadership, call func(context.Context, *grpc.ClientConn) error) error {
	ctx, addr := outer, l.Address
	conn, err := f.peers.Conn(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	defer abandon(ctx, l.Changed, cancel)()
	ctx, left := sent.Trace(ctx)
	err = call(ctx, conn)
	if ctx.Err() != nil && outer.Err() == nil {
		err = status.Error(codes.Unavailable, "no answer")
	}
	if status.Code(err) != codes.Unavailable || reasonOf(err) != "" {
		return err // answered by the leader
	}
	if !left.Load() {
		return errUnreached(addr, err)
	}
	return errUnknownOutcome(fmt.Sprintf("the connection to the leader at %s broke", addr))
}

// abandon calls cancel some time after leadership has moved: the former leader
// would have answered by then, or is gone. The returned function ends the watch.
func abandon(ctx context.Context, moved <-chan struct{}, cancel context.CancelFunc) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-moved:
		case <-done:
			return
		}
		grace := time.NewTimer(forwardGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			cancel()
		case <-done:
		case <-ctx.Done():
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// pause waits for a change of leadership or a short random time. It fails when
// the hold time is over.
func pause(ctx context.Context, changed <-chan struct{}) error {
	wait := time.NewTimer(retryMin + rand.N(retryMax-retryMin))
	defer wait.Stop()
	select {
	case <-changed:
	case <-wait.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// newReply makes the message that a method answers with.
func newReply(method string) (proto.Message, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", method, err)
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("describe %s: it is no method", method)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(md.Output().FullName())
	if err != nil {
		return nil, fmt.Errorf("describe the answer of %s: %w", method, err)
	}
	return t.New().Interface(), nil
}
