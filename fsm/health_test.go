package fsm_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func checkedService(name string) *logv1.Service {
	s := fsmtest.Service(name, 80)
	s.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 2, Fall: 3}
	return s
}

func TestHealthIsKept(t *testing.T) {
	web := fsm.KeyOf("default", "web")
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.Declared(checkedService("web")), fsmtest.Opened("n1", 1, nil), fsmtest.Opened("n2", 1, nil))
	l.Apply(fsmtest.HealthChanged(web, "n1", false, "refused"), fsmtest.HealthChanged(web, "n2", true, "ok"),
		fsmtest.Endpoints(web, []string{"n1", "n2"}, "n3"))
	l.Apply(fsmtest.Declared(checkedService("web")))
	svc := l.S.Services[web]
	if h := svc.Health["n1"]; len(svc.Health) != 2 || h.Healthy || h.Reason != "refused" || !svc.Health["n2"].Healthy {
		t.Errorf("health is %+v", svc.Health)
	}
	if ep := svc.Endpoints; ep == nil || !slices.Equal(ep.Ready, []string{"n1", "n2"}) || !slices.Equal(ep.Terminating, []string{"n3"}) {
		t.Errorf("endpoints are %+v", ep)
	}
	l.Apply(fsmtest.Expired("n1", l.S.Nodes["n1"].Session), fsmtest.Forgotten("n1"))
	if _, said := l.S.Services[web].Health["n1"]; said {
		t.Error("a forgotten node goes on saying something")
	}
	l.Apply(fsmtest.Declared(fsmtest.Service("web", 80)))
	if svc := l.S.Services[web]; svc.Health != nil || svc.Endpoints == nil {
		t.Errorf("without a check: %+v, %+v", svc.Health, svc.Endpoints)
	}
	for name, ev := range map[string]*logv1.Event{
		"no check":        fsmtest.HealthChanged(web, "n2", true, ""),
		"unknown node":    fsmtest.HealthChanged(web, "n1", true, ""),
		"unknown service": fsmtest.HealthChanged(fsm.KeyOf("a", "b"), "n2", true, ""),
		"not sorted":      fsmtest.Endpoints(web, []string{"n2", "n1"}),
		"twice":           fsmtest.Endpoints(web, nil, "n1", "n1"),
		"nobody's":        fsmtest.Endpoints(fsm.KeyOf("a", "b"), nil),
	} {
		if err := l.Refuse(ev); !errors.Is(err, fsm.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
