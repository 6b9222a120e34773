package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/sent"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// Verb is what an operator did.
type Verb string

// Verbs of the history.
const (
	Declare Verb = "declare"
	Remove  Verb = "delete"
	Read    Verb = "read"
	Restore Verb = "restore"
	Drain   Verb = "drain"
	Undrain Verb = "undrain"
)

// Entry is what the group knows of one name: of a service its value, a label that no two
// declarations share, and its addresses; of a node that it is drained.
type Entry struct {
	Value uint64 `json:"value"`
	Addrs string `json:"addrs,omitempty"`
}

// Op is one operation of the history: on one name, or (Name is empty) on all whose names
// begin with Scope.
type Op struct {
	Client int    `json:"client"`
	Via    string `json:"via"`
	Verb   Verb   `json:"verb"`
	Name   string `json:"name,omitempty"`
	Scope  string `json:"scope,omitempty"`
	Value  uint64 `json:"value,omitempty"`
	// Call and Return are nanoseconds since the history's start.
	Call   int64 `json:"call"`
	Return int64 `json:"return"`
	// Unknown: nobody told what became of it. It may have happened, or happen later.
	Unknown bool `json:"unknown,omitempty"`
	// Was says whether the name was there before (declare, delete) or is there (read).
	Was bool `json:"was"`
	// Found is what a read of one name, or a declaration, told; All what one of many names
	// told, or what a restore makes.
	Found Entry            `json:"found"`
	All   map[string]Entry `json:"all,omitempty"`
	// Err is what a call without success was told, for people.
	Err string `json:"err,omitempty"`
}

// history records operations. Its methods may be called from any goroutine.
type history struct {
	began time.Time

	mu      sync.Mutex
	ops     []Op
	refused []Op
	failed  map[string]int // reads without an answer, and refusals, by code
	next    uint64
	twice   []string // addresses that two services had at once
	backups []backup
	clients map[string]adminv1.AdminServiceClient
	round   string // prefix of the names in use
}

type backup struct {
	raw []byte
	all map[string]Entry
}

func newHistory() *history {
	return &history{began: time.Now(), failed: map[string]int{}, clients: map[string]adminv1.AdminServiceClient{}}
}

// callTimeout is how long an operator waits for an answer.
const callTimeout = 3 * time.Second

// servicesPerRound are the names that operators fight about.
const servicesPerRound = 12

func servicePrefix(round int) string { return fmt.Sprintf("ledger/r%03d-", round) }

func (h *history) setRound(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.round = servicePrefix(n)
}

func (h *history) scope() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.round
}

// value gives a value that no declaration has had.
func (h *history) value() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	return h.next
}

// client is one operator's own connection to one member.
func (h *history) client(e *Env, who int, n *cluster.Node) (adminv1.AdminServiceClient, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := fmt.Sprintf("%d %s", who, n.Name)
	if c, ok := h.clients[key]; ok {
		return c, nil
	}
	conn, err := e.DialAs(n, e.AdminFiles(), sent.DialOption())
	if err != nil {
		return nil, err
	}
	h.clients[key] = adminv1.NewAdminServiceClient(conn)
	e.onClose(conn.Close)
	return h.clients[key], nil
}

// do makes one call and records it. Refused operations are known not to have happened and
// leave no trace in the history; reads without an answer tell nothing.
func (h *history) do(ctx context.Context, op Op, call func(ctx context.Context, op *Op) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, left := sent.Trace(ctx)
	op.Call = time.Since(h.began).Nanoseconds()
	err := call(ctx, &op)
	op.Return = time.Since(h.began).Nanoseconds()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		op.Err = err.Error()
	}
	switch {
	case err == nil:
	case op.Verb == Read || !left.Load() || refused(err):
		h.failed[string(op.Verb)+": "+status.Code(err).String()]++
		h.refused = append(h.refused, op)
		return err
	default:
		op.Unknown = true
		h.failed[string(op.Verb)+": unknown"]++
	}
	h.ops = append(h.ops, op)
	return err
}

// refused says whether a failed call is known to have changed nothing.
func refused(err error) bool {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "NOT_LEADER" {
			return true
		}
	}
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists, codes.ResourceExhausted, codes.PermissionDenied:
		return true
	}
	return false
}

func serviceOf(name string, value uint64) *adminv1.Resource {
	namespace, short, _ := strings.Cut(name, "/")
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: &logv1.Service{
		Namespace: namespace, Name: short, Pool: "ledger", Labels: map[string]string{"value": strconv.FormatUint(value, 10)},
		Ports:          []*logv1.Port{{Name: "x", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}},
		IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, IpFamilies: []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4},
		ExternalTrafficPolicy: logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_CLUSTER, Delivery: logv1.Delivery_DELIVERY_NONE,
	}}}
}

func valueOf(s *logv1.Service) uint64 {
	v, _ := strconv.ParseUint(s.GetLabels()["value"], 10, 64)
	return v
}

func (h *history) declare(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient, name string) {
	op := Op{Client: who, Via: n.MemberName, Verb: Declare, Name: name, Value: h.value()}
	_ = h.do(ctx, op, func(ctx context.Context, op *Op) error {
		resp, err := a.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{serviceOf(name, op.Value)}})
		if err == nil {
			r := resp.GetResults()[0]
			op.Was = r.GetResult() != "created"
			op.Found = Entry{op.Value, strings.Join(r.GetAddresses(), ",")}
		}
		return err
	})
}

func (h *history) remove(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient, name string) {
	op := Op{Client: who, Via: n.MemberName, Verb: Remove, Name: name}
	_ = h.do(ctx, op, func(ctx context.Context, op *Op) error {
		namespace, short, _ := strings.Cut(name, "/")
		resp, err := a.Delete(ctx, &adminv1.DeleteRequest{Names: []*adminv1.ResourceName{{Kind: "VirtualService", Namespace: namespace, Name: short}}})
		if err == nil {
			op.Was = resp.GetExisted()[0]
		}
		return err
	})
}

func (h *history) read(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient, name string) {
	op := Op{Client: who, Via: n.MemberName, Verb: Read, Name: name}
	_ = h.do(ctx, op, func(ctx context.Context, op *Op) error {
		resp, err := a.Get(ctx, &adminv1.GetRequest{Kinds: []string{"services"}, Name: name})
		if err == nil && len(resp.GetServices()) > 0 {
			s := resp.GetServices()[0]
			op.Was, op.Found = true, Entry{valueOf(s.GetService()), strings.Join(s.GetAddresses(), ",")}
		}
		return err
	})
}

// readAll reads all services of a scope, and looks for an address that two have.
func (h *history) readAll(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient, scope string) error {
	op := Op{Client: who, Via: n.MemberName, Verb: Read, Scope: scope}
	return h.do(ctx, op, func(ctx context.Context, op *Op) error {
		resp, err := a.Get(ctx, &adminv1.GetRequest{Kinds: []string{"services"}})
		if err != nil {
			return err
		}
		op.All = map[string]Entry{}
		has := map[string]string{}
		for _, s := range resp.GetServices() {
			name := s.GetService().GetNamespace() + "/" + s.GetService().GetName()
			for _, addr := range s.GetAddresses() {
				if other, taken := has[addr]; taken {
					h.tell(fmt.Sprintf("%s is with %s and %s at revision %d", addr, other, name, resp.GetRevision()))
				}
				has[addr] = name
			}
			if strings.HasPrefix(name, scope) {
				op.All[name] = Entry{valueOf(s.GetService()), strings.Join(s.GetAddresses(), ",")}
			}
		}
		return nil
	})
}

func (h *history) tell(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.twice = append(h.twice, text)
}

// drained reads whether an operator has drained each node.
func (h *history) drained(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient) {
	op := Op{Client: who, Via: n.MemberName, Verb: Read, Scope: "node/"}
	_ = h.do(ctx, op, func(ctx context.Context, op *Op) error {
		resp, err := a.Get(ctx, &adminv1.GetRequest{Kinds: []string{"nodes"}})
		if err != nil {
			return err
		}
		op.All = map[string]Entry{}
		for _, x := range resp.GetNodes() {
			if x.GetDrainReason() == logv1.DrainReason_DRAIN_REASON_ADMIN {
				op.All["node/"+x.GetName()] = Entry{}
			}
		}
		return nil
	})
}

func (h *history) drain(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient, node string, verb Verb) error {
	op := Op{Client: who, Via: n.MemberName, Verb: verb, Name: "node/" + node}
	return h.do(ctx, op, func(ctx context.Context, _ *Op) (err error) {
		if verb == Drain {
			_, err = a.Drain(ctx, &adminv1.DrainRequest{Node: node})
		} else {
			_, err = a.Undrain(ctx, &adminv1.UndrainRequest{Node: node})
		}
		return err
	})
}

// save takes a backup, which is a read of everything.
func (h *history) save(ctx context.Context, who int, n *cluster.Node, a adminv1.AdminServiceClient) {
	op := Op{Client: who, Via: n.MemberName, Verb: Read, Scope: "ledger/"}
	var b backup
	err := h.do(ctx, op, func(ctx context.Context, op *Op) (err error) {
		if b.raw, err = cluster.SaveSnapshot(ctx, a); err != nil {
			return err
		}
		s, err := fsm.ReadSnapshot(bytes.NewReader(b.raw))
		if err != nil {
			return err
		}
		b.all = map[string]Entry{}
		for key, svc := range s.Services {
			if key.Namespace != "ledger" {
				continue
			}
			var addrs []string
			for _, a := range svc.Addresses {
				addrs = append(addrs, a.String())
			}
			b.all[key.String()] = Entry{valueOf(svc.Spec), strings.Join(addrs, ",")}
		}
		op.All = b.all
		return nil
	})
	if err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.backups = append(h.backups, b)
		h.backups = h.backups[max(0, len(h.backups)-4):]
	}
}

// restorer is the operator number of restores.
const restorer = 90

// restore reverts the group to the oldest backup that is kept.
func (h *history) restore(ctx context.Context, e *Env) error {
	h.mu.Lock()
	if len(h.backups) == 0 {
		h.mu.Unlock()
		return nil
	}
	b := h.backups[0]
	h.mu.Unlock()
	n, err := e.Leader(ctx)
	if err != nil {
		return nil // nobody leads: there is nobody to ask
	}
	a, err := h.client(e, restorer, n)
	if err != nil {
		return err
	}
	op := Op{Client: restorer, Via: n.MemberName, Verb: Restore, Scope: "ledger/", All: maps.Clone(b.all)}
	_ = h.do(ctx, op, func(ctx context.Context, _ *Op) error {
		stream, err := a.SnapshotRestore(ctx)
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(b.raw, 64<<10) {
			if err := stream.Send(&adminv1.SnapshotRestoreRequest{Chunk: chunk}); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		_, err = stream.CloseAndRecv()
		return err
	})
	return nil
}
