package fsm

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// rowType is one kind of snapshot record and of the rows of a digest.
type rowType struct {
	name string
	// count tells how many rows the state has.
	count func(*State) int
	// each gives the encoder of every row, in a fixed order.
	each func(*State, func(func(*encoder)) error) error
	// decode puts one row into the state. Rows come in the order of each.
	decode func(*State, *decoder)
}

// rowTypes is the table of records by their number in a snapshot. Numbers are
// only ever added, and used only from a cluster version on that knows them.
var rowTypes = [...]rowType{
	1: {"settings", func(*State) int { return 1 }, eachSettings, decodeSettings},
	2: table("pool", poolsOf, cmp.Compare[string], encodePool, decodePool),
	3: table("advertisement", adsOf, cmp.Compare[string], encodeAdvertisement, decodeAdvertisement),
	4: table("service", servicesOf, ServiceKey.Compare, encodeService, decodeService),
	5: table("address", addressesOf, netip.Addr.Compare, encodeAddress, decodeAddress),
	6: table("free", freeOf, netip.Addr.Compare, encodeFree, decodeFree),
	7: table("node", nodesOf, cmp.Compare[string], encodeNode, decodeNode),
	8: table("namespace", namespacesOf, cmp.Compare[string], encodeNamespace, decodeNamespace),
	9: table("reservation", reservationsOf, cmp.Compare[string], encodeReservation, decodeReservation),
}

func poolsOf(s *State) map[string]*Pool            { return s.Pools }
func adsOf(s *State) map[string]*Advertisement     { return s.Ads }
func servicesOf(s *State) map[ServiceKey]*Service  { return s.Services }
func addressesOf(s *State) map[netip.Addr]*Address { return s.Addresses }
func freeOf(s *State) map[netip.Addr]*Free         { return s.Free }
func nodesOf(s *State) map[string]*Node            { return s.Nodes }

// table makes the row type of a map, sorted by key.
func table[K comparable, V any](name string, of func(*State) map[K]*V, compare func(a, b K) int,
	encode func(*encoder, *V), decode func(*decoder) (K, *V)) rowType {
	return rowType{
		name:  name,
		count: func(s *State) int { return len(of(s)) },
		each: func(s *State, emit func(func(*encoder)) error) error {
			m := of(s)
			var row *V
			body := func(e *encoder) { encode(e, row) }
			for _, k := range slices.SortedFunc(maps.Keys(m), compare) {
				row = m[k]
				if err := emit(body); err != nil {
					return err
				}
			}
			return nil
		},
		decode: func(s *State, d *decoder) {
			k, v := decode(d)
			if d.err == nil && of(s)[k] != nil {
				d.fail("second " + name + " row of one key")
			}
			if d.err == nil {
				of(s)[k] = v
			}
		},
	}
}

func eachSettings(s *State, emit func(func(*encoder)) error) error {
	return emit(func(e *encoder) {
		e.int(int64(s.Lease.Detection))
		e.int(int64(s.Lease.Heartbeat))
		e.int(int64(s.Lease.Settle))
		e.int(int64(s.Retention))
		e.int(int64(s.PriorLease.Detection))
		e.int(int64(s.PriorLease.Heartbeat))
		e.int(int64(s.PriorLease.Settle))
		e.uint(s.PolicyAt)
		e.uint(uint64(s.RebalancePerMinute))
	})
}

func decodeSettings(s *State, d *decoder) {
	s.Lease.Detection = time.Duration(d.int())
	s.Lease.Heartbeat = time.Duration(d.int())
	s.Lease.Settle = time.Duration(d.int())
	s.Retention = time.Duration(d.int())
	s.PriorLease.Detection = time.Duration(d.int())
	s.PriorLease.Heartbeat = time.Duration(d.int())
	s.PriorLease.Settle = time.Duration(d.int())
	s.PolicyAt = d.uint()
	s.RebalancePerMinute = d.uint32()
}

func encodePool(e *encoder, p *Pool) {
	e.pool(p.Spec)
	e.uint(p.DefinedAt)
}

func decodePool(d *decoder) (string, *Pool) {
	p := &Pool{Spec: d.pool(), DefinedAt: d.uint()}
	for _, text := range p.Spec.GetAddresses() {
		r, err := ParseRange(text)
		if err != nil {
			d.fail(err.Error())
		}
		p.Ranges = append(p.Ranges, r)
	}
	return p.Spec.GetName(), p
}

func encodeAdvertisement(e *encoder, a *Advertisement) {
	e.advertisement(a.Spec)
	e.uint(a.DefinedAt)
}

func decodeAdvertisement(d *decoder) (string, *Advertisement) {
	a := &Advertisement{Spec: d.advertisement(), DefinedAt: d.uint()}
	return a.Spec.GetName(), a
}

func encodeService(e *encoder, s *Service) {
	e.service(s.Spec)
	e.str(s.Source)
	e.uint(s.Generation)
	e.uint(s.CreatedAt)
	e.uint(s.DeclaredAt)
	e.int(s.DeclaredTime)
	encodeList(e, s.Addresses, (*encoder).addr)
	e.str(s.Pending)
	encodeList(e, s.Refusals, (*encoder).refusal)
	e.bool(s.Endpoints != nil)
	if s.Endpoints != nil {
		e.strs(s.Endpoints.Ready)
		e.strs(s.Endpoints.Terminating)
		e.int(s.Endpoints.Time)
	}
	encodeMap(e, s.Health, func(e *encoder, h Health) {
		e.bool(h.Healthy)
		e.int(h.Time)
		e.str(h.Reason)
	})
}

func decodeService(d *decoder) (ServiceKey, *Service) {
	s := &Service{
		Spec:         d.service(),
		Source:       d.name(),
		Generation:   d.uint(),
		CreatedAt:    d.uint(),
		DeclaredAt:   d.uint(),
		DeclaredTime: d.int(),
		Addresses:    decodeList(d, (*decoder).addr),
		Pending:      d.name(),
		Refusals:     decodeList(d, (*decoder).refusal),
	}
	if d.bool() {
		s.Endpoints = &Endpoints{Ready: decodeList(d, (*decoder).name), Terminating: decodeList(d, (*decoder).name), Time: d.int()}
	}
	s.Health = decodeMap(d, func(d *decoder) Health { return Health{Healthy: d.bool(), Time: d.int(), Reason: d.name()} })
	s.Key = KeyOf(s.Spec.GetNamespace(), s.Spec.GetName())
	return s.Key, s
}

func encodeAddress(e *encoder, a *Address) {
	e.addr(a.Addr)
	e.str(a.Pool)
	encodeList(e, a.Services, (*encoder).key)
	e.uint(uint64(a.Reason))
	e.str(a.Owner)
	e.uint(a.Epoch)
	e.int(a.OwnerTime)
	e.uint(uint64(a.OwnerWhy))
	e.prior(a.Prior, a.PriorAt, a.PriorSession, a.PriorEpoch)
	encodeMap(e, a.Failures, func(e *encoder, f Failure) {
		e.uint(uint64(f.Count))
		e.int(f.Time)
		e.str(f.Reason)
	})
	e.b = append(e.b, a.Conflict[:]...)
	e.str(a.ConflictNode)
	e.uint(a.PolicyAt)
	e.uint(uint64(a.Flaps))
	e.int(a.FlapTime)
	e.uint(uint64(a.ConflictKind))
	e.str(a.ConflictHolder)
	e.bool(a.FirstUse)
	e.str(a.SoftNode)
	e.uint(a.SoftEpoch)
	e.bool(a.OnLink)
}

func (e *encoder) prior(node string, at, session, epoch uint64) {
	e.str(node)
	e.uint(at)
	e.uint(session)
	e.uint(epoch)
}

func decodeAddress(d *decoder) (netip.Addr, *Address) {
	a := &Address{
		Addr:         d.addr(),
		Pool:         d.name(),
		Services:     decodeList(d, (*decoder).key),
		Reason:       decodeEnum[logv1.AllocationReason](d, logv1.AllocationReason_name),
		Owner:        d.name(),
		Epoch:        d.uint(),
		OwnerTime:    d.int(),
		OwnerWhy:     decodeEnum[logv1.OwnerReason](d, logv1.OwnerReason_name),
		Prior:        d.name(),
		PriorAt:      d.uint(),
		PriorSession: d.uint(),
		PriorEpoch:   d.uint(),
		Failures: decodeMap(d, func(d *decoder) Failure {
			return Failure{Count: d.uint32(), Time: d.int(), Reason: d.name()}
		}),
	}
	d.array(a.Conflict[:])
	a.ConflictNode = d.name()
	a.PolicyAt = d.uint()
	a.Flaps, a.FlapTime = d.uint32(), d.int()
	a.ConflictKind = decodeEnum[logv1.ConflictKind](d, logv1.ConflictKind_name)
	a.ConflictHolder = d.name()
	a.FirstUse = d.bool()
	a.SoftNode = d.name()
	a.SoftEpoch = d.uint()
	a.OnLink = d.bool()
	return a.Addr, a
}

func encodeFree(e *encoder, f *Free) {
	e.addr(f.Addr)
	e.str(f.Pool)
	e.uint(f.FreedAt)
	e.key(f.Key)
	e.int(f.KeptUntil)
	e.str(f.SharingKey)
	e.int(f.RestsUntil)
	e.prior(f.Prior, f.PriorAt, f.PriorSession, f.PriorEpoch)
	e.mac(f.Conflict)
	e.str(f.ConflictNode)
	e.int(f.QuarantineSince)
	e.int(f.QuarantineUntil)
}

func decodeFree(d *decoder) (netip.Addr, *Free) {
	f := &Free{
		Addr:       d.addr(),
		Pool:       d.name(),
		FreedAt:    d.uint(),
		Key:        d.key(),
		KeptUntil:  d.int(),
		SharingKey: d.name(),

		RestsUntil: d.int(),

		Prior:        d.name(),
		PriorAt:      d.uint(),
		PriorSession: d.uint(),
		PriorEpoch:   d.uint(),
	}
	f.Conflict, f.ConflictNode = d.mac(), d.name()
	f.QuarantineSince, f.QuarantineUntil = d.int(), d.int()
	return f.Addr, f
}

func encodeNode(e *encoder, n *Node) {
	e.str(n.Name)
	e.uint(n.Session)
	e.uint(uint64(n.SessionState))
	e.uint(n.EndedAt)
	e.b = append(e.b, n.Process[:]...)
	e.uint(n.Incarnation)
	encodeList(e, n.MACs, (*encoder).mac)
	encodeList(e, n.PriorMACs, (*encoder).mac)
	e.labels(n.Labels)
	encodeList(e, n.Links, (*encoder).link)
	e.str(n.Version)
	e.uint(uint64(n.Drained))
	e.int(n.GraceUntil)
	e.uint(n.TakenAt)
	e.uint(uint64(n.Owned))
}

func (e *encoder) mac(m MAC) { e.b = append(e.b, m[:]...) }

func (d *decoder) mac() (m MAC) {
	d.array(m[:])
	return m
}

func decodeNode(d *decoder) (string, *Node) {
	n := &Node{Name: d.name(), Session: d.uint()}
	state := d.uint()
	if state < uint64(SessionOpen) || state > uint64(SessionExpired) {
		d.fail("session state")
	}
	n.SessionState, n.EndedAt = SessionState(state), d.uint()
	d.array(n.Process[:])
	n.Incarnation = d.uint()
	n.MACs = decodeList(d, (*decoder).mac)
	n.PriorMACs = decodeList(d, (*decoder).mac)
	n.Labels = d.labels()
	n.Links = decodeList(d, (*decoder).link)
	n.Version = d.name()
	n.Drained = decodeEnum[logv1.DrainReason](d, logv1.DrainReason_name)
	n.GraceUntil = d.int()
	n.TakenAt = d.uint()
	n.Owned = int(d.uint())
	return n.Name, n
}
