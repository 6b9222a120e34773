package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/internal/pki"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// fakeGroup is what the members of a fake group share.
type fakeGroup struct {
	mu       sync.Mutex
	get      *adminv1.GetResponse
	status   *adminv1.StatusResponse
	probe    *adminv1.ProbeResponse
	events   []*adminv1.EventsResponse
	snapshot []byte
	fail     map[string]error // by method
	last     map[string]proto.Message
	restored []byte
	// breaks counts the facts after which a follower loses its stream, once.
	breaks int
}

// fakeMember is one member: a real gRPC server behind real TLS.
type fakeMember struct {
	adminv1.UnimplementedAdminServiceServer
	*fakeGroup
	id     string
	addr   string
	server *grpc.Server
	down   atomic.Bool // answers Unavailable
}

// startMember listens on a port of its own until stop is called.
func startMember(g *fakeGroup, id string, identity *pki.Reloader) (m *fakeMember, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m = &fakeMember{fakeGroup: g, id: id, addr: l.Addr().String()}
	m.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS("h2"))), grpc.UnaryInterceptor(m.unary), grpc.StreamInterceptor(m.stream))
	adminv1.RegisterAdminServiceServer(m.server, m)
	go m.server.Serve(l) // ends with server.Stop
	return m, nil
}

func (m *fakeMember) stop() { m.server.Stop() }

// check gives the error that a script planned for a method.
func (m *fakeMember) check(method string, req any) error {
	name := method[strings.LastIndex(method, "/")+1:]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down.Load() {
		return status.Error(codes.Unavailable, "the group has no leader; see 'qlbctl status --stale'")
	}
	if p, ok := req.(proto.Message); ok {
		m.last[name] = proto.Clone(p)
	}
	return m.fail[name]
}

func (m *fakeMember) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := m.check(info.FullMethod, req); err != nil {
		return nil, err
	}
	return h(ctx, req)
}

func (m *fakeMember) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := m.check(info.FullMethod, nil); err != nil {
		return err
	}
	return h(srv, ss)
}

func (m *fakeMember) Get(_ context.Context, req *adminv1.GetRequest) (*adminv1.GetResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := proto.CloneOf(m.get)
	out := &adminv1.GetResponse{Revision: all.GetRevision()}
	wants := func(name string) bool { return req.GetName() == "" || req.GetName() == name }
	for _, k := range req.GetKinds() {
		switch k {
		case "pools":
			out.Pools = slices.DeleteFunc(all.Pools, func(p *adminv1.PoolStatus) bool { return !wants(p.GetPool().GetName()) })
		case "l2advertisements":
			out.L2Advertisements = slices.DeleteFunc(all.L2Advertisements, func(a *logv1.L2Advertisement) bool { return !wants(a.GetName()) })
		case "services":
			out.Services = slices.DeleteFunc(all.Services, func(s *adminv1.ServiceStatus) bool {
				return !wants(s.GetService().GetNamespace() + "/" + s.GetService().GetName())
			})
		case "namespaces":
			out.Namespaces = slices.DeleteFunc(all.Namespaces, func(n *adminv1.NamespaceStatus) bool { return !wants(n.GetNamespace().GetName()) })
		case "reservations":
			out.Reservations = slices.DeleteFunc(all.Reservations, func(r *adminv1.ReservationStatus) bool { return !wants(r.GetReservation().GetName()) })
		case "vips":
			out.Vips = slices.DeleteFunc(all.Vips, func(v *adminv1.VipStatus) bool { return !wants(v.GetAddress()) })
		case "nodes":
			out.Nodes = slices.DeleteFunc(all.Nodes, func(n *adminv1.NodeStatus) bool { return !wants(n.GetName()) })
		case "quarantine":
			out.Quarantine = slices.DeleteFunc(all.Quarantine, func(q *adminv1.QuarantineStatus) bool { return !wants(q.GetAddress()) })
		case "members":
			out.Members = slices.DeleteFunc(all.Members, func(s *adminv1.MemberStatus) bool { return !wants(s.GetId()) })
		default:
			return nil, status.Errorf(codes.InvalidArgument, "kind %q", k)
		}
	}
	return out, nil
}

func (m *fakeMember) Status(context.Context, *adminv1.StatusRequest) (*adminv1.StatusResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := proto.CloneOf(m.status)
	s.AnsweredBy = m.id
	return s, nil
}

// Apply answers as for resources that are all new; those that are there already
// are "configured".
func (m *fakeMember) Apply(_ context.Context, req *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := &adminv1.ApplyResponse{Revision: m.get.GetRevision() + 1}
	for _, r := range req.GetResources() {
		out := &adminv1.ApplyResult{Result: "created"}
		switch k := r.GetKind().(type) {
		case *adminv1.Resource_Pool:
			out.Kind, out.Name = "IPAddressPool", k.Pool.GetName()
			if slices.ContainsFunc(m.get.Pools, func(p *adminv1.PoolStatus) bool { return p.GetPool().GetName() == out.Name }) {
				out.Result = "configured"
				if req.GetDryRun() {
					resp.Effects = []*adminv1.Effect{
						{Service: "default/dns", Taken: []string{"192.0.2.10"}, Given: []string{"192.0.2.11"}},
						{Service: "shop/web", Leaving: []string{"192.0.2.10"}, Pending: "keeps 192.0.2.10, which is to be replaced"},
					}
				}
			}
		case *adminv1.Resource_L2Advertisement:
			out.Kind, out.Name = "L2Advertisement", k.L2Advertisement.GetName()
		case *adminv1.Resource_Namespace:
			out.Kind, out.Name = "Namespace", k.Namespace.GetName()
		case *adminv1.Resource_Reservation:
			out.Kind, out.Name = "Reservation", k.Reservation.GetName()
		case *adminv1.Resource_Service:
			out.Kind, out.Name = "VirtualService", k.Service.GetNamespace()+"/"+k.Service.GetName()
			out.Addresses = []string{"192.0.2.10"}
			if k.Service.GetPool() == "full" {
				out.Addresses, out.Pending = nil, "pool full: no free address"
			}
		}
		resp.Results = append(resp.Results, out)
	}
	return resp, nil
}

func (m *fakeMember) Delete(_ context.Context, req *adminv1.DeleteRequest) (*adminv1.DeleteResponse, error) {
	resp := &adminv1.DeleteResponse{Revision: 1235}
	for _, n := range req.GetNames() {
		resp.Existed = append(resp.Existed, n.GetName() != "missing")
		if !req.GetDryRun() {
			continue
		}
		switch n.GetKind() {
		case "VirtualService":
			resp.Effects = append(resp.Effects, &adminv1.Effect{Service: n.GetNamespace() + "/" + n.GetName(), Deleted: true, Taken: []string{"192.0.2.9"}})
		case "IPAddressPool":
			if !req.GetForce() {
				resp.NeedsForce = append(resp.NeedsForce, `pool "public" is used by shop/web (192.0.2.10)`)
			}
			resp.Effects = append(resp.Effects, &adminv1.Effect{Service: "shop/web", Taken: []string{"192.0.2.10"}, Given: []string{"198.51.100.1"}, Owners: []*adminv1.OwnerEffect{
				{Address: "198.51.100.1", Why: "no L2Advertisement selects the pool"},
			}})
		case "L2Advertisement":
			resp.EffectsLeftOut = 7
			resp.Effects = append(resp.Effects, &adminv1.Effect{Service: "shop/web", Owners: []*adminv1.OwnerEffect{
				{Address: "192.0.2.10", FromNode: "n1", Why: "no L2Advertisement selects the pool"},
				{Address: "192.0.2.11", FromNode: "n1", ToNode: "n2", Why: "node is not selected by any L2Advertisement of the pool"},
				{Address: "192.0.2.12", FromNode: "n1", ToNode: "n1", Why: "on eth1 instead of all interfaces"},
				{Address: "192.0.2.13", ToNode: "n2"},
			}, Unselected: []string{"192.0.2.14"}})
		}
	}
	return resp, nil
}

// Drain of n2 is done when its addresses are asked for the second time.
func (m *fakeMember) Drain(_ context.Context, req *adminv1.DrainRequest) (*adminv1.DrainResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.get.GetNodes() {
		if n.GetName() == req.GetNode() {
			owned := n.GetOwned()
			if req.GetNode() != "n1" { // n1 cannot be emptied
				n.Owned = 0
			}
			soft := n.GetSoft()
			if req.GetGraceNanos() == 0 {
				n.Soft = 0
			}
			return &adminv1.DrainResponse{Revision: 1235, Owned: owned, Soft: soft}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "node %q does not exist", req.GetNode())
}

func (m *fakeMember) Undrain(context.Context, *adminv1.UndrainRequest) (*adminv1.UndrainResponse, error) {
	return &adminv1.UndrainResponse{Revision: 1236}, nil
}

func (m *fakeMember) Move(_ context.Context, req *adminv1.MoveRequest) (*adminv1.MoveResponse, error) {
	to := req.GetToNode()
	if to == "" {
		return &adminv1.MoveResponse{Revision: 1237, FromNode: "n1", ToNode: "n2"}, nil // and is never done
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.get.GetVips() {
		if v.GetAddress() == req.GetAddress() {
			v.Owner, v.Epoch = to, 1238
		}
	}
	return &adminv1.MoveResponse{Revision: 1237, FromNode: "n1", ToNode: to}, nil
}

// Rebalance is done when its status is asked for the second time.
func (m *fakeMember) Rebalance(_ context.Context, req *adminv1.RebalanceRequest) (*adminv1.RebalanceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := &adminv1.RebalanceResponse{Revision: 1239}
	if req.GetStop() || len(m.get.GetVips()) == 0 {
		m.status.RebalancePerMinute = 0
		return resp, nil
	}
	resp.PerMinute = max(req.GetPerMinute(), 60)
	resp.Moves = []*adminv1.BalanceMove{
		{Address: "192.0.2.10", FromNode: "n1", ToNode: "n10"}, {Address: "2001:db8:0:1::10", FromNode: "n2", ToNode: "n10"},
	}
	if req.GetDryRun() {
		resp.Held = []*adminv1.BalanceMove{{Address: "192.0.2.11", FromNode: "n1", ToNode: "n2", HeldUntilUnixNano: ago(-time.Minute)}}
	}
	if !req.GetDryRun() && req.GetPerMinute() != 0 {
		m.status.RebalancePerMinute = resp.PerMinute
	}
	return resp, nil
}

func (m *fakeMember) ForgetNode(context.Context, *adminv1.ForgetNodeRequest) (*adminv1.ForgetNodeResponse, error) {
	return &adminv1.ForgetNodeResponse{Revision: 1238}, nil
}

func (m *fakeMember) SetLeaseTimes(context.Context, *adminv1.SetLeaseTimesRequest) (*adminv1.SetLeaseTimesResponse, error) {
	return &adminv1.SetLeaseTimesResponse{Revision: 1239}, nil
}

func (m *fakeMember) SetRetention(context.Context, *adminv1.SetRetentionRequest) (*adminv1.SetRetentionResponse, error) {
	return &adminv1.SetRetentionResponse{Revision: 1240}, nil
}

func (m *fakeMember) EndQuarantine(_ context.Context, req *adminv1.EndQuarantineRequest) (*adminv1.EndQuarantineResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range m.get.GetQuarantine() {
		if q.GetAddress() == req.GetAddress() {
			return &adminv1.EndQuarantineResponse{Revision: 1241}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "quarantine of %q does not exist", req.GetAddress())
}

func (m *fakeMember) Probe(context.Context, *adminv1.ProbeRequest) (*adminv1.ProbeResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return proto.CloneOf(m.probe), nil
}

// Events filters by node alone; that is enough to see that a filter arrives. A
// follower's stream ends when all is sent, unless it breaks before.
func (m *fakeMember) Events(req *adminv1.EventsRequest, stream grpc.ServerStreamingServer[adminv1.EventsResponse]) error {
	m.mu.Lock()
	m.last["Events"] = proto.Clone(req)
	events, breaks := m.events, m.breaks
	if req.GetFollow() {
		m.breaks = 0
	}
	m.mu.Unlock()
	for i, e := range events {
		if req.GetFollow() && breaks > 0 && i == breaks {
			return status.Error(codes.Unavailable, "this member is shutting down")
		}
		if e.GetRevision() < req.GetSinceRevision() || e.GetTimeUnixNano() < req.GetSinceUnixNano() {
			continue
		}
		if req.GetNode() != "" && !strings.Contains(prototext.Format(e.GetEvent()), `"`+req.GetNode()+`"`) {
			continue
		}
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	if req.GetFollow() {
		return status.Error(codes.PermissionDenied, "the script ends here")
	}
	return nil
}

func (m *fakeMember) SnapshotSave(_ *adminv1.SnapshotSaveRequest, stream grpc.ServerStreamingServer[adminv1.SnapshotSaveResponse]) error {
	m.mu.Lock()
	raw := m.snapshot
	m.mu.Unlock()
	for chunk := range slices.Chunk(raw, 100) {
		if err := stream.Send(&adminv1.SnapshotSaveResponse{Chunk: chunk}); err != nil {
			return err
		}
	}
	return nil
}

func (m *fakeMember) SnapshotRestore(stream grpc.ClientStreamingServer[adminv1.SnapshotRestoreRequest, adminv1.SnapshotRestoreResponse]) error {
	var raw bytes.Buffer
	dryRun, first := false, true
	for {
		req, err := stream.Recv()
		if err != nil {
			break
		}
		if first {
			dryRun, first = req.GetDryRun(), false
		}
		raw.Write(req.GetChunk())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(raw.Bytes(), m.snapshot) {
		return status.Errorf(codes.InvalidArgument, "the backup cannot be used: %d bytes arrived", raw.Len())
	}
	resp := &adminv1.SnapshotRestoreResponse{FromRevision: 3, ServicesChanged: 2, AddressesChanged: 1}
	if !dryRun {
		m.restored, resp.Revision = raw.Bytes(), 1241
	}
	return stream.SendAndClose(resp)
}

func (m *fakeMember) AddMember(context.Context, *adminv1.AddMemberRequest) (*adminv1.AddMemberResponse, error) {
	return &adminv1.AddMemberResponse{}, nil
}

func (m *fakeMember) RemoveMember(context.Context, *adminv1.RemoveMemberRequest) (*adminv1.RemoveMemberResponse, error) {
	return &adminv1.RemoveMemberResponse{}, nil
}

func (m *fakeMember) TransferLeadership(_ context.Context, req *adminv1.TransferLeadershipRequest) (*adminv1.TransferLeadershipResponse, error) {
	to := req.GetTo()
	if to == "" {
		to = "m2"
	}
	return &adminv1.TransferLeadershipResponse{Leader: to}, nil
}

func (m *fakeMember) Version(context.Context, *adminv1.VersionRequest) (*adminv1.VersionResponse, error) {
	return &adminv1.VersionResponse{Version: "v9.8.7", GoVersion: "go1.99", MaxClusterVersion: 1}, nil
}

// plannedError makes the error that a script asks for: a code's name, a message
// and "path=problem" violations.
func plannedError(code, message string, violations []string) (error, bool) {
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if c.String() != code {
			continue
		}
		st := status.New(c, message)
		bad := &errdetails.BadRequest{}
		for _, v := range violations {
			field, problem, _ := strings.Cut(v, "=")
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: field, Description: problem})
		}
		if len(violations) > 0 {
			st, _ = st.WithDetails(bad)
		}
		return st.Err(), true
	}
	return nil, false
}

// serveJunk accepts TLS connections of members that speak something else.
func serveJunk(identity *pki.Reloader) (addr string, stop func(), err error) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", identity.ServerTLS("qlb-raft/1"))
	if err != nil {
		return "", nil, err
	}
	go func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "?")
			c.Close()
		}
	}()
	return l.Addr().String(), func() { l.Close() }, nil
}
