package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/pki"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// Resolve finds out who this member is, and notes it on disk before it returns.
// A member with an empty disk waits here until it may found or join a cluster;
// meanwhile it answers Hello on the listener, and nothing else.
func (m *Membership) Resolve(ctx context.Context, ln net.Listener) (storage.Identity, error) {
	id, ok := m.cfg.Store.Identity()
	if ok {
		if id.Name != m.cfg.Name {
			return id, fmt.Errorf("%w: it is that of %s, this is %s", storage.ErrOtherName, id.ID, m.cfg.Name)
		}
		return id, nil
	}
	if has, err := m.cfg.Store.HasState(); err != nil {
		return id, err
	} else if has {
		return id, errors.New("the data directory holds a log but no identity")
	}
	stop := m.serveHello(ln)
	defer stop()
	reported := ""
	for {
		plan, why := m.plan(m.askAll(ctx))
		switch plan {
		case planFound:
			id = storage.FoundingIdentity(m.cfg.Name)
		case planJoin:
			id = storage.JoiningIdentity(m.cfg.Name)
		case planFail:
			return id, fmt.Errorf("%w: %s", ErrTwoClusters, why)
		}
		if id.ID != "" {
			m.log.Info("this member has an identity", "member", id.ID, "because", why)
			return id, m.cfg.Store.SetIdentity(id)
		}
		if why != reported {
			reported = why
			m.log.Info("waiting to found or join a cluster", "for", why)
		}
		if err := m.pause(ctx, m.cfg.Interval); err != nil {
			return id, err
		}
	}
}

// answers of the other listed members to Hello, by name; nil for no answer.
type answers map[string]*memberv1.HelloResponse

// askAll asks all others at once.
func (m *Membership) askAll(ctx context.Context) answers {
	var wait sync.WaitGroup
	var mu sync.Mutex
	out := make(answers)
	for name, address := range m.others() {
		wait.Go(func() {
			hello, err := m.hello(ctx, address)
			if err != nil {
				m.log.Debug("a member does not answer", "member", name, "address", address, "error", err)
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = hello
		})
	}
	wait.Wait()
	return out
}

func (m *Membership) hello(ctx context.Context, address string) (*memberv1.HelloResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.CallTimeout)
	defer cancel()
	client, err := m.cfg.Dial(address)
	if err != nil {
		return nil, err
	}
	return client.Hello(ctx, &memberv1.HelloRequest{})
}

type plan uint8

const (
	planWait plan = iota
	planFound
	planJoin
	planFail
)

// plan decides, for a member with an empty disk, from what the others answered.
// The second value says why, for people.
func (m *Membership) plan(got answers) (plan, string) {
	cluster, of := "", ""
	for _, name := range slices.Sorted(maps.Keys(got)) {
		id := string(got[name].GetClusterId())
		switch {
		case id == "" || id == cluster:
		case cluster != "":
			return planFail, fmt.Sprintf("%s is of %x, %s of %x", of, cluster, name, id)
		default:
			cluster, of = id, name
		}
	}
	if cluster != "" {
		return planJoin, fmt.Sprintf("%s belongs to cluster %x", of, cluster)
	}
	if _, listed := m.cfg.Members[m.cfg.Name]; !listed {
		return planWait, "a cluster to join: this member is not one of those that found one"
	}
	for _, name := range m.names {
		if name == m.cfg.Name {
			continue
		}
		if why := m.unfit(name, got[name]); why != "" {
			return planWait, why
		}
	}
	return planFound, "all listed members are reachable and empty"
}

// unfit says why a member's answer does not allow to found a cluster with it;
// empty if it does.
func (m *Membership) unfit(name string, h *memberv1.HelloResponse) string {
	switch {
	case h == nil:
		return name + " to answer"
	case h.GetName() != name:
		return fmt.Sprintf("%s at %s, where %q answers: check the list of members", name, m.cfg.Members[name], h.GetName())
	case h.GetHasState():
		return "the cluster that " + name + " takes part in to be founded"
	case h.GetId() != "" && h.GetId() != name:
		return fmt.Sprintf("the cluster that %s joins as %s", name, h.GetId())
	case !slices.Equal(h.GetExpectedMembers(), m.names):
		return fmt.Sprintf("the same list of members everywhere: %s has %v, this one %v", name, h.GetExpectedMembers(), m.names)
	default:
		return ""
	}
}

// serveHello answers Hello to members until stopped.
func (m *Membership) serveHello(ln net.Listener) (stop func()) {
	srv := grpc.NewServer(grpc.Creds(transport.Credentials()), grpc.UnaryInterceptor(onlyMembers),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errNoGroup }))
	memberv1.RegisterMemberServiceServer(srv, helloOnly{m: m})
	var served sync.WaitGroup
	served.Go(func() {
		if err := srv.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			m.log.Debug("hello server ended", "error", err)
		}
	})
	return func() {
		srv.Stop()
		served.Wait()
	}
}

type helloOnly struct {
	memberv1.UnimplementedMemberServiceServer
	m *Membership
}

func (h helloOnly) Hello(ctx context.Context, req *memberv1.HelloRequest) (*memberv1.HelloResponse, error) {
	return h.m.Hello(ctx, req)
}

// errNoGroup sends speakers and operators to another member.
var errNoGroup = status.Error(codes.Unavailable, "this member belongs to no group yet: it waits to found or join one, its log says for what")

func onlyMembers(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return nil, status.Error(codes.Unauthenticated, "no peer")
	}
	secured, _ := p.AuthInfo.(credentials.TLSInfo)
	role, err := pki.RoleFromState(secured.State)
	switch {
	case err != nil:
		return nil, status.Error(codes.Unauthenticated, err.Error())
	case role.Kind != pki.KindMember:
		return nil, status.Errorf(codes.PermissionDenied, "%s is not a member", role)
	case info.FullMethod != memberv1.MemberService_Hello_FullMethodName:
		return nil, errNoGroup
	}
	return next(ctx, req)
}
