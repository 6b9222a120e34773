package fsm

import (
	"fmt"
	"maps"
	"slices"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Quota is how many addresses of the pool a namespace may have; false when there
// is no bound.
func (p *Pool) Quota(namespace string) (most uint32, bound bool) {
	q := p.Spec.GetQuota()
	if most, bound = q.GetNamespaces()[namespace]; bound {
		return most, true
	}
	return q.GetPerNamespace(), q.GetPerNamespace() > 0
}

// NamespaceUse counts the addresses of a pool that services of a namespace have.
func (s *State) NamespaceUse(pool, namespace string) int {
	if p := s.idx.pools[pool]; p != nil {
		return p.namespaces[namespace]
	}
	return 0
}

// PoolNamespaces counts the addresses of a pool by namespace. Not to be changed.
func (s *State) PoolNamespaces(pool string) map[string]int {
	if p := s.idx.pools[pool]; p != nil {
		return p.namespaces
	}
	return nil
}

// PoolKept counts the free addresses of a pool that are kept for deleted services, and
// those that are in its quarantine for longer.
func (s *State) PoolKept(pool string) (kept, resting uint64) {
	if p := s.idx.pools[pool]; p != nil {
		for _, f := range p.families {
			kept, resting = kept+uint64(f.kept), resting+uint64(f.resting)
		}
	}
	return kept, resting
}

// addNamespace counts an address for a namespace.
func (p *poolIndex) addNamespace(namespace string, delta int) {
	p.namespaces[namespace] += delta
	if p.namespaces[namespace] == 0 {
		delete(p.namespaces, namespace)
	}
}

// HasNamespace tells whether a service of the namespace has the address.
func (a *Address) HasNamespace(namespace string) bool { return hasNamespace(a.Services, namespace) }

func hasNamespace(services []ServiceKey, namespace string) bool {
	return slices.ContainsFunc(services, func(k ServiceKey) bool { return k.Namespace == namespace })
}

// countNamespace counts an address that a namespace has now, or has no more.
func (x *indexes) countNamespace(rec *Address, namespace string, delta int) {
	var buf [1]*poolIndex
	for _, p := range x.containing(buf[:0], rec.Addr) {
		p.addNamespace(namespace, delta)
	}
}

func (e *encoder) quota(q *logv1.Quota) {
	e.bool(q != nil)
	if q != nil {
		e.uint(uint64(q.GetPerNamespace()))
		encodeMap(e, q.GetNamespaces(), func(e *encoder, n uint32) { e.uint(uint64(n)) })
	}
}

func (d *decoder) quota() *logv1.Quota {
	if !d.bool() {
		return nil
	}
	return &logv1.Quota{PerNamespace: d.uint32(), Namespaces: decodeMap(d, (*decoder).uint32)}
}

func (f *faults) quota(path string, q *logv1.Quota) {
	for _, name := range slices.Sorted(maps.Keys(q.GetNamespaces())) {
		f.label(fmt.Sprintf("%s.namespaces[%q]", path, name), name)
	}
}

func (f *faults) quarantine(path string, d time.Duration) {
	if d < 0 || d > MaxRetention {
		f.add(path, "%s is not between 0s and %s", d, MaxRetention)
	}
}
