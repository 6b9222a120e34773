package service

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// What health checks come to reaches the decider once, and the operator always.
func TestHealthReports(t *testing.T) {
	s := newSolo(t)
	session, _ := s.owned()
	key := fsm.KeyOf("ns", "checked")
	s.apply(&logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{Source: "apply", Service: &logv1.Service{
		Namespace: key.Namespace, Name: key.Name,
		HealthCheck: &logv1.HealthCheck{Exec: &logv1.ExecCheck{Script: "x"}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1},
	}}}})
	status := func(state speakerv1.HealthState) *speakerv1.HealthStatus {
		return &speakerv1.HealthStatus{Service: &speakerv1.ServiceName{Namespace: key.Namespace, Name: key.Name}, State: state, Reason: "found"}
	}
	said := func(state speakerv1.HealthState) []decider.Command {
		var got []decider.Command
		s.Read(func(st *fsm.State) {
			got = differences(st, report{node: "n1", session: session, health: map[fsm.ServiceKey]*speakerv1.HealthStatus{key: status(state)}}, time.Now().UnixNano())
		})
		return got
	}
	if got := said(speakerv1.HealthState_HEALTH_STATE_UNKNOWN); len(got) != 0 {
		t.Errorf("nothing is known: %v", got)
	}
	got := said(speakerv1.HealthState_HEALTH_STATE_UNHEALTHY)
	if len(got) != 1 || !sameType(got[0], &decider.HealthObserved{}) {
		t.Fatalf("unhealthy: %v", got)
	}
	s.apply(&logv1.Event{Fact: &logv1.Event_HealthChanged{HealthChanged: &logv1.HealthChanged{Namespace: key.Namespace, Name: key.Name, Node: "n1", Reason: "recorded"}}})
	if got := said(speakerv1.HealthState_HEALTH_STATE_UNHEALTHY); len(got) != 0 {
		t.Errorf("recorded already: %v", got)
	}
	if got := said(speakerv1.HealthState_HEALTH_STATE_HEALTHY); len(got) != 1 {
		t.Errorf("healthy again: %v", got)
	}
	s.attach(t, &speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: session},
		Health: []*speakerv1.HealthStatus{status(speakerv1.HealthState_HEALTH_STATE_UNHEALTHY)}})
	eventually(t, "the report", func() bool { return len(s.attached.checks(key)) == 1 })
	resp := &adminv1.GetResponse{}
	s.view(key.String()).services(resp)
	health := resp.GetServices()[0].GetHealth()
	if len(health) != 1 || health[0].GetNode() != "n1" || health[0].Healthy == nil || health[0].GetHealthy() ||
		health[0].GetStatus().GetReason() != "found" || health[0].GetReason() != "recorded" {
		t.Errorf("health is %v", health)
	}
}
