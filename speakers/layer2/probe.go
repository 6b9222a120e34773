package layer2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// Bounds of a probe's duration.
const (
	minProbe = 50 * time.Millisecond
	maxProbe = 10 * time.Second
)

// ErrNoLink means that there is no link to ask on.
var ErrNoLink = errors.New("no link is up")

// Hit is a station that says it has an address.
type Hit struct {
	MAC system.MAC
	// Interface is the name of the link on which it was heard.
	Interface string
}

// ErrNotAsked means that the links were too busy with announcements to ask on.
var ErrNotAsked = errors.New("no question could be sent in time")

// probe is a question that waits for answers.
type probe struct {
	addr netip.Addr
	hits []Hit
	// queued is what the pacer has still to send; sent is closed when that is done.
	queued []*burst
	sent   chan struct{}
}

// Probe asks on all links who has an address and collects the answers for a
// time between 50 ms and 10 s. This host's own answers are not among them, since
// no station hears itself. Run must be running.
func (l *Layer2) Probe(ctx context.Context, addr netip.Addr, d time.Duration) ([]Hit, error) {
	d = min(max(d, minProbe), maxProbe)
	p := &probe{addr: addr}
	l.mu.Lock()
	l.probes[p] = struct{}{}
	l.install()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		endAll(p.queued)
		delete(l.probes, p)
		l.install()
	}()
	// Twice, since a frame may be lost.
	for _, wait := range []time.Duration{d / 3, d - d/3} {
		if err := l.ask(ctx, p); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(p.hits, func(a, b Hit) int {
		return strings.Compare(a.Interface+a.MAC.String(), b.Interface+b.MAC.String())
	})
	return p.hits, nil
}

// ask asks on all links and waits until it is done. It fails if no link could.
func (l *Layer2) ask(ctx context.Context, p *probe) error {
	l.mu.Lock()
	var queued []*burst
	failed := ErrNoLink
	for index := range l.links {
		b, err := l.askOn(index, []netip.Addr{p.addr})
		switch {
		case err != nil:
			failed = err
		case b != nil:
			queued = append(queued, b)
		}
	}
	sent := make(chan struct{})
	p.queued, p.sent = slices.Clone(queued), sent
	l.mu.Unlock()
	if len(queued) == 0 {
		return failed
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(maxProbe):
		return ErrNotAsked
	case <-sent:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range queued {
		if b.index == len(b.frames) && b.err == nil {
			return nil
		}
		if b.err != nil {
			failed = b.err
		}
	}
	return failed
}

// lookAtProbes tells those whose questions have been sent.
func (l *Layer2) lookAtProbes() {
	for p := range l.probes {
		if len(p.queued) > 0 && !unsent(&p.queued) {
			close(p.sent)
		}
	}
}

// askOn gives questions for addresses to the pacer; nil if the link is down.
func (l *Layer2) askOn(index int, addrs []netip.Addr) (*burst, error) {
	k := l.links[index]
	if k == nil || !k.Up {
		return nil, nil
	}
	b := &burst{link: index, kind: KindProbe, rounds: 1, step: stepAnnounce, due: l.clock.Now()}
	for _, a := range addrs {
		frame, err := question(k, a)
		if err != nil {
			return nil, fmt.Errorf("ask on %s: %w", k.Name, err)
		}
		b.frames = append(b.frames, frame)
	}
	if len(b.frames) == 0 {
		return nil, nil
	}
	l.pacer.add(b)
	l.wake()
	return b, nil
}

// unsent forgets the bursts that have ended and reports whether any is left.
func unsent(bursts *[]*burst) bool {
	*bursts = slices.DeleteFunc(*bursts, func(b *burst) bool { return b.ended })
	return len(*bursts) > 0
}

func endAll(bursts []*burst) {
	for _, b := range bursts {
		b.ended = true
	}
}

func question(k *link, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return probeRequest(k.MAC, addr)
	}
	source := linkLocal(k)
	if !source.IsValid() {
		source = netip.IPv6Unspecified()
	}
	return probeSolicit(k.MAC, source, addr)
}

// found notes an answer to a probe.
func (l *Layer2) found(e event) {
	k := l.links[e.link]
	if k == nil {
		return
	}
	hit := Hit{MAC: e.mac, Interface: k.Name}
	for p := range l.probes {
		if p.addr == e.addr && !slices.Contains(p.hits, hit) {
			p.hits = append(p.hits, hit)
		}
	}
}
