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

// probe is a question that waits for answers.
type probe struct {
	addr netip.Addr
	hits []Hit
}

// Probe asks on all links who has an address and collects the answers for a
// time between 50 ms and 10 s. This host's own answers are not among them, since
// no station hears itself.
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
		delete(l.probes, p)
		l.install()
	}()
	// Twice, since a frame may be lost.
	for _, wait := range []time.Duration{d / 3, d - d/3} {
		if err := l.ask(addr); err != nil {
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

func (l *Layer2) ask(addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := false
	var failed error
	for _, k := range l.links {
		if !k.Up {
			continue
		}
		frame, err := question(k, addr)
		if err == nil {
			err = l.responder.send(k.Index, addr.Is6(), frame, KindProbe)
		}
		if err != nil {
			failed = fmt.Errorf("ask on %s: %w", k.Name, err)
			continue
		}
		asked = true
	}
	if asked {
		return nil
	}
	if failed == nil {
		failed = ErrNoLink
	}
	return failed
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
