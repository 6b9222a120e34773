// Package sent tells whether anything of a gRPC call has left this process: a call of which
// nothing has was certainly not executed.
package sent

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// DialOption makes a connection tell it.
func DialOption() grpc.DialOption { return grpc.WithStatsHandler(tracer{}) }

// Trace gives the context for a call, and what will be true once something of it has
// left.
func Trace(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, key{}, sent), sent
}

type key struct{}

type tracer struct{}

func (tracer) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (tracer) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(key{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

func (tracer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (tracer) HandleConn(context.Context, stats.ConnStats)                       {}
