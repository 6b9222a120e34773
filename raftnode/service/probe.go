package service

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// How long speakers wait for answers from the wire.
const (
	defaultProbe = time.Second
	maxProbe     = 10 * time.Second
	// probeGrace is for the way there and back.
	probeGrace = 500 * time.Millisecond
)

// Probe has every speaker ask the wire who answers for the address. Speakers
// attach to every member, so any member can ask them.
func (s *Services) Probe(ctx context.Context, req *adminv1.ProbeRequest) (*adminv1.ProbeResponse, error) {
	addr, err := netip.ParseAddr(req.GetAddress())
	if err != nil {
		return nil, invalidField("address", "%v", err)
	}
	timeout := time.Duration(req.GetTimeoutNanos())
	switch {
	case timeout == 0:
		timeout = defaultProbe
	case timeout < 0 || timeout > maxProbe:
		return nil, invalidField("timeout_nanos", "%v is not within 0 to %v", timeout, maxProbe)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+probeGrace)
	defer cancel()
	results := s.attached.probe(ctx, addr.Unmap(), timeout)
	if len(results) == 0 {
		return nil, status.Error(codes.FailedPrecondition, "no speaker is attached to "+s.cfg.ID+": none runs, or none has reached it yet; see 'qlbctl get nodes'")
	}
	owners := make(map[string]string) // node by MAC
	s.cfg.Log.Read(func(st *fsm.State) {
		for name, n := range st.Nodes {
			for _, mac := range watch.MACs(n) {
				owners[string(mac[:])] = name
			}
		}
	})
	resp := &adminv1.ProbeResponse{}
	for _, r := range results {
		np := &adminv1.NodeProbe{Node: r.node, Error: r.answer.GetError()}
		if r.err != nil {
			np.Error = r.err.Error()
		}
		for _, hit := range r.answer.GetHits() {
			np.Hits = append(np.Hits, &adminv1.ProbeHit{Mac: hit.GetMac(), Node: owners[string(hit.GetMac())], Interface: hit.GetInterface()})
		}
		resp.Nodes = append(resp.Nodes, np)
	}
	return resp, nil
}

// isHostPort tells whether s has the form host:port with a port that can be dialed.
func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	return err == nil && perr == nil && host != "" && n > 0
}
