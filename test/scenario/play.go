package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

// Flight is how long two stations may both be heard for one address when one
// follows the other: an answer that was decided before the address left is on
// its way through a scheduler that this machine shares with everything else. See
// [Stage.Flight].
const Flight = 20 * time.Millisecond

// longestPause is how long a pause of the machine may excuse a second station.
const longestPause = 250 * time.Millisecond

// Overlong are the overlaps that no frame's flight explains: they are longer than
// allowed (Flight at least), and the machine did not keep the control probe waiting
// just then, too.
func (s *Stage) Overlong(overlaps []lab.Overlap, allowed time.Duration) []lab.Overlap {
	allowed = max(allowed, Flight)
	return slices.DeleteFunc(slices.Clone(overlaps), func(x lab.Overlap) bool {
		pause := min(s.Control.Window(x.From, x.To).LongestGap, longestPause)
		return x.For() <= max(allowed, pause)
	})
}

// Event is something that happens to the cluster, and what may follow from it.
type Event struct {
	Name     string
	Expected string
	// Play makes it happen and returns when the cluster has come to rest. What
	// it notes in the Limits decides how the event is judged.
	Play func(ctx context.Context, s *Stage, limits *Limits) error
}

// Limits say what an event may cost.
type Limits struct {
	// Dark are the addresses that may go unanswered, and for how long beside what
	// the machine itself pauses.
	Dark    []netip.Addr
	DarkFor time.Duration
	// Moves are the addresses that must have another owner afterwards; all
	// others must have the same.
	Moves []netip.Addr
	// Overlap is how long two stations may be heard for one address; Flight
	// when zero.
	Overlap time.Duration
}

// Outcome is what the audience saw of an event.
type Outcome struct {
	Event    Event
	From, To time.Time
	Lost     int // datagrams
	Failed   int // new connections
	Resets   int // connections that an address left behind
	Gap      time.Duration
	GapAt    netip.Addr
	// Noise is the longest gap of the control probe.
	Noise    time.Duration
	Overlap  time.Duration
	Answered string // who answered ARP and neighbour solicitations
	Misses   []string
	Notes    []string // what is worth a look, and no miss
}

// Play plays one event and judges it. The error says that it could not be
// played to its end; unless ctx has ended, that is a miss as well.
func (s *Stage) Play(ctx context.Context, e Event) (Outcome, error) {
	out := Outcome{Event: e, From: time.Now()}
	before, err := s.Owners(ctx)
	if err != nil {
		out.miss("owners before: %v", err)
		return out, err
	}
	// Who had each address before belongs to the picture: an overlap is an old
	// station that is heard again.
	if err := lab.Wait(ctx, 10*s.opts.AskEvery); err != nil {
		return out, err
	}
	var limits Limits
	played := e.Play(ctx, s, &limits)
	if played != nil {
		out.miss("%v", played)
	}
	// Late frames and late answers belong to the event.
	if err := lab.Wait(ctx, 500*time.Millisecond); err != nil {
		return out, err
	}
	out.To = time.Now()
	if err := lab.Wait(ctx, lab.Patience); err != nil {
		return out, err
	}
	after, err := s.Owners(ctx)
	switch {
	case err != nil:
		out.miss("owners: %v", err)
	case played == nil:
		out.judgeOwners(s.Addrs, before, after, limits)
	}
	out.judgeProbes(s, limits)
	out.judgeClaims(s, limits, after)
	if lost := s.Control.Window(out.From, out.To).Lost; lost > 0 && len(out.Misses) > 0 {
		out.miss("the control probe, which no event touches, lost %d datagrams too: this machine was too busy to judge", lost)
	}
	return out, played
}

func (o *Outcome) miss(format string, args ...any) {
	o.Misses = append(o.Misses, fmt.Sprintf(format, args...))
}

func (o *Outcome) judgeOwners(addrs []netip.Addr, before, after map[string]string, limits Limits) {
	for _, addr := range addrs {
		was, is := before[addr.String()], after[addr.String()]
		switch moved := was != is; {
		case moved && !slices.Contains(limits.Moves, addr):
			o.miss("%s moved from %s to %s", addr, was, is)
		case !moved && slices.Contains(limits.Moves, addr):
			o.miss("%s did not move from %s", addr, was)
		}
	}
}

func (o *Outcome) judgeProbes(s *Stage, limits Limits) {
	o.Noise = s.Control.Window(o.From, o.To).LongestGap
	for _, addr := range s.Addrs {
		udp, tcp := s.UDP[addr].Window(o.From, o.To), s.TCP[addr].Window(o.From, o.To)
		if udp.LongestGap > o.Noise+100*time.Millisecond {
			o.Notes = append(o.Notes, fmt.Sprintf("%s: no answer for %v from %s", addr, udp.LongestGap.Round(time.Millisecond), udp.GapFrom.Format("15:04:05.000")))
		}
		o.Lost += udp.Lost
		o.Failed += tcp.Lost
		o.Resets += tcp.Resets
		if udp.LongestGap > o.Gap {
			o.Gap, o.GapAt = udp.LongestGap, addr
		}
		if slices.Contains(limits.Dark, addr) {
			if udp.LongestGap > limits.DarkFor+o.Noise {
				o.miss("%s was dark for %v", addr, udp.LongestGap.Round(time.Millisecond))
			}
			continue
		}
		if udp.Lost > 0 {
			o.miss("%s lost %d of %d datagrams", addr, udp.Lost, udp.Sent)
		}
		if tcp.Lost > 0 {
			o.miss("%s: %d of %d new connections failed", addr, tcp.Lost, tcp.Sent)
		}
	}
}

func (o *Outcome) judgeClaims(s *Stage, limits Limits, owners map[string]string) {
	claims := lab.Claims(o.From, o.To, s.Addrs, s.AtClient, s.AtRouter)
	overlaps := lab.Overlaps(claims)
	o.Overlap = lab.LongestOverlap(overlaps)
	for _, x := range s.Overlong(overlaps, limits.Overlap) {
		o.miss("%s: %s was heard for %v after %s", x.Addr, s.NameOf(x.Old), x.For().Round(time.Millisecond), s.NameOf(x.New))
	}
	tenures := lab.Tenures(claims)
	for _, addr := range s.Addrs {
		list, owner := tenures[addr], owners[addr.String()]
		if len(list) == 0 {
			o.miss("nobody answered for %s", addr)
		} else if last := s.NameOf(list[len(list)-1].MAC); last != owner {
			o.miss("%s answers for %s, which %s owns", last, addr, owner)
		}
	}
	if n := s.AtClient.Drops() + s.AtRouter.Drops(); n > 0 {
		o.miss("the captures dropped %d frames", n)
	}
	o.Answered = s.describe(lab.Tenures(lab.Claims(o.From, o.To, s.Addrs, s.AtClient)))
}

// describe words who answered the client: the moves, or who answered throughout.
func (s *Stage) describe(tenures map[netip.Addr][]lab.Tenure) string {
	moves := map[string]int{}
	var all []string
	for _, list := range tenures {
		var path []string
		for _, t := range list {
			if name := s.NameOf(t.MAC); !slices.Contains(path, name) {
				path = append(path, name)
			}
		}
		if len(path) > 1 {
			moves[strings.Join(path, ">")]++
		}
		all = append(all, path...)
	}
	if len(moves) == 0 {
		slices.Sort(all)
		return "no change: " + strings.Join(slices.Compact(all), ", ")
	}
	var words []string
	for path, n := range moves {
		if n > 1 {
			path = fmt.Sprintf("%d x %s", n, path)
		}
		words = append(words, path)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}
