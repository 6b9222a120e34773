package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

const (
	// snapshotChunk is the size of a message of a backup.
	snapshotChunk = 64 << 10
	// maxSnapshot bounds what a restore takes in.
	maxSnapshot = 4 << 30
)

// SnapshotSave streams a backup that holds every write acknowledged before the
// call, unless a stale one will do.
func (s *Services) SnapshotSave(req *adminv1.SnapshotSaveRequest, stream grpc.ServerStreamingServer[adminv1.SnapshotSaveResponse]) error {
	if err := s.fresh(stream.Context(), req.GetStale()); err != nil {
		return err
	}
	w := bufio.NewWriterSize(chunkWriter{stream}, snapshotChunk)
	if req.GetAtRevision() == 0 && req.GetAtUnixNano() == 0 {
		if _, err := s.cfg.Log.SnapshotTo(w); err != nil {
			return fromLog(err)
		}
		return w.Flush()
	}
	return s.withPast(stream.Context(), req, func(st *fsm.State) error {
		if err := fsm.WriteSnapshot(w, st); err != nil {
			return err
		}
		return w.Flush()
	})
}

// chunkWriter sends what is written to it.
type chunkWriter struct {
	stream grpc.ServerStreamingServer[adminv1.SnapshotSaveResponse]
}

func (w chunkWriter) Write(p []byte) (int, error) {
	for chunk := p; len(chunk) > 0; {
		n := min(len(chunk), snapshotChunk)
		if err := w.stream.Send(&adminv1.SnapshotSaveResponse{Chunk: chunk[:n:n]}); err != nil {
			return 0, err
		}
		chunk = chunk[n:]
	}
	return len(p), nil
}

// SnapshotRestore reverts the group's intent and allocations to a backup. The
// member that is called reads the backup as a whole and checks it before
// anything else happens; then the leader decides.
func (s *Services) SnapshotRestore(stream grpc.ClientStreamingServer[adminv1.SnapshotRestoreRequest, adminv1.SnapshotRestoreResponse]) error {
	file, err := os.CreateTemp("", "quorumlb-restore-*")
	if err != nil {
		return status.Errorf(codes.ResourceExhausted, "no room for the upload on this member: %v", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	dryRun, err := receiveSnapshot(stream, file)
	if err != nil {
		return err
	}
	older, err := readSnapshot(file)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "the backup cannot be used: %v", err)
	}
	var resp *adminv1.SnapshotRestoreResponse
	err = s.forward.atLeader(stream.Context(), func(ctx context.Context) (err error) {
		resp, err = s.restore(ctx, older, dryRun)
		return err
	}, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = s.sendSnapshot(ctx, conn, file, dryRun)
		return err
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(resp)
}

func receiveSnapshot(stream grpc.ClientStreamingServer[adminv1.SnapshotRestoreRequest, adminv1.SnapshotRestoreResponse], w io.Writer) (dryRun bool, err error) {
	size := 0
	for first := true; ; first = false {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return dryRun, nil
		case err != nil:
			return false, err
		}
		if first {
			dryRun = m.GetDryRun()
		}
		if size += len(m.GetChunk()); size > maxSnapshot {
			return false, status.Errorf(codes.ResourceExhausted, "the backup is larger than %d bytes", maxSnapshot)
		}
		if _, err := w.Write(m.GetChunk()); err != nil {
			return false, status.Errorf(codes.ResourceExhausted, "no room for the upload on this member: %v", err)
		}
	}
}

func readSnapshot(file io.ReadSeeker) (*fsm.State, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return fsm.ReadSnapshot(bufio.NewReaderSize(file, snapshotChunk))
}

func (s *Services) restore(ctx context.Context, older *fsm.State, dryRun bool) (*adminv1.SnapshotRestoreResponse, error) {
	res, err := s.submit(ctx, &decider.RestoreTo{Older: older, DryRun: dryRun, Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	return &adminv1.SnapshotRestoreResponse{
		Revision: res.Revision, FromRevision: res.Restored.FromRevision,
		ServicesChanged: uint32(res.Restored.ServicesChanged), AddressesChanged: uint32(res.Restored.AddressesChanged),
	}, nil
}

// sendSnapshot uploads the backup to the leader.
func (s *Services) sendSnapshot(ctx context.Context, conn *grpc.ClientConn, file io.ReadSeeker, dryRun bool) (*adminv1.SnapshotRestoreResponse, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the upload again: %w", err)
	}
	up, err := adminv1.NewAdminServiceClient(conn).SnapshotRestore(s.forward.behalf(ctx))
	if err != nil {
		return nil, err
	}
	buf := make([]byte, snapshotChunk)
	for {
		n, err := io.ReadFull(file, buf)
		if n > 0 {
			if err := up.Send(&adminv1.SnapshotRestoreRequest{Chunk: buf[:n], DryRun: dryRun}); err != nil {
				break // CloseAndRecv tells why
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the upload again: %w", err)
		}
	}
	return up.CloseAndRecv()
}
