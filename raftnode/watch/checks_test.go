package watch_test

import (
	"testing"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

func declareChecked(name string, delivery logv1.Delivery, check *logv1.HealthCheck) *logv1.Event {
	ev := declare(name, delivery)
	ev.GetServiceDeclared().GetService().HealthCheck = check
	return ev
}

// A node is told of the health checks of all services whose addresses it may own by
// selectors and labels, owner or not.
func TestHealthTasks(t *testing.T) {
	g := newGroup(t, 0)
	check := &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
	g.apply(open("n1", 1, 1, nil), open("n2", 1, 2, map[string]string{"host": "no"}))
	g.apply(declareChecked("web", logv1.Delivery_DELIVERY_HOST, check), declareChecked("dns", logv1.Delivery_DELIVERY_NONE, check),
		declare("plain", logv1.Delivery_DELIVERY_NONE), allocate("web", "192.0.2.1"), allocate("plain", "192.0.2.3"))
	r1, r2 := g.subscribe("n1"), g.subscribe("n2")
	tasks := r1.next().GetView().GetHealthTasks()
	if len(tasks) != 1 || tasks[0].GetService().GetName() != "web" || tasks[0].GetPort() != 80 || len(tasks[0].GetAddresses()) != 1 {
		t.Fatalf("tasks %v; one with an address and a port is expected", tasks)
	}
	if tasks := r2.next().GetView().GetHealthTasks(); len(tasks) != 0 {
		t.Errorf("a node that the services do not select has %v", tasks)
	}
	delta := func(r *reader) *speakerv1.ViewDelta { return r.next().GetDelta() }
	g.apply(allocate("dns", "192.0.2.2"))
	if d := delta(r1); len(d.GetHealthTasks()) != 1 || d.GetHealthTasks()[0].GetService().GetName() != "dns" || len(d.GetHealthTasks()[0].GetAddresses()) != 0 {
		t.Errorf("an address makes a task: %v", d)
	}
	g.apply(declare("web", logv1.Delivery_DELIVERY_HOST))
	if d := delta(r1); len(d.GetGoneHealthTasks()) != 1 || d.GetGoneHealthTasks()[0].GetName() != "web" {
		t.Errorf("without the check: %v", d)
	}
	g.apply(&logv1.Event{Fact: &logv1.Event_AdvertisementDeleted{AdvertisementDeleted: &logv1.AdvertisementDeleted{Name: "ad"}}})
	if d := delta(r1); len(d.GetGoneHealthTasks()) != 1 || d.GetGoneHealthTasks()[0].GetName() != "dns" {
		t.Errorf("without an advertisement: %v", d)
	}
	g.apply(advertise("eth0"))
	if d := delta(r1); len(d.GetHealthTasks()) != 1 {
		t.Errorf("with an advertisement again: %v", d)
	}
	g.apply(open("n1", 2, 1, map[string]string{"host": "no"}))
	if d := delta(r1); len(d.GetGoneHealthTasks()) != 1 {
		t.Errorf("with another label: %v", d)
	}
}
