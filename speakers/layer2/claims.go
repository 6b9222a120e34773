package layer2

import (
	"net/netip"
	"slices"
	"time"
)

// hear handles one thing that the responder has heard.
func (l *Layer2) hear(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if e.kind == eventFound {
		l.found(e)
		l.foundBefore(e, now)
		return
	}
	v := l.vips[e.addr]
	if v == nil || v.Epoch != e.epoch {
		return
	}
	switch e.kind {
	case eventAnswer:
		// An answer to a MAC that the link no longer has proves nothing.
		if k := l.links[e.link]; k != nil && k.MAC == e.to {
			l.proved(v, k, e.by)
		}
	case eventUse:
		// Not silent, then; but no claim either.
		if v.foreign != nil && v.foreign.mac == e.mac {
			v.foreign.at = now
		}
	case eventClaim:
		l.claimed(v, e, now)
	}
}

// proved notes that a neighbour has the address here, by way of a link. Clients
// leave room for gateways, however many there are and whoever answers first: a
// gateway that is not noted would be asked again in every round.
func (l *Layer2) proved(v *vip, k *link, by netip.Addr) {
	p := proof{by: by, link: k.Index, gateway: slices.Contains(l.gateways(k, v.Addr.Is6()), by)}
	if !v.provenBy(by, k.Index) && (p.gateway || v.provenClients() < maxProven) {
		v.proven = append(v.proven, p)
		if len(v.proven) == 1 {
			l.logVip(v).Debug("proven", "by", by)
		}
		l.touch(v)
	}
	if l.satisfied(v) {
		v.entry.curious.Store(false)
	}
}

// satisfied reports whether nobody's answer matters any more.
func (l *Layer2) satisfied(v *vip) bool {
	if !v.announcing() {
		return true
	}
	if v.provenClients() < maxProven {
		return false
	}
	for _, index := range v.on {
		for _, g := range l.gateways(l.links[index], v.Addr.Is6()) {
			if g != v.Addr && !v.provenBy(g, index) {
				return false
			}
		}
	}
	return true
}

// claimed handles another station's claim.
func (l *Layer2) claimed(v *vip, e event, now time.Duration) {
	if _, ok := l.own[e.mac]; ok {
		return
	}
	switch {
	case v.Soft:
		if e.yielded {
			v.yielded = true
			l.touch(v)
		}
		return
	case l.checks[v] != nil && !e.yielded:
		return // the question that it answers tells more
	}
	if v.foreign == nil || v.foreign.mac != e.mac {
		l.logVip(v).Warn("another station claims the address", "mac", e.mac, "node", l.peers[e.mac], "yielded", e.yielded)
	}
	v.foreign = &foreign{mac: e.mac, at: now}
	l.troubled[v] = struct{}{}
	switch {
	case e.yielded:
		l.yield(v, now)
	case !v.yielded && now < l.until():
		l.defend(v, e.link, now)
	}
	l.touch(v)
}

// yield silences a vip. The claim is noted already.
func (l *Layer2) yield(v *vip, now time.Duration) {
	v.entry.muted.Store(true)
	v.yielded, v.yieldedAt = true, now
	v.endBursts()
	v.pending = allRounds
	v.proven = nil
}

// adoptMissed yields for claims that silenced an address but found no place in
// the queue; whose they were is not known.
func (l *Layer2) adoptMissed(now time.Duration) {
	for _, v := range l.vips {
		if v.Soft && v.entry.muted.Load() && !v.yielded {
			v.yielded = true
			l.touch(v)
		}
		if v.entry.muted.Load() && !v.yielded {
			if v.foreign == nil {
				v.foreign = &foreign{at: now}
			}
			l.troubled[v] = struct{}{}
			l.yield(v, now)
			l.touch(v)
		}
	}
}

// lookAtTroubled ends yields and forgets claims whose time has come, and returns
// when to look again.
func (l *Layer2) lookAtTroubled(now time.Duration) time.Duration {
	next := never
	var back []*vip
	for v := range l.troubled {
		silent := now-v.foreign.at >= silence
		_, speaker := l.peers[v.foreign.mac]
		switch {
		case v.yielded && speaker:
			// An ack of a heartbeat that was sent after the claim says that the node is
			// the owner nevertheless.
			if time.Duration(l.sent.Load()) > v.yieldedAt && now < l.fresh() {
				l.unyield(v)
				back = append(back, v)
			}
		case v.yielded && silent:
			l.unyield(v)
			back = append(back, v)
		}
		if silent && !v.yielded {
			v.foreign = nil
			delete(l.troubled, v)
			l.touch(v)
			continue
		}
		if wait := v.foreign.at + silence; wait > now {
			next = min(next, wait)
		}
	}
	if l.confirmed {
		l.announce(back, nil, now)
	}
	return next
}

// unyield answers again for a vip.
func (l *Layer2) unyield(v *vip) {
	l.logVip(v).Info("answer again after a foreign claim", "mac", v.foreign.mac)
	v.yielded = false
	v.entry.muted.Store(false)
	l.touch(v)
}
