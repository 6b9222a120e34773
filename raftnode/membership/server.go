package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// Reasons in google.rpc.ErrorInfo. NOT_LEADER is the one that a forwarder knows.
const (
	errorDomain        = "quorumlb.io"
	reasonNotLeader    = "NOT_LEADER"
	reasonRemoved      = "REMOVED"
	reasonOtherCluster = "OTHER_CLUSTER"
	reasonVersion      = "CLUSTER_VERSION"
	reasonAlive        = "NAME_IN_USE"
)

func refuse(code codes.Code, reason, format string, args ...any) error {
	st := status.Newf(code, format, args...)
	if d, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}); err == nil {
		st = d
	}
	return st.Err()
}

// Hello tells who this member is. It answers at any time, also before Attach.
func (m *Membership) Hello(context.Context, *memberv1.HelloRequest) (*memberv1.HelloResponse, error) {
	out := &memberv1.HelloResponse{
		Name:              m.cfg.Name,
		Address:           m.cfg.Advertise,
		MaxClusterVersion: m.cfg.MaxClusterVersion,
		Version:           m.cfg.Version,
	}
	if _, listed := m.cfg.Members[m.cfg.Name]; listed {
		out.ExpectedMembers = m.names
	}
	if id, ok := m.cfg.Store.Identity(); ok {
		out.Id = id.ID
	}
	if id, ok := m.cfg.Store.ClusterID(); ok {
		out.ClusterId = id[:]
	}
	if node := m.node.Load(); node != nil {
		out.HasState = node.HasState()
		out.Revision = node.Revision()
		out.LeaderId = node.LeaderID()
		return out, nil
	}
	has, err := m.cfg.Store.HasState()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	out.HasState = has
	return out, nil
}

// Join takes the caller in, or brings its address up to date if it is in. It
// works on the leader.
func (m *Membership) Join(ctx context.Context, req *memberv1.JoinRequest) (*memberv1.JoinResponse, error) {
	if err := storage.ValidateName(req.GetName()); err != nil || storage.MemberName(req.GetId()) != req.GetName() || req.GetAddress() == "" {
		return nil, status.Errorf(codes.InvalidArgument, "id %q, name %q, address %q do not fit together", req.GetId(), req.GetName(), req.GetAddress())
	}
	node := m.node.Load()
	if node == nil || !node.Leadership().Leader {
		return nil, refuse(codes.Unavailable, reasonNotLeader, "this member does not lead")
	}
	var cluster [16]byte
	var version uint32
	node.Read(func(s *fsm.State) { cluster, version = s.ClusterID, s.ClusterVersion })
	switch {
	case cluster == [16]byte{}:
		return nil, refuse(codes.Unavailable, reasonNotLeader, "the cluster is not founded yet")
	case len(req.GetClusterId()) > 0 && !bytes.Equal(req.GetClusterId(), cluster[:]):
		return nil, refuse(codes.FailedPrecondition, reasonOtherCluster, "%s belongs to cluster %x, this is %x", req.GetId(), req.GetClusterId(), cluster)
	case req.GetMaxClusterVersion() < version:
		return nil, refuse(codes.FailedPrecondition, reasonVersion,
			"%s supports cluster versions up to %d, the cluster is at %d: upgrade it", req.GetId(), req.GetMaxClusterVersion(), version)
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	_, in := node.Member(req.GetId())
	var err error
	switch {
	case in:
		// The entry that took it in may still be on its way.
		if err = node.Barrier(m.cfg.CallTimeout); err == nil {
			err = node.SetAddress(ctx, req.GetId(), req.GetAddress())
		}
	case len(req.GetClusterId()) > 0:
		return nil, refuse(codes.FailedPrecondition, reasonRemoved, "%s has been removed; empty its data directory to let it join as new", req.GetId())
	default:
		err = m.admit(ctx, node, req.GetId(), req.GetAddress())
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &memberv1.JoinResponse{ClusterId: cluster[:]}, nil
}

// errAlive means that the name of a new id belongs to a member that is alive.
var errAlive = errors.New("a member of this name is alive")

// admit takes in a new id, after the removal of the id that the name had before.
func (m *Membership) admit(ctx context.Context, node *consensus.Node, id, address string) error {
	name := storage.MemberName(id)
	for _, old := range node.Members() {
		if old.Name != name {
			continue
		}
		// A member that lost its disk no longer answers for its old id.
		if node.Alive(old.ID) {
			return fmt.Errorf("%w: %s at %s; two processes must not share a name", errAlive, old.ID, old.Address)
		}
		if err := node.Remove(ctx, old.ID); err != nil {
			return err
		}
		m.log.Info("old id removed", "member", old.ID, "for", id)
	}
	if err := node.AddNonvoter(ctx, id, address); err != nil {
		return err
	}
	m.log.Info("member taken in without a vote", "member", id, "address", address)
	return nil
}

func asStatus(err error) error {
	switch {
	case errors.Is(err, errAlive):
		return refuse(codes.AlreadyExists, reasonAlive, "%v", err)
	case errors.Is(err, consensus.ErrNotLeader):
		return refuse(codes.Unavailable, reasonNotLeader, "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	default:
		// Leadership lost meanwhile, or another change came first: asking again
		// finds out and does no harm.
		return status.Error(codes.Aborted, err.Error())
	}
}

// Members of the group.
func (m *Membership) Members() []consensus.Member {
	node := m.node.Load()
	if node == nil {
		return nil
	}
	members := node.Members()
	slices.SortFunc(members, func(a, b consensus.Member) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return members
}

var errNotAttached = fmt.Errorf("%w: this member belongs to no cluster yet", consensus.ErrNotLeader)

// Add takes in a member by id, or changes its address, on the leader.
func (m *Membership) Add(ctx context.Context, id, address string) error {
	if err := storage.ValidateName(storage.MemberName(id)); err != nil {
		return err
	}
	node := m.node.Load()
	if node == nil {
		return errNotAttached
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	if _, in := node.Member(id); in {
		return node.SetAddress(ctx, id, address)
	}
	return m.admit(ctx, node, id, address)
}

// Remove takes a member out, on the leader. It is given by id, or by its name.
func (m *Membership) Remove(ctx context.Context, id string) error {
	node := m.node.Load()
	if node == nil {
		return errNotAttached
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	if _, in := node.Member(id); !in {
		for _, other := range node.Members() {
			if other.Name == id {
				id = other.ID
				break
			}
		}
	}
	return node.Remove(ctx, id)
}

// Transfer hands leadership to a member, by id or name; an empty one means the
// member that answered last.
func (m *Membership) Transfer(ctx context.Context, to string) error {
	node := m.node.Load()
	if node == nil {
		return errNotAttached
	}
	if _, in := node.Member(to); !in && to != "" {
		for _, other := range node.Members() {
			if other.Name == to {
				to = other.ID
				break
			}
		}
	}
	return node.Transfer(ctx, to)
}
