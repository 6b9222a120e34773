package service

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// allowed is who may call what, written down a second time and by hand: m
// member, s speaker of the node that the request names, a admin, v viewer.
var allowed = map[string]string{
	"/quorumlb.admin.v1.AdminService/Apply":              "a",
	"/quorumlb.admin.v1.AdminService/Delete":             "a",
	"/quorumlb.admin.v1.AdminService/Get":                "av",
	"/quorumlb.admin.v1.AdminService/Status":             "av",
	"/quorumlb.admin.v1.AdminService/Drain":              "a",
	"/quorumlb.admin.v1.AdminService/Undrain":            "a",
	"/quorumlb.admin.v1.AdminService/Move":               "a",
	"/quorumlb.admin.v1.AdminService/ForgetNode":         "a",
	"/quorumlb.admin.v1.AdminService/SetLeaseTimes":      "a",
	"/quorumlb.admin.v1.AdminService/SetRetention":       "a",
	"/quorumlb.admin.v1.AdminService/Probe":              "a",
	"/quorumlb.admin.v1.AdminService/EndQuarantine":      "a",
	"/quorumlb.admin.v1.AdminService/Events":             "av",
	"/quorumlb.admin.v1.AdminService/SnapshotSave":       "a",
	"/quorumlb.admin.v1.AdminService/SnapshotRestore":    "a",
	"/quorumlb.admin.v1.AdminService/AddMember":          "a",
	"/quorumlb.admin.v1.AdminService/RemoveMember":       "a",
	"/quorumlb.admin.v1.AdminService/TransferLeadership": "a",
	"/quorumlb.admin.v1.AdminService/Rebalance":          "a",
	"/quorumlb.admin.v1.AdminService/Version":            "msav",

	"/quorumlb.speaker.v1.SpeakerService/OpenSession": "s",
	"/quorumlb.speaker.v1.SpeakerService/Heartbeat":   "s",
	"/quorumlb.speaker.v1.SpeakerService/Watch":       "s",
	"/quorumlb.speaker.v1.SpeakerService/Attach":      "s",
	"/quorumlb.speaker.v1.SpeakerService/Leave":       "s",

	"/quorumlb.member.v1.MemberService/Hello":     "m",
	"/quorumlb.member.v1.MemberService/Join":      "m",
	"/quorumlb.member.v1.MemberService/Pulse":     "m",
	"/quorumlb.member.v1.MemberService/FetchLog":  "m",
	"/quorumlb.member.v1.MemberService/ReadIndex": "m",
	"/quorumlb.member.v1.MemberService/Report":    "m",

	"/grpc.health.v1.Health/Check":                                   "msav",
	"/grpc.health.v1.Health/Watch":                                   "msav",
	"/grpc.health.v1.Health/List":                                    "msav",
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "mav",
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "mav",
}

// requests name a node where a method wants one.
var requests = map[string]proto.Message{
	"/quorumlb.speaker.v1.SpeakerService/OpenSession": &speakerv1.OpenSessionRequest{Node: "n1", Process: make([]byte, 16)},
	"/quorumlb.speaker.v1.SpeakerService/Heartbeat":   &speakerv1.HeartbeatRequest{Node: "n1"},
	"/quorumlb.speaker.v1.SpeakerService/Watch":       &speakerv1.WatchRequest{Node: "n1", Session: 1},
	"/quorumlb.speaker.v1.SpeakerService/Attach":      &speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: 1}},
	"/quorumlb.speaker.v1.SpeakerService/Leave":       &speakerv1.LeaveRequest{Node: "n1", Session: 1},
}

// call makes any call: one message up, the first answer down.
func call(t testing.TB, conn *grpc.ClientConn, method string, md ...string) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if len(md) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, md...)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return status.Code(err)
	}
	req := requests[method]
	if req == nil {
		req = &emptypb.Empty{}
	}
	if err := stream.SendMsg(req); err == nil {
		_ = stream.CloseSend()
	}
	err = stream.RecvMsg(&emptypb.Empty{})
	if err != nil && err.Error() == "EOF" {
		return codes.OK
	}
	return status.Code(err)
}

func refused(c codes.Code) bool { return c == codes.PermissionDenied || c == codes.Unauthenticated }

func TestAuthorizationTable(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	m.setLeader("m1", m.addr)
	srv, err := m.Server(transport.Credentials())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for service, info := range srv.GetServiceInfo() {
		for _, method := range info.Methods {
			all = append(all, "/"+service+"/"+method.Name)
		}
	}
	slices.Sort(all)
	if known := slices.Sorted(maps.Keys(allowed)); !slices.Equal(all, known) {
		t.Fatalf("methods of the server and of the test differ:\n%s\n%s", strings.Join(all, "\n"), strings.Join(known, "\n"))
	}

	now := time.Now()
	roles := []struct {
		name, letter string
		cert         tls.Certificate
	}{
		{"member", "m", ca.issue("member/m2", now)},
		{"speaker of the node", "s", ca.issue("speaker/n1", now)},
		{"speaker of another node", "w", ca.issue("speaker/n2", now)},
		{"admin", "a", ca.issue("admin/alice", now)},
		{"viewer", "v", ca.issue("viewer/victor", now)},
	}
	for _, r := range roles {
		conn := ca.dial(m.addr, &r.cert)
		for _, method := range all {
			got := call(t, conn, method)
			want := strings.Contains(allowed[method], r.letter) ||
				// A call without a node of its own is open to any speaker.
				r.letter == "w" && strings.Contains(allowed[method], "s") && requests[method] == nil
			if refused(got) == want || got == codes.Unimplemented {
				t.Errorf("%s calls %s: %v, allowed should be %v", r.name, method, got, want)
			}
		}
	}

	expired, foreign := ca.issue("admin/alice", now.Add(-3*time.Hour)), other.issue("admin/alice", now)
	for name, cert := range map[string]*tls.Certificate{"no": nil, "an expired": &expired, "a foreign": &foreign} {
		conn := ca.dial(m.addr, cert)
		for _, method := range all {
			if got := call(t, conn, method); got != codes.Unavailable {
				t.Errorf("%s certificate calls %s: %v, want a failed handshake", name, method, got)
			}
		}
	}
}

func TestUnknownMethodIsDenied(t *testing.T) {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	cert := ca.issue("admin/alice", time.Now())
	conn := ca.dial(m.addr, &cert)
	for _, method := range []string{"/quorumlb.admin.v1.AdminService/Else", "/else.v1.Else/Else"} {
		if got := call(t, conn, method); got != codes.Unimplemented {
			t.Errorf("%s: %v", method, got)
		}
	}
	// A method that exists but is not in the table cannot be served.
	if got := uncovered(map[string]grpc.ServiceInfo{"a.B": {Methods: []grpc.MethodInfo{{Name: "C"}}}}); len(got) != 1 || got[0] != "/a.B/C" {
		t.Errorf("uncovered: %v", got)
	}
}

func TestSpeakingForOthers(t *testing.T) {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	m.setLeader("m1", m.addr)
	now := time.Now()
	const drain = adminv1.AdminService_Drain_FullMethodName
	for _, tc := range []struct {
		role, actor, via string
		method           string
		want             codes.Code
	}{
		// A member forwards what its caller may do, and nothing more.
		{"member/m2", "admin/alice", "m2", drain, codes.FailedPrecondition},
		{"member/m2", "viewer/victor", "m2", drain, codes.PermissionDenied},
		{"member/m2", "speaker/n1", "m2", speakerv1.SpeakerService_Leave_FullMethodName, codes.FailedPrecondition},
		{"member/m2", "speaker/n2", "m2", speakerv1.SpeakerService_Leave_FullMethodName, codes.PermissionDenied},
		{"member/m2", "", "", drain, codes.PermissionDenied},
		{"member/m2", "admin/alice", "", drain, codes.InvalidArgument},
		{"member/m2", "", "m2", drain, codes.InvalidArgument},
		{"member/m2", "root", "m2", drain, codes.InvalidArgument},
		// Nobody else speaks for anybody.
		{"admin/alice", "admin/bob", "m2", drain, codes.PermissionDenied},
		{"viewer/victor", "admin/alice", "m2", drain, codes.PermissionDenied},
		{"speaker/n1", "admin/alice", "m2", drain, codes.PermissionDenied},
	} {
		cert := ca.issue(tc.role, now)
		var md []string
		if tc.actor != "" {
			md = append(md, metaActor, tc.actor)
		}
		if tc.via != "" {
			md = append(md, metaForwarded, tc.via)
		}
		if got := call(t, ca.dial(m.addr, &cert), tc.method, md...); got != tc.want {
			t.Errorf("%s speaks for %q via %q to %s: %v, want %v", tc.role, tc.actor, tc.via, tc.method, got, tc.want)
		}
	}
}

// TestNodeOfEveryMessage: a speaker cannot begin a stream for its own node and
// go on for another.
func TestNodeOfEveryMessage(t *testing.T) {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	cert := ca.issue("speaker/n1", time.Now())
	client := speakerv1.NewSpeakerServiceClient(ca.dial(m.addr, &cert))
	beats, err := client.Heartbeat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"n1", "n2"} {
		if err := beats.Send(&speakerv1.HeartbeatRequest{Node: node, Session: 1, Seq: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := beats.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("heartbeat for another node: %v", err)
	}
	attach, err := client.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"n1", "n2"} {
		if err := attach.Send(&speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: node, Session: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	for err == nil {
		_, err = attach.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("attach for another node: %v", err)
	}
}

func TestOutlivedCertificate(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.issue("admin/alice", time.Now())
	m := newFakeMember(t, ca, "m1")
	conn := ca.dial(m.addr, &cert)
	if got := call(t, conn, adminv1.AdminService_Version_FullMethodName); got != codes.OK {
		t.Fatalf("valid certificate: %v", got)
	}
	m.later.Store(int64(2 * time.Hour)) // the same connection, after the certificate's end
	if got := call(t, conn, adminv1.AdminService_Version_FullMethodName); got != codes.Unauthenticated {
		t.Errorf("certificate that ended while connected: %v", got)
	}
}

func TestOfflineMemberAnswersOnlyHowItIs(t *testing.T) {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	m.setLeader("m1", m.addr)
	m.StopServing(fmt.Errorf("the digest differs: %w", errTest))
	now := time.Now()
	for role, methods := range map[string]map[string]codes.Code{
		"admin/alice": {
			adminv1.AdminService_Apply_FullMethodName:   codes.Unavailable,
			adminv1.AdminService_Get_FullMethodName:     codes.Unavailable,
			adminv1.AdminService_Status_FullMethodName:  codes.OK,
			adminv1.AdminService_Version_FullMethodName: codes.OK,
			"/grpc.health.v1.Health/Check":              codes.OK,
		},
		"speaker/n1": {
			speakerv1.SpeakerService_OpenSession_FullMethodName: codes.Unavailable,
			speakerv1.SpeakerService_Heartbeat_FullMethodName:   codes.Unavailable,
			speakerv1.SpeakerService_Watch_FullMethodName:       codes.Unavailable,
		},
		"member/m2": {memberv1.MemberService_Report_FullMethodName: codes.OK},
	} {
		cert := ca.issue(role, now)
		conn := ca.dial(m.addr, &cert)
		for method, want := range methods {
			if got := call(t, conn, method); got != want {
				t.Errorf("%s calls %s: %v, want %v", role, method, got, want)
			}
		}
	}
}

func TestPanicIsAnErrorOfOneCall(t *testing.T) {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	m.setLeader("m1", m.addr)
	m.setDecide(func(context.Context, decider.Command) (decider.Result, error) { panic("a fault") })
	cert := ca.issue("admin/alice", time.Now())
	conn := ca.dial(m.addr, &cert)
	for range 2 {
		if got := call(t, conn, adminv1.AdminService_Drain_FullMethodName); got != codes.Internal {
			t.Errorf("%v", got)
		}
	}
	if got := call(t, conn, adminv1.AdminService_Version_FullMethodName); got != codes.OK {
		t.Errorf("after a panic: %v", got)
	}
}
