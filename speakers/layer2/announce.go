package layer2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// announce begins the pending rounds of vips, or all rounds, on some links only
// if these are given. What was still to be sent there is replaced.
func (l *Layer2) announce(vips []*vip, on []int, now time.Duration) {
	if len(vips) == 0 {
		return
	}
	asked := l.recentClients(vips)
	// In the order of addresses, so that nobody depends on the order of a map.
	slices.SortFunc(vips, func(a, b *vip) int { return a.Addr.Compare(b.Addr) })
	for _, v := range vips {
		rounds := allRounds
		if on == nil {
			rounds, v.pending = max(1, v.pending), 0
			v.endBursts()
		}
		if v.held || v.yielded || v.Soft || v.quiet() {
			if v.held || v.yielded {
				v.pending = allRounds // until the wire has been asked, or the claim is over
			}
			continue
		}
		for _, index := range v.on {
			if on != nil && !slices.Contains(on, index) {
				continue
			}
			for _, b := range v.bursts {
				b.ended = b.ended || b.link == index
			}
			b := &burst{vip: v, link: index, rounds: rounds, due: now}
			for _, c := range asked[v.Addr] {
				if c.link == index {
					b.clients = append(b.clients, c)
				}
			}
			v.bursts = append(v.bursts, b)
			l.pacer.add(b)
		}
		if v.announcing() {
			v.entry.curious.Store(true)
		}
	}
	l.wake()
}

// recentClients returns who was heard asking for the addresses lately.
func (l *Layer2) recentClients(vips []*vip) map[netip.Addr][]client {
	wanted := make(map[netip.Addr]struct{}, len(vips))
	for _, v := range vips {
		wanted[v.Addr] = struct{}{}
	}
	since := time.Now().Add(-clientsKept).UnixNano()
	found := l.responder.ears[0].seen.clients(wanted, since, maxClients)
	for addr, list := range l.responder.ears[1].seen.clients(wanted, since, maxClients) {
		found[addr] = list
	}
	return found
}

// emit sends the next frame of a burst's present step and reports true, or
// reports false if the step has no more. It ends a burst that may not be sent.
func (l *Layer2) emit(b *burst) bool {
	v := b.vip
	k := l.links[b.link]
	if v == nil {
		return l.emitReady(b, k)
	}
	if k == nil || !k.Up || v.yielded {
		b.ended = true
		return false
	}
	// This may take the kernel seconds, so it comes before the clock is looked at.
	if l.join(v, b.link, l.clock.Now()) != nil {
		b.ended = true
		return false
	}
	for {
		frame, kind, more, err := l.next(b, k)
		if !more {
			return false
		}
		b.index++
		if err != nil {
			l.logVip(v).Error("encode an announcement", "error", err)
			continue
		}
		if frame == nil {
			continue // nothing to be said to this one
		}
		if !l.mayClaim(b) {
			b.ended = true
			return false
		}
		_ = l.transmit(k, v.Addr.Is6(), frame, kind) // the link knows
		return true
	}
}

// mayClaim reports whether the next frame of a burst may still be sent. Nothing that
// may wait comes between this and the send.
func (l *Layer2) mayClaim(b *burst) bool {
	if now := l.clock.Now(); now >= l.until() {
		// It is noted now, so that what is cut short here is made good afterwards: by the
		// next tick there may be another confirmation.
		if l.lookAtConfirmation(now); !l.confirmed {
			return false
		}
	}
	return !b.vip.entry.muted.Load()
}

// emitReady is emit for frames that are ready.
func (l *Layer2) emitReady(b *burst, k *link) bool {
	l.asked = l.asked || b.kind == KindProbe
	if k == nil || !k.Up {
		b.ended, b.err = true, ErrNoLink
		return false
	}
	frame := b.frames[b.index]
	b.index++
	b.ended = b.index == len(b.frames)
	if err := l.transmit(k, frame[ethType] == 0x86, frame, b.kind); err != nil {
		b.err = fmt.Errorf("ask on %s: %w", k.Name, err)
	}
	return true
}

// transmit sends a frame and notes whether the link can.
func (l *Layer2) transmit(k *link, v6 bool, frame []byte, kind Kind) (sent error) {
	err := l.responder.send(k.Index, v6, frame, kind)
	sent = err
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
		err = nil // a full queue is a lost frame, which the next round makes good
		l.responder.full.Add(1)
	}
	if (err == nil) == (k.sendErr == nil) {
		return sent
	}
	k.sendErr = err
	if err != nil {
		l.log.Warn("cannot send", "interface", k.Name, "error", err)
	}
	for _, v := range l.vips {
		if slices.Contains(v.on, k.Index) {
			l.touch(v)
		}
	}
	return sent
}

// next makes the frame at a burst's step and index; more is false at the step's end.
func (l *Layer2) next(b *burst, k *link) (frame []byte, kind Kind, more bool, err error) {
	v, v6 := b.vip, b.vip.Addr.Is6()
	if b.kind != 0 && b.step != stepAnnounce {
		return nil, 0, false, nil
	}
	switch b.step {
	case stepGateways:
		gateways := l.gateways(k, v6)
		if b.index >= len(gateways) {
			return nil, 0, false, nil
		}
		to := gateways[b.index]
		if to == v.Addr || v.provenBy(to, k.Index) {
			return nil, 0, true, nil
		}
		frame, err = directed(k.MAC, v.Addr, system.Broadcast, to)
		return frame, KindDirected, true, err
	case stepClients:
		if b.index >= len(b.clients) {
			return nil, 0, false, nil
		}
		c := b.clients[b.index]
		if c.addr == v.Addr || v.provenBy(c.addr, k.Index) {
			return nil, 0, true, nil
		}
		frame, err = directed(k.MAC, v.Addr, c.mac, c.addr)
		return frame, KindDirected, true, err
	}
	if b.index > 0 || v6 && b.step == stepReply {
		return nil, 0, false, nil
	}
	switch {
	case b.step == stepReply:
		kind = KindAnnounceReply
		frame, err = announceReply(k.MAC, v.Addr)
	case v6:
		kind = KindAnnounceAdvert
		frame, err = announceAdvert(k.MAC, v.Addr)
	default:
		kind = KindAnnounceRequest
		frame, err = announceRequest(k.MAC, v.Addr)
	}
	if b.kind != 0 {
		kind = b.kind
	}
	return frame, kind, true, err
}

func directed(mac system.MAC, addr netip.Addr, to system.MAC, neighbour netip.Addr) ([]byte, error) {
	if addr.Is6() {
		return directedSolicit(mac, addr, to, neighbour)
	}
	return directedRequest(mac, addr, to, neighbour)
}

// gateways returns whom to ask on a link: the next hops of its default routes and
// the configured ones that are on the link, or on none that is known.
func (l *Layer2) gateways(k *link, v6 bool) []netip.Addr {
	var out []netip.Addr
	add := func(g netip.Addr) {
		g = g.WithZone("")
		if g.Is6() == v6 && !slices.Contains(out, g) && !slices.ContainsFunc(k.Prefixes, func(p netip.Prefix) bool { return p.Addr() == g }) {
			out = append(out, g)
		}
	}
	for _, g := range k.Gateways {
		add(g)
	}
	for _, g := range l.cfg.Gateways {
		if g.Zone() != "" && g.Zone() != k.Name {
			continue
		}
		if onLink(k.Link, g) || !l.anywhere(g) {
			add(g)
		}
	}
	return out
}

func onLink(k links.Link, addr netip.Addr) bool {
	return slices.ContainsFunc(k.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (l *Layer2) anywhere(addr netip.Addr) bool {
	for _, k := range l.links {
		if onLink(k.Link, addr) {
			return true
		}
	}
	return false
}

// defend answers a foreign claim with one announcement on the link where it was
// heard, at most once per defendInterval (RFC 5227 section 2.4 c).
func (l *Layer2) defend(v *vip, index int, now time.Duration) {
	if v.defended != 0 && now-v.defended < defendInterval {
		return
	}
	v.defended = now
	l.announceOnce(v, index, KindDefence, now)
}

// announceOnce sends a single announcement.
func (l *Layer2) announceOnce(v *vip, index int, kind Kind, now time.Duration) {
	v.announcing() // forgets ended ones
	b := &burst{vip: v, link: index, kind: kind, rounds: 1, step: stepAnnounce, due: now}
	v.bursts = append(v.bursts, b)
	l.pacer.add(b)
}

// refreshAfter returns when the next refresh is due.
func refreshAfter(now time.Duration) time.Duration {
	return now + time.Duration((0.8+0.4*rand.Float64())*float64(refreshInterval))
}

// scheduleRefresh lets each link carry an announcement of one address, in turn,
// so that switches do not forget where the link's MAC is.
func (l *Layer2) scheduleRefresh(now time.Duration) time.Duration {
	next := never
	for _, k := range l.links {
		if now >= k.refresh {
			k.refresh = refreshAfter(now)
			if v := l.refreshed(k); v != nil && l.confirmed {
				k.cursor = v.Addr
				l.announceOnce(v, k.Index, KindRefresh, now)
				l.reportGroups(k, now)
			}
		}
		next = min(next, k.refresh)
	}
	return next
}

// refreshed returns the vip whose turn it is: the next one after the cursor.
func (l *Layer2) refreshed(k *link) *vip {
	var first, after *vip
	for _, v := range l.vips {
		if v.held || v.yielded || v.Soft || v.quiet() || !slices.Contains(v.on, k.Index) {
			continue
		}
		if first == nil || v.Addr.Less(first.Addr) {
			first = v
		}
		if k.cursor.Less(v.Addr) && (after == nil || v.Addr.Less(after.Addr)) {
			after = v
		}
	}
	if after != nil {
		return after
	}
	return first
}
