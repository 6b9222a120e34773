package raftnode

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// histogramBuckets reach from a tenth of a millisecond to some seconds.
var histogramBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// deciderMetrics are the histograms that the decider feeds.
type deciderMetrics struct {
	queued, decided, committed prometheus.Histogram
	commands, events           prometheus.Histogram
	command                    *prometheus.HistogramVec
}

func newDeciderMetrics(reg prometheus.Registerer) *deciderMetrics {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	counts := prometheus.ExponentialBuckets(1, 4, 8)
	m := &deciderMetrics{
		queued:    histogram("quorumlb_decider_queue_seconds", "Time that the first command of a group waited to be decided.", histogramBuckets),
		decided:   histogram("quorumlb_decider_decide_seconds", "Time that it took to decide a group of commands.", histogramBuckets),
		committed: histogram("quorumlb_decider_commit_seconds", "Time from the proposal of a batch until it was applied on the leader.", histogramBuckets),
		commands:  histogram("quorumlb_decider_group_commands", "Commands decided together.", counts),
		events:    histogram("quorumlb_decider_batch_events", "Events in a batch.", counts),
		command: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "quorumlb_decider_command_seconds", Help: "Time from a command's arrival to its answer.", Buckets: histogramBuckets,
		}, []string{"kind", "outcome"}),
	}
	reg.MustRegister(m.queued, m.decided, m.committed, m.commands, m.events, m.command)
	return m
}

func (m *deciderMetrics) observer() decider.Observer {
	return decider.Observer{
		Decided: func(commands int, queued, took time.Duration, _ int) {
			m.commands.Observe(float64(commands))
			m.queued.Observe(queued.Seconds())
			m.decided.Observe(took.Seconds())
		},
		Proposed:  func(events, _ int) { m.events.Observe(float64(events)) },
		Committed: func(took time.Duration) { m.committed.Observe(took.Seconds()) },
		Command: func(kind string, took time.Duration, err error) {
			outcome := "applied"
			if err != nil {
				outcome = "refused"
			}
			m.command.WithLabelValues(kind, outcome).Observe(took.Seconds())
		},
	}
}

// collector reads the figures of the running parts when they are asked for.
type collector struct {
	running func() *parts // nil while the member starts
}

type gauge struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// read gives the value from the parts and one look at the state.
	read func(p *parts, s *figures) float64
}

// figures are what one look at the state gives.
type figures struct {
	revision                              uint64
	services, pending, addresses, unowned int
	owned                                 map[string]int // by node
	nodes                                 map[string]int // by state of the session
	raft                                  map[string]string
}

func look(p *parts) *figures {
	f := &figures{owned: make(map[string]int), nodes: make(map[string]int), raft: p.node.Stats()}
	p.node.Read(func(s *fsm.State) {
		f.revision, f.services, f.addresses = s.Revision, len(s.Services), len(s.Addresses)
		for range s.PendingServices() {
			f.pending++
		}
		for range s.Unowned() {
			f.unowned++
		}
		for name, n := range s.Nodes {
			f.owned[name] = n.Owned
			f.nodes[sessionWord(n)]++
		}
	})
	return f
}

func sessionWord(n *fsm.Node) string {
	switch {
	case n.SessionState == fsm.SessionExpired:
		return "expired"
	case n.SessionState != fsm.SessionOpen:
		return "closed"
	case n.Drained != 0:
		return "drained"
	}
	return "open"
}

func (f *figures) raftNumber(key string) float64 {
	n, err := strconv.ParseFloat(f.raft[key], 64)
	if err != nil {
		return 0
	}
	return n
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("quorumlb_"+name, help, labels, nil)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

var gauges = []gauge{
	{desc("raft_term", "This member's Raft term."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.node.Term()) }},
	{desc("raft_leader", "1 while this member leads."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return one(p.node.Leadership().Leader) }},
	{desc("raft_has_leader", "1 while this member knows a leader."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return one(p.node.LeaderID() != "") }},
	{desc("raft_last_log_index", "Index of the newest entry in this member's log."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return f.raftNumber("last_log_index") }},
	{desc("raft_commit_index", "Index up to which this member knows the log to be committed."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return f.raftNumber("commit_index") }},
	{desc("raft_members", "Members in the group's configuration."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(len(p.node.Members())) }},
	{desc("state_revision", "Newest revision applied by this member."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return float64(f.revision) }},
	{desc("state_diverged", "1 when this member's state differs from that of the majority."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return one(p.services.Offline() != nil) }},
	{desc("log_bytes", "Size of the log's file."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { n, _ := p.store.LogSize(); return float64(n) }},
	{desc("services", "Declared services."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return float64(f.services) }},
	{desc("services_pending", "Services that have fewer addresses than they ask for."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return float64(f.pending) }},
	{desc("addresses", "Addresses in use."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return float64(f.addresses) }},
	{desc("addresses_unowned", "Addresses in use that no node owns."), prometheus.GaugeValue, func(_ *parts, f *figures) float64 { return float64(f.unowned) }},
	{desc("watchers", "Open watches of speakers on this member."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.hub.Watchers()) }},
	{desc("speakers_attached", "Speakers attached to this member."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.services.Attached()) }},
	{desc("certificate_end_timestamp_seconds", "When this member's certificate ends."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.identity.NotAfter().Unix()) }},

	{desc("decider_queue_length", "Commands that wait to be decided."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.decider.QueueLen()) }},
	{desc("decider_batches_in_flight", "Batches proposed and not yet applied."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().InFlight.Load()) }},
	{desc("decider_addresses_without_node", "Addresses that no node is eligible for, as the deciding leader sees it."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Unowned.Load()) }},
	{desc("decider_addresses_waiting", "Addresses that wait for an old owner, as the deciding leader sees it."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Waiting.Load()) }},
	{desc("decider_commands_total", "Commands decided, refused ones included."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Commands.Load()) }},
	{desc("decider_refused_total", "Commands refused."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Refused.Load()) }},
	{desc("decider_internal_errors_total", "Commands that could not be decided because of a fault in the program."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Internal.Load()) }},
	{desc("decider_batches_total", "Batches proposed."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Batches.Load()) }},
	{desc("decider_events_total", "Events proposed."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Events.Load()) }},
	{desc("decider_recoveries_total", "Times that the decider threw its head away and started over."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Recoveries.Load()) }},
	{desc("decider_unknown_outcomes_total", "Commands whose outcome could not be found out."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.decider.Stats().Unknown.Load()) }},

	{desc("leases_mass_event", "1 while nobody is expired because most nodes fell silent at once, or after a start."), prometheus.GaugeValue, func(p *parts, _ *figures) float64 { return one(p.keeper.View().MassEvent) }},
	{desc("leases_stalled_seconds", "How long this member did not run when it should have."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return p.keeper.View().Stalled.Seconds() }},
	{desc("heartbeats_total", "Heartbeats received from speakers."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.keeper.Stats().Heard.Load()) }},
	{desc("heartbeats_acked_total", "Acks given as leader."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.keeper.Stats().Acked.Load()) }},
	{desc("sessions_expired_total", "Sessions that this member, as leader, took for dead."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.keeper.Stats().Expired.Load()) }},
	{desc("pulse_polls_total", "Polls sent to other members as leader."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.keeper.Stats().Polled.Load()) }},
	{desc("pulse_reports_total", "Answers to polls received as leader."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.keeper.Stats().Reports.Load()) }},
	{desc("pulse_streams_broken_total", "Streams to other members that broke."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.keeper.Stats().Broken.Load()) }},

	{desc("connections_raft_total", "Connections of other members for Raft."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.mux.Counters.Raft.Load()) }},
	{desc("connections_grpc_total", "Connections for gRPC."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.mux.Counters.GRPC.Load()) }},
	{desc("connections_failed_total", "Connections whose TLS handshake failed."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.mux.Counters.Failed.Load()) }},
	{desc("connections_refused_total", "Connections whose role does not fit the protocol."), prometheus.CounterValue, func(p *parts, _ *figures) float64 { return float64(p.mux.Counters.Refused.Load()) }},
}

var (
	descNodes   = desc("nodes", "Nodes by the state of their session.", "state")
	descOwned   = desc("node_addresses_owned", "Addresses that a node owns.", "node")
	descRefused = desc("heartbeats_refused_total", "Heartbeats refused as leader.", "reason")
	descTrip    = desc("pulse_round_trip_seconds", "Round trip of the newest poll that the member answered, as the leader sees it.", "member")
	descAppend  = desc("pulse_slowest_append_seconds", "Slowest write to the member's disk between its last two answers, as the leader sees it.", "member")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, g := range gauges {
		to <- g.desc
	}
	to <- descNodes
	to <- descOwned
	to <- descRefused
	to <- descTrip
	to <- descAppend
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	p := c.running()
	if p == nil {
		return
	}
	f := look(p)
	for _, g := range gauges {
		to <- prometheus.MustNewConstMetric(g.desc, g.kind, g.read(p, f))
	}
	for _, state := range slices.Sorted(maps.Keys(f.nodes)) {
		to <- prometheus.MustNewConstMetric(descNodes, prometheus.GaugeValue, float64(f.nodes[state]), state)
	}
	for reason := range p.keeper.Stats().Refused {
		if r := lease.Refusal(reason); r != lease.NotRefused {
			n := float64(p.keeper.Stats().Refused[reason].Load())
			to <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, n, r.String())
		}
	}
	for _, peer := range p.keeper.View().Peers {
		to <- prometheus.MustNewConstMetric(descTrip, prometheus.GaugeValue, peer.RoundTrip.Seconds(), peer.ID)
		to <- prometheus.MustNewConstMetric(descAppend, prometheus.GaugeValue, peer.Status.SlowestAppend.Seconds(), peer.ID)
	}
	for _, node := range slices.Sorted(maps.Keys(f.owned)) {
		to <- prometheus.MustNewConstMetric(descOwned, prometheus.GaugeValue, float64(f.owned[node]), node)
	}
}
