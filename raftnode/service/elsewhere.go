package service

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// peerPatience is how long another member may take to begin to tell what it has.
const peerPatience = 3 * time.Second

// offer is a member's history, read as far as its first batch.
type offer struct {
	member string
	stream grpc.ServerStreamingClient[memberv1.FetchLogResponse]
	first  *memberv1.FetchLogResponse
}

// peersHistory hands over the batches with from <= revision < until as another
// member's log has them: a member that lost its disk, or was sent a snapshot, does not
// have them itself. The hash chain has to lead to what this member has. If nobody
// has any, nothing is handed over.
func (s *Services) peersHistory(ctx context.Context, from, until uint64, send func(consensus.Entry) error) error {
	goal, err := s.chainBefore(ctx, until)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	best := s.oldestOffer(ctx, from, until)
	if best == nil {
		return nil
	}
	wrong := status.Errorf(codes.DataLoss, "the history of %s before revision %d does not lead to that of %s; compare 'qlbctl get members -o wide'", best.member, until, s.cfg.ID)
	var chain fsm.Hash
	next := best.first.GetRevision()
	for m := best.first; ; {
		b, err := fsm.DecodeBatch(m.GetBatch())
		if err != nil || b.GetRevision() != next || next > best.first.GetRevision() && fsm.Hash(b.GetPrev()) != chain {
			return wrong
		}
		chain = fsm.Hash(b.GetPrev()).NextChain(m.GetBatch())
		if next++; next == until && chain != goal {
			return wrong
		}
		if err := send(consensus.Entry{Revision: b.GetRevision(), Raw: m.GetBatch(), Batch: b}); err != nil {
			return err
		}
		if next == until {
			return nil
		}
		if m, err = best.stream.Recv(); err != nil {
			return status.Errorf(codes.Unavailable, "%s stopped telling its history at revision %d: %v; try again", best.member, next, status.Convert(err).Message())
		}
	}
}

// chainBefore is the hash that the chain had before a revision.
func (s *Services) chainBefore(ctx context.Context, revision uint64) (fsm.Hash, error) {
	var chain fsm.Hash
	var newest uint64
	s.cfg.Log.Read(func(st *fsm.State) { chain, newest = st.Chain, st.Revision })
	if revision > newest {
		return chain, nil
	}
	own, err := s.cfg.Log.History(ctx, revision, revision+1)
	if err != nil {
		return chain, fromLog(err)
	}
	return fsm.Hash(own[0].Batch.GetPrev()), nil
}

// oldestOffer asks all other members at once and takes the one whose history
// begins first; nil if none has anything to tell.
func (s *Services) oldestOffer(ctx context.Context, from, until uint64) (best *offer) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range s.cfg.Membership.Members() {
		if m.ID == s.cfg.ID {
			continue
		}
		wg.Go(func() {
			o, err := s.askHistory(ctx, m, from, until)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					s.log.Info("a member does not tell its history", "of", m.ID, "error", err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if best == nil || o.first.GetRevision() < best.first.GetRevision() {
				best = o
			}
		})
	}
	wg.Wait()
	return best
}

// askHistory opens a stream, which ends with ctx, and waits for its beginning.
func (s *Services) askHistory(ctx context.Context, m consensus.Member, from, until uint64) (*offer, error) {
	conn, err := s.cfg.Peers.Conn(m.Address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(peerPatience, cancel)
	stream, err := memberv1.NewMemberServiceClient(conn).FetchLog(ctx, &memberv1.FetchLogRequest{From: from, Until: until})
	if err != nil {
		cancel()
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil || !late.Stop() {
		cancel()
		return nil, errors.Join(err, ctx.Err())
	}
	return &offer{member: m.ID, stream: stream, first: first}, nil
}
