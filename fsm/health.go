package fsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Bounds of health checks.
const (
	MinCheckInterval = 100 * time.Millisecond
	MaxCheckInterval = time.Hour
	MinCheckTimeout  = 10 * time.Millisecond
	MaxCheckTries    = 100
)

func (f *folding) endpointsObserved(e *logv1.EndpointsObserved) error {
	svc, err := f.service("EndpointsObserved", e.GetNamespace(), e.GetName())
	if err != nil {
		return err
	}
	for _, list := range [][]string{e.GetReady(), e.GetTerminating()} {
		for i, node := range list {
			if node == "" || i > 0 && node <= list[i-1] {
				return corruptf("EndpointsObserved of %s: nodes are not sorted", svc.Key)
			}
		}
	}
	f.editService(svc).Endpoints = &Endpoints{Ready: e.GetReady(), Terminating: e.GetTerminating(), Time: f.s.Time}
	return nil
}

func (f *folding) healthChanged(e *logv1.HealthChanged) error {
	svc, err := f.service("HealthChanged", e.GetNamespace(), e.GetName())
	if err != nil {
		return err
	}
	if _, err := f.node("HealthChanged", e.GetNode()); err != nil {
		return err
	}
	if svc.Spec.GetHealthCheck() == nil {
		return corruptf("HealthChanged of %s, which has no health check", svc.Key)
	}
	c := f.editService(svc)
	c.Health = maps.Clone(svc.Health)
	if c.Health == nil {
		c.Health = map[string]Health{}
	}
	c.Health[e.GetNode()] = Health{Healthy: e.GetHealthy(), Time: f.s.Time, Reason: e.GetReason()}
	return nil
}

// forgetHealth drops what a node that is no more has said.
func (f *folding) forgetHealth(node string) {
	for _, svc := range f.s.Services { // order-free: the changes are sorted
		if _, said := svc.Health[node]; !said {
			continue
		}
		c := f.editService(svc)
		c.Health = maps.Clone(svc.Health)
		if delete(c.Health, node); len(c.Health) == 0 {
			c.Health = nil
		}
	}
}

func (e *encoder) healthCheck(h *logv1.HealthCheck) {
	e.bool(h != nil)
	if h == nil {
		return
	}
	if c := h.GetHttp(); e.present(c != nil) {
		e.uint(uint64(c.GetPort()))
		e.str(c.GetPath())
		e.str(c.GetHost())
	}
	if c := h.GetTcp(); e.present(c != nil) {
		e.uint(uint64(c.GetPort()))
	}
	if c := h.GetExec(); e.present(c != nil) {
		e.str(c.GetScript())
	}
	e.int(h.GetIntervalNanos())
	e.int(h.GetTimeoutNanos())
	e.uint(uint64(h.GetRise()))
	e.uint(uint64(h.GetFall()))
}

func (e *encoder) present(yes bool) bool {
	e.bool(yes)
	return yes
}

func (d *decoder) healthCheck() *logv1.HealthCheck {
	if !d.bool() {
		return nil
	}
	h := &logv1.HealthCheck{}
	if d.bool() {
		h.Http = &logv1.HttpCheck{Port: d.uint32(), Path: d.str(), Host: d.str()}
	}
	if d.bool() {
		h.Tcp = &logv1.TcpCheck{Port: d.uint32()}
	}
	if d.bool() {
		h.Exec = &logv1.ExecCheck{Script: d.name()}
	}
	h.IntervalNanos, h.TimeoutNanos, h.Rise, h.Fall = d.int(), d.int(), d.uint32(), d.uint32()
	return h
}

// dumpServing writes what is known of where the service can be served.
func (s *Service) dumpServing() string {
	var b strings.Builder
	if h := s.Spec.GetHealthCheck(); h != nil {
		fmt.Fprintf(&b, " check=%s", CheckText(h))
	}
	if s.Endpoints != nil {
		fmt.Fprintf(&b, " ready=%v terminating=%v@%d", s.Endpoints.Ready, s.Endpoints.Terminating, s.Endpoints.Time)
	}
	for _, node := range slices.Sorted(maps.Keys(s.Health)) {
		h := s.Health[node]
		fmt.Fprintf(&b, " health=%s:%t@%d:%q", node, h.Healthy, h.Time, h.Reason)
	}
	return b.String()
}

// CheckText says in one line what a health check does.
func CheckText(h *logv1.HealthCheck) string {
	port := func(n uint32) string {
		if n == 0 {
			return "the first TCP port"
		}
		return fmt.Sprintf("port %d", n)
	}
	what := "nothing"
	switch {
	case h.GetHttp() != nil:
		what = fmt.Sprintf("http %s on %s", h.GetHttp().GetPath(), port(h.GetHttp().GetPort()))
		if h.GetHttp().GetHost() != "" {
			what += " as " + h.GetHttp().GetHost()
		}
	case h.GetTcp() != nil:
		what = "tcp on " + port(h.GetTcp().GetPort())
	case h.GetExec() != nil:
		what = "exec " + h.GetExec().GetScript()
	}
	return fmt.Sprintf("%s every %s, timeout %s, rise %d, fall %d", what,
		time.Duration(h.GetIntervalNanos()), time.Duration(h.GetTimeoutNanos()), h.GetRise(), h.GetFall())
}

// healthCheck checks a service's health check.
func (f *faults) healthCheck(path string, s *logv1.Service) {
	h := s.GetHealthCheck()
	if h == nil {
		return
	}
	kinds := 0
	tcpPort := slices.ContainsFunc(s.GetPorts(), func(p *logv1.Port) bool {
		return p.GetProtocol() == logv1.Protocol_PROTOCOL_TCP || p.GetProtocol() == logv1.Protocol_PROTOCOL_UNSPECIFIED
	})
	port := func(path string, n uint32) {
		switch {
		case n > 65535:
			f.add(path, "%d is not between 1 and 65535", n)
		case n == 0 && !tcpPort:
			f.add(path, "is required: the service has no TCP port")
		}
	}
	if c := h.GetHttp(); c != nil {
		kinds++
		port(path+".http.port", c.GetPort())
		f.text(path+".http.path", c.GetPath(), 1024)
		if !strings.HasPrefix(c.GetPath(), "/") || strings.ContainsAny(c.GetPath(), " #") {
			f.add(path+".http.path", "%q is not a path that begins with \"/\"", c.GetPath())
		}
		f.text(path+".http.host", c.GetHost(), 253)
		if strings.ContainsAny(c.GetHost(), " /@") {
			f.add(path+".http.host", "%q is not a host name", c.GetHost())
		}
	}
	if c := h.GetTcp(); c != nil {
		kinds++
		port(path+".tcp.port", c.GetPort())
	}
	if c := h.GetExec(); c != nil {
		kinds++
		f.script(path+".exec.script", c.GetScript())
	}
	if kinds != 1 {
		f.add(path, "exactly one of http, tcp and exec is required")
	}
	f.checkTimes(path, h)
}

// script demands the name of a file, so that no speaker ever runs anything but what
// lies in its directory of scripts.
func (f *faults) script(path, name string) {
	ok := name != "" && len(name) <= 64 && name[0] != '.' && name[0] != '-'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		f.add(path, "%q is not the name of a script: letters, digits, '-', '_' and '.', at most 64, not beginning with '.' or '-'", name)
	}
}

func (f *faults) checkTimes(path string, h *logv1.HealthCheck) {
	interval, timeout := time.Duration(h.GetIntervalNanos()), time.Duration(h.GetTimeoutNanos())
	if interval < MinCheckInterval || interval > MaxCheckInterval {
		f.add(path+".interval", "%s is not between %s and %s", interval, MinCheckInterval, MaxCheckInterval)
	}
	if timeout < MinCheckTimeout || timeout > interval {
		f.add(path+".timeout", "%s is not between %s and the interval %s", timeout, MinCheckTimeout, interval)
	}
	tries := func(name string, n uint32) {
		if n < 1 || n > MaxCheckTries {
			f.add(path+"."+name, "%d is not between 1 and %d", n, MaxCheckTries)
		}
	}
	tries("rise", h.GetRise())
	tries("fall", h.GetFall())
}
