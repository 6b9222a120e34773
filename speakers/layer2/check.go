package layer2

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// Times of the question before a first use. RFC 5227 would have a host ask for
// some seconds before it uses an address; here the owner answers at once, because
// the clients of a new service wait, and keeps back only its claims for as long as a
// station on the segment takes to answer. See DESIGN.md.
const (
	// claimWait is how long nothing is claimed for an address that nobody answers for.
	claimWait = 200 * time.Millisecond
	// askAgain is when the question is repeated, because a frame may be lost.
	askAgain = 300 * time.Millisecond
	// askFor is how long answers are waited for.
	askFor = time.Second
	// verifyFor is how long answers for the other addresses are waited for.
	verifyFor = 500 * time.Millisecond
	// decideFor is how long the members have to take the address away before it is
	// claimed in spite of a foreign station.
	decideFor = time.Second
	// recheckInterval is how often the question is asked again while somebody answers.
	recheckInterval = time.Minute
	// checksAtOnce bounds the addresses that are asked for at a time. Their questions
	// precede the second rounds of announcements, which they must not hold up for long.
	checksAtOnce = 256
	// strangers is how many addresses that nobody should have are asked for, to tell
	// a router with proxy ARP from a station that has the address.
	strangers = 2
)

// Finding is what the question before a first use has found.
type Finding uint8

const (
	// NotAsked: there was no question, or no answer to it yet.
	NotAsked Finding = iota
	// Clear: nobody else answers.
	Clear
	// Foreign: a station answers that has the address.
	Foreign
	// Proxy: a station answers that answers for any address, or a gateway does.
	Proxy
	// Kernel: another node answers, which is not its speaker.
	Kernel
)

var findingNames = []string{NotAsked: "not asked", Clear: "clear", Foreign: "foreign", Proxy: "proxy", Kernel: "kernel"}

// String returns the finding's name.
func (f Finding) String() string {
	if int(f) >= len(findingNames) {
		return fmt.Sprintf("Finding(%d)", uint8(f))
	}
	return findingNames[f]
}

// Check is a finding, with who answered.
type Check struct {
	Finding Finding
	MAC     system.MAC
	// Node that MAC belongs to, with Kernel.
	Node string
}

// check is a question on its way.
type check struct {
	vip *vip
	// asked counts the times; due is when there is something to do next, and wait how
	// long after the questions that are queued have been sent.
	asked     int
	due, wait time.Duration
	// queued are the questions that the pacer has not sent yet.
	queued []*burst
	// verifying: somebody has answered, and the others are asked for.
	verifying bool
	// hits are those who answered, and the link on which each was first heard.
	hits  []system.MAC
	links []int
	// random and gateways are the other addresses, answered who answered for them.
	random, gateways []netip.Addr
	answered         map[answerOf]struct{}
	// decided: it is known what was found, and the claims wait for the members.
	decided bool
}

type answerOf struct {
	addr netip.Addr
	mac  system.MAC
}

// want lists the addresses whose answers are to be reported.
func (c *check) want(wanted map[netip.Addr]struct{}) {
	wanted[c.vip.Addr] = struct{}{}
	for _, list := range [][]netip.Addr{c.random, c.gateways} {
		for _, a := range list {
			wanted[a] = struct{}{}
		}
	}
}

// check queues the question for those of the gained addresses that want it.
func (l *Layer2) check(gained []*vip, now time.Duration) {
	for _, v := range gained {
		if v.Check && !v.Soft {
			l.unchecked = append(l.unchecked, v)
		}
	}
	l.startChecks(now)
}

// uncheck forgets all questions about a vip.
func (l *Layer2) uncheck(v *vip) {
	if c := l.checks[v]; c != nil {
		endAll(c.queued)
	}
	delete(l.checks, v)
	delete(l.holding, v)
	delete(l.rechecks, v)
}

// startChecks begins as many questions as may be asked at a time.
func (l *Layer2) startChecks(now time.Duration) {
	begun := false
	for len(l.unchecked) > 0 && len(l.checks) < checksAtOnce {
		v := l.unchecked[0]
		if l.unchecked = l.unchecked[1:]; len(l.unchecked) == 0 {
			l.unchecked = nil
		}
		if l.vips[v.Addr] == v && !v.Soft && l.checks[v] == nil {
			l.checks[v] = &check{vip: v, due: now, answered: make(map[answerOf]struct{})}
			begun = true
		}
	}
	if begun {
		l.install()
		l.wake()
	}
}

// lookAtChecks asks what is due to be asked, and draws the conclusions. It
// returns when to look again.
func (l *Layer2) lookAtChecks(now time.Duration) time.Duration {
	var claim []*vip
	for v, at := range l.holding {
		if at <= now {
			delete(l.holding, v)
			v.held = false
			claim = append(claim, v)
		}
	}
	for v, at := range l.rechecks {
		if at <= now {
			delete(l.rechecks, v)
			l.unchecked = append(l.unchecked, v)
		}
	}
	ended := false
	for v, c := range l.checks {
		if l.stillAsking(c, now) || c.due > now {
			continue
		}
		if l.stepCheck(c, now) {
			delete(l.checks, v)
			ended = true
			if v.held {
				v.held = false
				claim = append(claim, v)
			}
		}
	}
	l.startChecks(now)
	if ended {
		l.install()
	}
	if l.confirmed {
		l.announce(claim, nil, now)
	}
	next := never
	for _, at := range l.holding {
		next = min(next, at)
	}
	for _, at := range l.rechecks {
		next = min(next, at)
	}
	for _, c := range l.checks {
		if len(c.queued) == 0 {
			next = min(next, c.due)
		}
	}
	return next
}

// stillAsking reports whether the pacer has questions to send. All waits begin when it
// has sent them.
func (l *Layer2) stillAsking(c *check, now time.Duration) bool {
	if len(c.queued) > 0 && !unsent(&c.queued) {
		l.haveAsked(c, now)
	}
	return len(c.queued) > 0
}

// haveAsked begins to wait.
func (l *Layer2) haveAsked(c *check, now time.Duration) {
	c.due = now + c.wait
	if c.vip.held && c.asked == 1 && !c.verifying {
		l.holding[c.vip] = now + claimWait
	}
}

// stepCheck does what is due for one question and reports whether it is over.
func (l *Layer2) stepCheck(c *check, now time.Duration) bool {
	switch {
	case c.decided:
		return true
	case c.verifying && c.asked == 0:
		c.asked = 1
		l.askAll(c, append(slices.Clone(c.random), c.gateways...), verifyFor, now)
	case c.verifying:
		return l.conclude(c, l.judgeHits(c), now)
	case c.asked < 2:
		wait := askAgain
		if c.asked++; c.asked == 2 {
			wait = askFor - askAgain
		}
		l.askAll(c, []netip.Addr{c.vip.Addr}, wait, now)
	default:
		return l.conclude(c, Check{Finding: Clear}, now)
	}
	return false
}

// conclude notes what was found and reports whether the question is over.
func (l *Layer2) conclude(c *check, found Check, now time.Duration) bool {
	v := c.vip
	if found != v.checked && found.Finding != Clear {
		l.logVip(v).Warn("another station answers for the address", "finding", found.Finding, "mac", found.MAC, "node", found.Node)
	}
	v.checked = found
	l.touch(v)
	if found.Finding != Clear {
		l.rechecks[v] = now + recheckInterval
	}
	if found.Finding == Foreign && v.held {
		c.decided, c.due = true, now+decideFor
		return false
	}
	return true
}

// foundBefore takes an answer to one of the questions.
func (l *Layer2) foundBefore(e event, now time.Duration) {
	for v, c := range l.checks {
		if e.addr != v.Addr {
			if c.verifying {
				c.answered[answerOf{e.addr, e.mac}] = struct{}{}
			}
			continue
		}
		if slices.Contains(c.hits, e.mac) || c.decided || !slices.Contains(v.on, e.link) {
			continue
		}
		c.hits, c.links = append(c.hits, e.mac), append(c.links, e.link)
		if !c.verifying {
			// Not a word more before it is known who that is.
			delete(l.holding, v)
			if v.endBursts() {
				v.held, v.pending = true, allRounds
			}
			c.verifying, c.asked, c.due, c.wait = true, 0, now, 0
			c.random, c.gateways = l.others(v, e.link)
			l.install()
			l.wake()
		}
	}
}

// others chooses addresses to tell a router from a station: some of the subnet
// that nobody should have, and the gateways.
func (l *Layer2) others(v *vip, index int) (random, gateways []netip.Addr) {
	k := l.links[index]
	if k == nil {
		return nil, nil
	}
	subnet := subnetOf(k.Link, v.Addr)
	for range 20 * strangers {
		a := randomIn(subnet)
		_, ours := l.vips[a]
		taken := slices.ContainsFunc(k.Prefixes, func(p netip.Prefix) bool { return p.Addr() == a })
		if a != v.Addr && !ours && !taken && !slices.Contains(random, a) {
			random = append(random, a)
		}
		if len(random) == strangers {
			break
		}
	}
	return random, l.gateways(k, v.Addr.Is6())
}

// subnetOf is the prefix on the link that holds addr; for one that is in none,
// because it is routed here, as much around it as a subnet usually has.
func subnetOf(k links.Link, addr netip.Addr) netip.Prefix {
	for _, p := range k.Prefixes {
		if p.Contains(addr) && p.Bits() <= addr.BitLen()-3 {
			return p.Masked()
		}
	}
	bits := 24
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// randomIn chooses a host address of a prefix: neither the first nor the last.
func randomIn(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for {
		for bit := p.Bits(); bit < len(raw)*8; bit++ {
			mask := byte(0x80) >> (bit % 8)
			raw[bit/8] &^= mask
			if rand.Uint32()&1 != 0 {
				raw[bit/8] |= mask
			}
		}
		a, _ := netip.AddrFromSlice(raw)
		if a != p.Addr() && p.Contains(a.Next()) {
			return a
		}
	}
}

// askAll asks for addresses on the links where somebody answered for the vip, or
// else on all on which it is announced, and sets when to look again: some time after
// that is done.
func (l *Layer2) askAll(c *check, addrs []netip.Addr, wait, now time.Duration) {
	on := c.vip.on
	if c.verifying {
		on = c.links
	}
	for _, index := range on {
		b, err := l.askOn(index, addrs)
		if err != nil {
			l.logVip(c.vip).Error("encode a question", "error", err)
		}
		if b != nil {
			c.queued = append(c.queued, b)
		}
	}
	c.wait = wait
	if len(c.queued) == 0 { // there is nowhere to ask
		l.haveAsked(c, now)
	}
}

// judgeHits says what those who answered are; the worst of them counts.
func (l *Layer2) judgeHits(c *check) (worst Check) {
	worst.Finding = Clear
	rank := map[Finding]int{Clear: 0, Proxy: 1, Kernel: 2, Foreign: 3}
	for _, mac := range c.hits {
		found := Check{Finding: Foreign, MAC: mac}
		if node, ok := l.peers[mac]; ok {
			found.Finding, found.Node = Kernel, node
		} else if c.answersForAll(mac) {
			found.Finding = Proxy
		}
		if rank[found.Finding] > rank[worst.Finding] {
			worst = found
		}
	}
	return worst
}

// answersForAll tells whether a station is a gateway, or answered for all the
// addresses that nobody should have.
func (c *check) answersForAll(mac system.MAC) bool {
	answered := func(a netip.Addr) bool {
		_, ok := c.answered[answerOf{a, mac}]
		return ok
	}
	if slices.ContainsFunc(c.gateways, answered) {
		return true
	}
	return len(c.random) == strangers && !slices.ContainsFunc(c.random, func(a netip.Addr) bool { return !answered(a) })
}
