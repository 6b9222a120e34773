package lease

import (
	"cmp"
	"slices"
	"time"
)

// heardBy takes what a member said about a session. At is never earlier than when
// the member really heard it: see DESIGN.md, "Ages of reports". A heartbeat moves
// the time on; a silence can only correct it backwards, as what was true of one
// report is true of all later ones until the next heartbeat.
func (l *Leader) heardBy(m *member, name string, session uint64, at time.Duration, heartbeat bool) {
	n := l.nodes[name]
	if n == nil || session != n.facts.Session {
		return
	}
	for i := range n.heardBy {
		e := &n.heardBy[i]
		switch {
		case e.member != m:
			continue
		case e.session != session || heartbeat && at > e.at:
			*e = heardBy{m, session, at}
		case !heartbeat && at < e.at:
			e.at = at
			l.nextScan = min(l.nextScan, at+l.longest().Detection)
		}
		return
	}
	n.heardBy = append(n.heardBy, heardBy{m, session, at})
	l.nextScan = min(l.nextScan, at+l.longest().Detection)
}

// lastHeard returns the waking time at which the node's session was last heard, by
// whatever member, or from when its silence counts.
func (l *Leader) lastHeard(n *node) time.Duration {
	at, heard := l.heardAt(n)
	if n.openedHere && !l.cfg.rules.expireUnopened {
		return max(at, n.opened)
	}
	if !heard && !l.cfg.rules.expireUnopened {
		// Nobody who reports has ever heard it; a former leader may have opened it just now.
		return max(at, l.barrierWaking)
	}
	return at
}

// heardAt returns when the session was last heard; false if it never was.
func (l *Leader) heardAt(n *node) (at time.Duration, heard bool) {
	session := n.facts.Session
	if s := l.own.session(n.name, session); s != nil {
		at, heard = s.at, true
	}
	for i := range n.heardBy {
		if e := &n.heardBy[i]; e.session == session && !l.cfg.rules.expireUnasked {
			at, heard = max(at, e.at), true
		}
	}
	return at, heard
}

// Expired returns the sessions to be expired now (rule 7). A session is named
// again after a while if nothing was decided about it. Voters are those of the
// newest configuration.
func (l *Leader) Expired(now time.Duration, voters []string) []Expiry {
	l.own.Tick(now)
	if l.over || l.own.Blocked(now) || !l.asked(voters) {
		return nil
	}
	waking := l.own.waking()
	if waking < l.nextScan {
		return nil
	}
	witnessed, ok := l.witnessed(voters)
	if !ok {
		return nil
	}
	d := l.longest().Detection
	next := waking + d
	var out []Expiry
	for name, n := range l.nodes {
		if !n.listening {
			if l.own.now >= l.fenceTime(n) && n.unacked == 0 {
				delete(l.nodes, name)
			}
			continue
		}
		if !n.facts.open(n.facts.Session) {
			continue
		}
		last := l.lastHeard(n)
		due := last + d
		if n.wasAsked {
			due = max(due, n.asked+askAgain)
		}
		if waking < due {
			next = min(next, due)
			continue
		}
		if !l.covers(witnessed, last+d) {
			next = min(next, waking)
			continue
		}
		n.asked, n.wasAsked = waking, true
		next = min(next, waking+askAgain)
		out = append(out, Expiry{Node: name, Session: n.facts.Session, Unheard: waking - last})
	}
	l.nextScan = next
	return out
}

// StillSilent tells whether what was true when the expiry was proposed is still true:
// the session is the node's open one and nobody has heard it since.
func (l *Leader) StillSilent(now time.Duration, e Expiry) bool {
	l.own.advance(now)
	n := l.nodes[e.Node]
	return !l.over && n != nil && n.facts.open(e.Session) &&
		l.own.waking()-l.lastHeard(n) >= l.longest().Detection
}

// NextExpiry returns the time before which Expired has nothing to say, if nothing is
// heard of until then.
func (l *Leader) NextExpiry() time.Duration { return l.nextScan + l.own.stalled }

// HeardLately tells whether the node was heard within two heartbeat intervals.
func (l *Leader) HeardLately(now time.Duration, name string) bool {
	l.own.advance(now)
	n := l.nodes[name]
	return n != nil && l.own.waking()-l.lastHeard(n) <= 2*l.longest().Heartbeat
}

// Unheard returns for how long no member has heard the session that head names; false if
// it is another one, or nobody who reports ever heard it.
func (l *Leader) Unheard(now time.Duration, name string, session uint64) (time.Duration, bool) {
	l.own.advance(now)
	n := l.nodes[name]
	if n == nil || n.facts.Session != session {
		return 0, false
	}
	at, heard := l.heardAt(n)
	return l.own.waking() - at, heard
}

// asked tells whether every voter has reported in this term, or has had the time to.
// Without it the first report after an election would decide alone.
func (l *Leader) asked(voters []string) bool {
	if l.own.waking() >= l.barrierWaking+firstPulses*l.cfg.Pulse {
		return true
	}
	for _, id := range voters {
		if m := l.members[id]; id != l.cfg.Self && (m == nil || m.reported == 0) {
			return false
		}
	}
	return true
}

// witnessed gives the latest time since which a majority of the voters, each up for D, has
// been asked what it hears and has answered; false when there is no such majority.
func (l *Leader) witnessed(voters []string) (since time.Duration, ok bool) {
	if l.cfg.rules.expireAlone {
		return l.own.now, true
	}
	d := l.longest().Detection
	young := func(up time.Duration) bool { return up < d && !l.cfg.rules.expireYoung }
	asked := make([]time.Duration, 0, len(voters))
	for _, id := range voters {
		if id == l.cfg.Self {
			if !young(l.own.waking() - l.own.start) {
				asked = append(asked, l.own.now)
			}
			continue
		}
		m := l.members[id]
		if m == nil || young(m.up) {
			continue
		}
		if at, ok := m.sentAt(m.reported); ok {
			asked = append(asked, at)
		}
	}
	if len(asked) <= len(voters)/2 {
		return 0, false
	}
	slices.SortFunc(asked, func(a, b time.Duration) int { return cmp.Compare(b, a) })
	return asked[len(voters)/2], true
}

// covers tells whether reports asked for at that time prove a silence that was long enough
// at the waking time due: they are fresh, or they were asked for after it. Without the
// second no node would ever be expired over lines on which an answer takes longer than
// a report is fresh.
func (l *Leader) covers(asked, due time.Duration) bool {
	d := l.longest().Detection
	age := l.own.now - asked
	return age <= max(freshPulses*l.cfg.Pulse, d/10) || age <= d && asked-l.own.stalled >= due
}
