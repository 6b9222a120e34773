package service

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/version"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// reportTimeout is how long a member may take to tell how it is.
const reportTimeout = time.Second

// maxExamples names this many things of one kind in a problem; the rest is counted.
const maxExamples = 3

// Version needs no state.
func (s *Services) Version(context.Context, *adminv1.VersionRequest) (*adminv1.VersionResponse, error) {
	return &adminv1.VersionResponse{
		Version: version.String(), GoVersion: runtime.Version(), MaxClusterVersion: fsm.MaxClusterVersion,
	}, nil
}

// Status sums up the group.
func (s *Services) Status(ctx context.Context, req *adminv1.StatusRequest) (*adminv1.StatusResponse, error) {
	stale := req.GetStale() || s.Offline() != nil
	if err := s.fresh(ctx, stale); err != nil {
		return nil, err
	}
	v := s.view("")
	members := s.members(ctx)
	leader := s.cfg.Group.Leadership()
	resp := &adminv1.StatusResponse{
		ClusterId: v.s.ClusterID[:], ClusterVersion: v.s.ClusterVersion,
		AnsweredBy: s.cfg.ID, Leader: leader.ID, Term: s.cfg.Log.Term(), Revision: v.s.Revision,
		LeaseTimes: leaseMessage(v.s.Lease), Members: members,
		Nodes: uint32(len(v.s.Nodes)), Vips: uint32(len(v.s.Addresses)), Services: uint32(len(v.s.Services)),
		RetentionNanos: int64(v.s.Retention), RebalancePerMinute: v.s.RebalancePerMinute,
	}
	oldest, err := s.cfg.Log.OldestRevision(ctx)
	if err != nil {
		return nil, fromLog(err)
	}
	resp.HistoryFrom = oldest
	for range v.s.PendingServices() {
		resp.ServicesPending++
	}
	p := &problems{}
	switch {
	case v.s.ClusterID != [16]byte{}:
	case stale:
		p.example("state not known yet", "what %s has in its log counts only once a leader says so: a majority of members must run and reach each other", s.cfg.ID)
	default:
		p.example("group not founded yet", "its first event is not applied; a leader writes it within a moment")
	}
	s.selfProblems(p, leader)
	memberProblems(p, members)
	v.nodeProblems(p, resp)
	v.vipProblems(p, resp)
	v.quarantineProblems(p)
	v.advertisementProblems(p)
	for svc := range v.s.PendingServices() {
		why, _ := v.pending(svc)
		p.example("service waits for an address", "%s (%s)", svc.Key, why)
	}
	resp.Problems = p.list()
	return resp, nil
}

// problems collects what an operator should look at: one line for each kind,
// with a count and a few examples.
type problems struct {
	kinds    []string
	examples map[string][]string
}

func (p *problems) example(kind, format string, args ...any) {
	if p.examples == nil {
		p.examples = make(map[string][]string)
	}
	if _, known := p.examples[kind]; !known {
		p.kinds = append(p.kinds, kind)
	}
	p.examples[kind] = append(p.examples[kind], fmt.Sprintf(format, args...))
}

func (p *problems) list() []string {
	var out []string
	for _, kind := range p.kinds {
		all := p.examples[kind]
		slices.Sort(all)
		line := fmt.Sprintf("%d x %s: %s", len(all), kind, strings.Join(all[:min(len(all), maxExamples)], ", "))
		if len(all) > maxExamples {
			line += ", ..."
		}
		out = append(out, line)
	}
	return out
}

func (s *Services) selfProblems(p *problems, leader consensus.Leadership) {
	if leader.ID == "" {
		p.example("no leader", "a majority of members must run and reach each other")
	}
	for _, text := range s.cfg.Self().Problems {
		p.example("this member", "%s", text)
	}
	if text := certificateProblem(s.cfg.CertificateEnds(), s.cfg.Now()); text != "" {
		p.example("certificate", "%s", text)
	}
}

func memberProblems(p *problems, members []*adminv1.MemberStatus) {
	var newest uint64
	for _, m := range members {
		newest = max(newest, m.GetRevision())
	}
	for _, m := range members {
		switch {
		case !m.GetHealthy():
			p.example("member unreachable", "%s (%s)", m.GetId(), m.GetProblem())
		case m.GetProblem() != "":
			p.example("member in trouble", "%s (%s)", m.GetId(), m.GetProblem())
		case newest-m.GetRevision() > maxBehind:
			p.example("member behind", "%s by %d revisions", m.GetId(), newest-m.GetRevision())
		}
		if !m.GetVoter() {
			p.example("member without a vote yet", "%s", m.GetId())
		}
	}
}

// maxBehind revisions are nothing to talk about.
const maxBehind = 1000

func (v *view) nodeProblems(p *problems, resp *adminv1.StatusResponse) {
	for name, n := range v.s.Nodes {
		unheard, heard := v.hearts.Unheard(name, n.Session)
		switch state := nodeState(n, v.s.Lease, unheard, heard); state {
		case "Ready":
			resp.NodesReady++
		case "Silent", "Expired":
			p.example("node "+strings.ToLower(state), "%s", name)
		}
	}
}

func (v *view) vipProblems(p *problems, resp *adminv1.StatusResponse) {
	for _, addr := range slices.SortedFunc(maps.Keys(v.s.Addresses), netip.Addr.Compare) {
		rec := v.s.Addresses[addr]
		if rec.Conflict != (fsm.MAC{}) {
			switch rec.ConflictKind {
			case logv1.ConflictKind_CONFLICT_KIND_PROXY:
				p.example("address that a router with proxy ARP answers for", "%s by %x", addr, rec.Conflict)
			case logv1.ConflictKind_CONFLICT_KIND_KERNEL:
				p.example("address that a node's kernel answers for", "%s by %s", addr, rec.ConflictHolder)
			default:
				p.example("address claimed by a foreign station", "%s by %x", addr, rec.Conflict)
			}
		}
		if rec.Owner == "" {
			p.example("address without owner", "%s (%s)", addr, v.waiting(rec))
			continue
		}
		resp.VipsOwned++
		if why := v.waiting(rec); why != "" {
			p.example("address whose owner cannot serve it", "%s (%s)", addr, why)
		}
		st, yes := answering(rec, v.statuses[addr])
		switch {
		case yes:
			resp.VipsAnnounced++
		case st == nil:
			p.example("address of which the owner says nothing", "%s (%s)", addr, rec.Owner)
		default:
			p.example("address not announced", "%s (%s: %s)", addr, rec.Owner, announcedWords(st.GetAnnounced().String(), st.GetReason()))
		}
	}
}

// quarantineProblems lists the addresses that are lost to foreign stations.
func (v *view) quarantineProblems(p *problems) {
	for f := range v.s.Quarantined() {
		p.example("address in quarantine, a foreign station has it", "%s (%x)", f.Addr, f.Conflict)
	}
}

// advertisementProblems finds what was declared before the pool that it names, or
// was misspelt.
func (v *view) advertisementProblems(p *problems) {
	for _, name := range slices.Sorted(maps.Keys(v.s.Ads)) {
		for _, pool := range v.s.Ads[name].Spec.GetIpAddressPools() {
			if v.s.Pools[pool] == nil {
				p.example("l2advertisement names a pool that does not exist", "%s: %q", name, pool)
			}
		}
	}
}

func announcedWords(state, reason string) string {
	state = strings.ToLower(strings.TrimPrefix(state, "ANNOUNCED_"))
	if reason == "" {
		return state
	}
	return state + ", " + reason
}

// members asks every member how it is.
func (s *Services) members(ctx context.Context) []*adminv1.MemberStatus {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	all := s.cfg.Membership.Members()
	leader := s.cfg.Group.Leadership().ID
	out := make([]*adminv1.MemberStatus, len(all))
	digests := make([][]*memberv1.RevisionDigest, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() {
			out[i], digests[i] = s.memberStatus(ctx, m)
			out[i].Leader = m.ID == leader
		})
	}
	wg.Wait()
	showDigests(out, digests)
	return out
}

func (s *Services) memberStatus(ctx context.Context, m consensus.Member) (*adminv1.MemberStatus, []*memberv1.RevisionDigest) {
	st := &adminv1.MemberStatus{Id: m.ID, Address: m.Address, Voter: m.Voter}
	rep, err := s.Report(ctx, m)
	if err != nil {
		st.Problem = unreached(err)
		return st, nil
	}
	st.Healthy, st.Revision, st.Version, st.UpNanos = true, rep.GetRevision(), rep.GetVersion(), rep.GetUpNanos()
	st.Problem = rep.GetProblem()
	return st, rep.GetDigests()
}

// unreached says why a member did not answer, without gRPC's wrapping.
func unreached(err error) string {
	text := status.Convert(err).Message()
	if _, cause, ok := strings.Cut(text, "Error while dialing: "); ok {
		text = strings.TrimSuffix(cause, `"`)
	}
	return text
}

// Report asks one member, or this one itself, how it is.
func (s *Services) Report(ctx context.Context, m consensus.Member) (*memberv1.ReportResponse, error) {
	if m.ID == s.cfg.ID {
		return s.ownReport(), nil
	}
	conn, err := s.cfg.Peers.Conn(m.Address)
	if err != nil {
		return nil, err
	}
	return memberv1.NewMemberServiceClient(conn).Report(ctx, &memberv1.ReportRequest{})
}

// ProbeDisk asks another member how long a write to its disk takes now.
func (s *Services) ProbeDisk(ctx context.Context, m consensus.Member) (time.Duration, error) {
	conn, err := s.cfg.Peers.Conn(m.Address)
	if err != nil {
		return 0, err
	}
	rep, err := memberv1.NewMemberServiceClient(conn).Report(ctx, &memberv1.ReportRequest{ProbeDisk: true})
	return time.Duration(rep.GetDiskNanos()), err
}

func (s *Services) ownReport() *memberv1.ReportResponse {
	self := s.cfg.Self()
	rep := &memberv1.ReportResponse{
		Id: s.cfg.ID, Version: version.String(), Revision: s.cfg.Log.Revision(), UpNanos: int64(self.Up), Digests: self.Digests,
	}
	if err := s.Offline(); err != nil {
		rep.Problem = err.Error()
	}
	return rep
}

// showDigests gives each member the digest of the newest revision of which most
// have one, so that the column can be compared.
func showDigests(members []*adminv1.MemberStatus, digests [][]*memberv1.RevisionDigest) {
	count := make(map[uint64]int)
	for _, ds := range digests {
		for _, d := range ds {
			count[d.GetRevision()]++
		}
	}
	var best uint64
	for rev, n := range count {
		if n > count[best] || n == count[best] && rev > best {
			best = rev
		}
	}
	for i, ds := range digests {
		for _, d := range ds {
			if d.GetRevision() == best {
				members[i].Digest = bytes.Clone(d.GetDigest())
			}
		}
	}
}
