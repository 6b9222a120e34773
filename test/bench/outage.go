package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

const (
	probeEvery = 5 * time.Millisecond
	askEvery   = 20 * time.Millisecond
	// playLimit bounds one event, settling and mending.
	playLimit = 90 * time.Second
	// maxFailures is how many events may go wrong before a part is given up. After each
	// of them the lab is built anew.
	maxFailures = 3
)

// profile is a set of timers and the keepalived setting that it is measured beside.
type profile struct {
	name   string
	detect time.Duration
	advert time.Duration
}

var profiles = []profile{
	{name: "default", detect: 750 * time.Millisecond, advert: time.Second},
	{name: "fast", detect: 250 * time.Millisecond, advert: 100 * time.Millisecond},
	{name: "patient", detect: 3 * time.Second, advert: time.Second},
}

// adverts are keepalived's settings: its default, and a fast one.
var adverts = []time.Duration{time.Second, 100 * time.Millisecond}

func ourPart(p profile, e event) string { return "outage-" + p.name + "-" + e.name }

func peerPart(advert time.Duration, e event) string {
	return fmt.Sprintf("outage-keepalived-%v-%s", advert, e.name)
}

// outageParts are a part for each event and profile, and the peer's.
func outageParts(o options) (parts []part) {
	limit := 2*time.Minute + time.Duration(o.repeats)*30*time.Second
	for _, advert := range adverts {
		for _, e := range events {
			if e.ours {
				continue
			}
			parts = append(parts, part{peerPart(advert, e), limit, func(ctx context.Context, r *recorder) error {
				return playAll(ctx, r, e, func() (field, error) { return openKeepalived(ctx, r.o, advert) })
			}})
		}
	}
	for _, p := range profiles {
		for _, e := range events {
			parts = append(parts, part{ourPart(p, e), limit, func(ctx context.Context, r *recorder) error {
				return playAll(ctx, r, e, func() (field, error) { return openOurs(ctx, r, p) })
			}})
		}
	}
	return parts
}

// field is what events happen to: QuorumLB's nodes or keepalived's.
type field interface {
	// choose waits until all is well and picks targets and the addresses they own.
	choose(ctx context.Context, w whom) ([]target, []netip.Addr, error)
	// settled waits until every address is answered, by none of the targets unless
	// they may keep theirs.
	settled(ctx context.Context, except []target) error
	// rested waits until all is as it was before the event, as far as it ever is.
	rested(ctx context.Context) error
	audience() audience
	// tails are the last lines of the logs, for outages longer than they should be.
	tails() string
	close()
}

// audience is who sees an outage.
type audience struct {
	probes map[netip.Addr]*lab.UDPProbe
	// atRouter sees the answers to the asker.
	atRouter *lab.Capture
	// control probes what no event touches.
	control *lab.UDPProbe
}

// seen is what the audience saw of an event.
type seen struct {
	dark  time.Duration // the longest time without an answer to datagrams
	asked time.Duration // ... to ARP and neighbour solicitations
	lost  int           // datagrams
	noise time.Duration // the longest gap of the control probe
}

// look reports on [from, to), of which lab.Patience must have passed.
func (a audience) look(from, to time.Time, addrs []netip.Addr) (s seen) {
	for _, addr := range addrs {
		r := a.probes[addr].Window(from, to)
		s.dark, s.lost = max(s.dark, r.LongestGap), s.lost+r.Lost
		last := from
		for _, c := range lab.Claims(from, to, []netip.Addr{addr}, a.atRouter) {
			s.asked, last = max(s.asked, c.At.Sub(last)), c.At
		}
		s.asked = max(s.asked, to.Sub(last))
	}
	s.noise = a.control.Window(from, to).LongestGap
	return s
}

// playAll plays the event until there are enough samples.
func playAll(ctx context.Context, r *recorder, e event, open func() (field, error)) (err error) {
	var f field
	defer func() {
		if f != nil {
			f.close()
		}
	}()
	failures := 0
	for n := len(r.Samples["dark"]); n < r.o.repeats; n = len(r.Samples["dark"]) {
		if f == nil {
			if f, err = open(); err != nil {
				return err
			}
		}
		limited, cancel := context.WithTimeout(ctx, playLimit)
		err := play(limited, r, e, f)
		cancel()
		if err == nil {
			continue
		}
		if failures++; failures > maxFailures || ctx.Err() != nil {
			return err
		}
		r.say("%d of %d went wrong, with a new lab: %v", n+1, r.o.repeats, err)
		f.close()
		f = nil
	}
	return nil
}

// play plays the event once and records what it cost.
func play(ctx context.Context, r *recorder, e event, f field) error {
	targets, addrs, err := f.choose(ctx, e.whom)
	if err != nil {
		return err
	}
	except := targets
	if e.stays {
		except = nil
	}
	start := time.Now()
	if err := errors.Join(e.strike(ctx, targets), f.settled(ctx, except)); err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	if err := lab.Wait(ctx, frozenFor); err != nil {
		return err
	}
	end := time.Now()
	if err := e.mend(ctx, targets); err != nil {
		return fmt.Errorf("mend %s: %w", e.name, err)
	}
	if err := f.rested(ctx); err != nil {
		return fmt.Errorf("after %s: %w", e.name, err)
	}
	mended := time.Now()
	if err := lab.Wait(ctx, lab.Patience); err != nil {
		return err
	}
	if e.stays {
		end = mended // it may be dark for a second time while it returns
	}
	during, after := f.audience().look(start, end, addrs), f.audience().look(end, mended, addrs)
	n := len(r.Samples["dark"])
	if during.noise > 50*time.Millisecond {
		r.say("the machine paused everything for %v during an outage of %v", ms(during.noise), ms(during.dark))
	}
	if tails := f.tails(); tails != "" && e.aim != nil && during.longer(e) > e.aim(r.detection()) {
		path := filepath.Join(r.o.results, fmt.Sprintf("%s-%02d.log", r.Part, n))
		head := fmt.Sprintf("struck %s\ndark %v, unanswered %v, noise %v\n", start.Format("15:04:05.000000"), during.dark, during.asked, during.noise)
		if err := os.WriteFile(path, []byte(head+tails), 0o644); err != nil {
			return err
		}
	}
	return r.add(map[string]float64{
		"dark": during.dark.Seconds(), "unanswered": during.asked.Seconds(), "lost": float64(during.lost), "noise": during.noise.Seconds(),
		"return-dark": after.dark.Seconds(), "return-lost": float64(after.lost), "return-noise": after.noise.Seconds(),
	})
}

// longer is the figure that the event is judged by.
func (s seen) longer(e event) time.Duration {
	if e.arp {
		return s.asked
	}
	return s.dark
}

// detection is the D of the profile that the part measures; far away for the peer.
func (r *recorder) detection() time.Duration {
	for _, p := range profiles {
		for _, e := range events {
			if ourPart(p, e) == r.Part {
				return p.detect
			}
		}
	}
	return time.Hour
}

func ms(d time.Duration) time.Duration {
	if d < 20*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
