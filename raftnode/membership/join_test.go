package membership

import (
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// oneShot connects to one member for the length of a test.
func (c *conns) oneShot(t *testing.T, addr string) (memberv1.MemberServiceClient, error) {
	c.all = make(map[string]*grpc.ClientConn)
	t.Cleanup(c.close)
	return c.member(addr)
}

type refusal struct {
	name  string
	req   *memberv1.JoinRequest
	check func(t *testing.T, err error)
}

func joinRefusals(other []byte) []refusal {
	code := func(want codes.Code) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			t.Helper()
			if status.Code(err) != want {
				t.Fatalf("got %v, want %v", err, want)
			}
		}
	}
	is := func(want error) func(*testing.T, error) {
		return func(t *testing.T, err error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Fatalf("got %v, want %v", err, want)
			}
		}
	}
	good := func(change func(*memberv1.JoinRequest)) *memberv1.JoinRequest {
		r := &memberv1.JoinRequest{Id: "m2.x", Name: "m2", Address: "127.0.0.1:1", MaxClusterVersion: 1}
		change(r)
		return r
	}
	return []refusal{
		{"id of another name", good(func(r *memberv1.JoinRequest) { r.Id = "m3.x" }), code(codes.InvalidArgument)},
		{"bad name", good(func(r *memberv1.JoinRequest) { r.Name, r.Id = "M2", "M2" }), code(codes.InvalidArgument)},
		{"no address", good(func(r *memberv1.JoinRequest) { r.Address = "" }), code(codes.InvalidArgument)},
		{"too old", good(func(r *memberv1.JoinRequest) { r.MaxClusterVersion = 0 }), code(codes.FailedPrecondition)},
		{"of another cluster", good(func(r *memberv1.JoinRequest) { r.ClusterId = other }), is(storage.ErrOtherCluster)},
		{"name in use", good(func(r *memberv1.JoinRequest) { r.Name, r.Id = "m1", "m1.x" }), code(codes.AlreadyExists)},
	}
}
