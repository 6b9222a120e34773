package fsm

import (
	"cmp"
	"iter"
	"net/netip"
	"strings"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// A service that lacks an address waits in the places that its refusals name,
// so that whoever frees something finds the ones that it may help, the longest
// declared first, and no others.

// poolWait is a service that waits for an address of a family in a pool.
type poolWait struct {
	Wait
	age ageKey
}

// Wait is what services wait for in a pool.
type Wait struct {
	Pool string
	V6   bool
	// Namespace is set for those whose namespace has all that it may.
	Namespace string
}

type addrWait struct {
	addr addrKey
	age  ageKey
}

type textWait struct {
	text string
	age  ageKey
}

func lessPoolWait(a, b poolWait) bool {
	if c := a.Wait.compare(b.Wait); c != 0 {
		return c < 0
	}
	return lessAge(a.age, b.age)
}

func (w Wait) compare(o Wait) int {
	if c := strings.Compare(w.Pool, o.Pool); c != 0 {
		return c
	}
	switch {
	case w.V6 == o.V6:
		return strings.Compare(w.Namespace, o.Namespace)
	case o.V6:
		return -1
	}
	return 1
}

func lessAddrWait(a, b addrWait) bool {
	if a.addr != b.addr {
		return a.addr.less(b.addr)
	}
	return lessAge(a.age, b.age)
}

func lessTextWait(a, b textWait) bool {
	if c := strings.Compare(a.text, b.text); c != 0 {
		return c < 0
	}
	return lessAge(a.age, b.age)
}

// Frees tells whether an address that falls free in the pool may help.
func (r Refusal) Frees() bool { return r.Pool != "" && Frees(r.Reason) }

// Frees tells whether the reason is that of a pool that is for the service and has
// nothing left: an address that falls free in it may help.
func Frees(reason logv1.RefusalReason) bool {
	switch reason {
	case logv1.RefusalReason_REFUSAL_REASON_FULL, logv1.RefusalReason_REFUSAL_REASON_KEPT,
		logv1.RefusalReason_REFUSAL_REASON_RESERVED, logv1.RefusalReason_REFUSAL_REASON_QUOTA,
		logv1.RefusalReason_REFUSAL_REASON_FOREIGN, logv1.RefusalReason_REFUSAL_REASON_RESTING:
		return true
	}
	return false
}

// Proto is the refusal as the log and the admin API have it.
func (r Refusal) Proto() *logv1.Refusal {
	out := &logv1.Refusal{Pool: r.Pool, Reason: r.Reason, Family: r.Family, UntilUnixNano: r.Until}
	if r.Addr.IsValid() {
		out.Address = FromAddr(r.Addr)
	}
	return out
}

func (r Refusal) wait(namespace string) Wait {
	w := Wait{Pool: r.Pool, V6: r.Family == logv1.IPFamily_IP_FAMILY_IPV6}
	if r.Reason == logv1.RefusalReason_REFUSAL_REASON_QUOTA {
		w.Namespace = namespace
	}
	return w
}

func (x *indexes) wait(svc *Service) {
	age := ageKey{svc.CreatedAt, svc.Key}
	if svc.Pending != "" {
		x.pending.Set(age)
	}
	if len(svc.Refusals) == 0 && svc.Pending == "" {
		return
	}
	x.waiting.Set(age)
	for _, r := range svc.Refusals {
		if r.Addr.IsValid() {
			x.waitAddr.Set(addrWait{keyOf(r.Addr), age})
		}
		if r.Frees() {
			x.waitPool.Set(poolWait{r.wait(svc.Key.Namespace), age})
		}
	}
	if key := svc.sharingKey(); key != "" {
		x.waitKey.Set(textWait{key, age})
	}
}

// unwait takes back what wait did for the same record.
func (x *indexes) unwait(svc *Service) {
	age := ageKey{svc.CreatedAt, svc.Key}
	x.pending.Delete(age)
	x.waiting.Delete(age)
	for _, r := range svc.Refusals {
		if r.Addr.IsValid() {
			x.waitAddr.Delete(addrWait{keyOf(r.Addr), age})
		}
		if r.Frees() {
			x.waitPool.Delete(poolWait{r.wait(svc.Key.Namespace), age})
		}
	}
	if key := svc.sharingKey(); key != "" {
		x.waitKey.Delete(textWait{key, age})
	}
}

// Waiting iterates over the services that lack an address or would take one
// more, the longest declared first.
func (s *State) Waiting() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		s.idx.waiting.Scan(func(k ageKey) bool { return yield(s.Services[k.key]) })
	}
}

// AnyWaiting tells whether Waiting has any.
func (s *State) AnyWaiting() bool { return s.idx.waiting.Len() > 0 }

// WaitedFor iterates over what services wait for in pools, in a fixed order.
func (s *State) WaitedFor() iter.Seq[Wait] {
	return func(yield func(Wait) bool) {
		var at poolWait
		for {
			next, ok := Wait{}, false
			s.idx.waitPool.Ascend(at, func(w poolWait) bool {
				next, ok = w.Wait, true
				return false
			})
			if !ok || !yield(next) {
				return
			}
			// Past everything that waits for the same.
			at = poolWait{Wait: next, age: ageKey{createdAt: ^uint64(0)}}
		}
	}
}

// WaitingFor iterates over the services that wait for this in a pool, the
// longest declared first; with after, those declared later than that.
func (s *State) WaitingFor(w Wait, after *Service) iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		from := poolWait{Wait: w}
		if after != nil {
			from.age = ageKey{after.CreatedAt, after.Key}
		}
		s.idx.waitPool.Ascend(from, func(k poolWait) bool {
			return k.Wait == w && (after != nil && k.age == from.age || yield(s.Services[k.age.key]))
		})
	}
}

// WaitingForAddress iterates over the services that ask for an address in vain.
func (s *State) WaitingForAddress(a netip.Addr) iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		addr := keyOf(a)
		s.idx.waitAddr.Ascend(addrWait{addr: addr}, func(k addrWait) bool {
			return k.addr == addr && yield(s.Services[k.age.key])
		})
	}
}

// WaitingToShare iterates over the services that wait and have the sharing key.
func (s *State) WaitingToShare(key string) iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		s.idx.waitKey.Ascend(textWait{text: key}, func(k textWait) bool {
			return k.text == key && yield(s.Services[k.age.key])
		})
	}
}

// CompareAge orders services by how long they have been declared.
func CompareAge(a, b *Service) int {
	if c := cmp.Compare(a.CreatedAt, b.CreatedAt); c != 0 {
		return c
	}
	return a.Key.Compare(b.Key)
}

func (e *encoder) refusal(r Refusal) {
	e.str(r.Pool)
	e.uint(uint64(r.Reason))
	e.uint(uint64(r.Family))
	e.bool(r.Addr.IsValid())
	if r.Addr.IsValid() {
		e.addr(r.Addr)
	}
	e.int(r.Until)
}

func (d *decoder) refusal() Refusal {
	r := Refusal{
		Pool:   d.name(),
		Reason: decodeEnum[logv1.RefusalReason](d, logv1.RefusalReason_name),
		Family: decodeEnum[logv1.IPFamily](d, logv1.IPFamily_name),
	}
	if d.bool() {
		r.Addr = d.addr()
	}
	r.Until = d.int()
	return r
}
