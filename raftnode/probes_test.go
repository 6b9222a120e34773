package raftnode_test

import (
	"net/http"
	"strings"
	"testing"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// dashboard lists the figures that operators watch and are alerted by, on each
// member; those that show only once something has happened are of the leader.
var dashboard, leaderDashboard = []string{
	"raft_term", "raft_leader", "raft_has_leader", "raft_commit_index", "raft_last_log_index", "raft_members",
	"state_revision", "state_diverged", "log_bytes", "certificate_end_timestamp_seconds",
	"services", "services_pending", "addresses", "addresses_unowned", "node_addresses_owned", "nodes",
	"watchers", "speakers_attached",
	"decider_queue_length", "decider_queue_seconds_bucket", "decider_decide_seconds_bucket", "decider_commit_seconds_bucket",
	"decider_group_commands_bucket", "decider_batch_events_bucket",
	"decider_batches_in_flight", "decider_addresses_without_node", "decider_addresses_waiting",
	"decider_commands_total", "decider_refused_total", "decider_internal_errors_total", "decider_batches_total",
	"decider_events_total", "decider_recoveries_total", "decider_unknown_outcomes_total",
	"leases_mass_event", "leases_stalled_seconds", "sessions_expired_total",
	"heartbeats_total", "heartbeats_acked_total", "heartbeats_refused_total",
	"pulse_polls_total", "pulse_reports_total", "pulse_streams_broken_total",
	"connections_raft_total", "connections_grpc_total", "connections_failed_total", "connections_refused_total",
}, []string{"decider_command_seconds_bucket"}

// hasMetrics checks that a member tells the figures, with a value each.
func hasMetrics(t *testing.T, m *process, names ...string) {
	t.Helper()
	code, body, err := m.read("/metrics")
	if err != nil || code != http.StatusOK {
		t.Errorf("/metrics of %s: %d, %v", m.conf.Name, code, err)
	}
	for _, name := range names {
		if !strings.Contains(body, "\nquorumlb_"+name+" ") && !strings.Contains(body, "\nquorumlb_"+name+"{") {
			t.Errorf("/metrics of %s has no quorumlb_%s", m.conf.Name, name)
		}
	}
}

// TestProbes: readiness and metrics over HTTP.
func TestProbes(t *testing.T) {
	g := newGroup(t, 3)
	g.members[0].start()
	eventually(t, "an answer", func() bool { code, err := g.members[0].get("/livez"); return err == nil && code == http.StatusOK })
	if code, _ := g.members[0].get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a group: %d", code)
	}
	g.members[1].start()
	g.members[2].start()
	for _, m := range g.members {
		m.waitReady()
	}
	s1 := g.speaker("n1", 1).start()
	g.apply(0, pool("p", "192.0.2.0/24"), advertisement("ad", logv1.ControlLoss_CONTROL_LOSS_HOLD), service("web"))
	eventually(t, "acks", func() bool { return s1.ackedSeq() > 3 })
	for i, m := range g.members {
		g.get(i, "nodes") // a read that is not stale: the member has applied what was written
		hasMetrics(t, m, dashboard...)
	}
	hasMetrics(t, g.members[g.leader()], leaderDashboard...)
	g.members[1].kill()
	g.members[2].kill()
	eventually(t, "not ready without a majority", func() bool { code, _ := g.members[0].get("/readyz"); return code == http.StatusServiceUnavailable })
	if code, _ := g.members[0].get("/livez"); code != http.StatusOK {
		t.Errorf("/livez without a majority: %d; a restart would not help", code)
	}
}
