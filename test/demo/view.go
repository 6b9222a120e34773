package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/scenario"
)

const (
	refresh = 200 * time.Millisecond
	// The strip shows the newest stripMarks intervals of stripStep.
	stripStep  = 100 * time.Millisecond
	stripMarks = 40
)

// view shows the cluster while rows are played: a screen that is drawn again
// and again on a terminal, a line for each change elsewhere.
type view struct {
	s     *scenario.Stage
	out   io.Writer
	tty   bool
	start time.Time

	mu     sync.Mutex
	row    string
	done   []scenario.Outcome
	owners map[string]string // plain output only: what was said last
	leader string
}

func newView(s *scenario.Stage, out *os.File) *view {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &view{s: s, out: out, tty: err == nil && os.Getenv("TERM") != "dumb", start: time.Now(), owners: map[string]string{}}
}

// run draws until ctx ends.
func (v *view) run(ctx context.Context) error {
	if v.tty {
		fmt.Fprint(v.out, "\x1b[?1049h\x1b[?25l\x1b[?7l") // the other screen, no cursor, no wrapping
		defer fmt.Fprint(v.out, "\x1b[?7h\x1b[?25h\x1b[?1049l")
	}
	t := time.NewTicker(refresh)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		state, err := v.s.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		v.mu.Lock()
		if v.tty {
			v.draw(state, err)
		} else {
			v.say(state)
		}
		v.mu.Unlock()
	}
}

func (v *view) begin(e scenario.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.row = e.Name
	if !v.tty {
		v.line("%s (expected: %s)", e.Name, e.Expected)
	}
}

func (v *view) end(o scenario.Outcome) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done, v.row = append(v.done, o), ""
	if !v.tty {
		v.line("  %s", summary(o))
		for _, n := range o.Notes {
			v.line("    %s", n)
		}
	}
}

func summary(o scenario.Outcome) string {
	verdict := "ok"
	if len(o.Misses) > 0 {
		verdict = "MISSED: " + strings.Join(o.Misses, "; ")
	}
	return fmt.Sprintf("%d datagrams lost, %d connections failed, longest gap %v, %s: %s",
		o.Lost, o.Failed, round(o.Gap), o.Answered, verdict)
}

func (v *view) line(format string, args ...any) {
	fmt.Fprintf(v.out, "%5.1fs  %s\n", time.Since(v.start).Seconds(), fmt.Sprintf(format, args...))
}

// say prints what has changed since it was last called.
func (v *view) say(state *adminv1.GetResponse) {
	for _, m := range state.GetMembers() {
		if n := v.s.NodeByMemberAddr(m.GetAddress()); m.GetLeader() && n != nil && v.leader != n.MemberName {
			v.line("    leader %s > %s", orNobody(v.leader), n.MemberName)
			v.leader = n.MemberName
		}
	}
	for _, vip := range state.GetVips() {
		if was, is := v.owners[vip.GetAddress()], vip.GetOwner(); was != is {
			v.line("    %s: %s > %s", vip.GetAddress(), orNobody(was), orNobody(is))
			v.owners[vip.GetAddress()] = is
		}
	}
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

// draw fills the screen.
func (v *view) draw(state *adminv1.GetResponse, err error) {
	var b strings.Builder
	b.WriteString("\x1b[H")
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\x1b[K\n", args...) }
	line("\x1b[1mQuorumLB\x1b[0m  %4.0f s   %s", time.Since(v.start).Seconds(), v.row)
	line("")
	line("members  %s", v.members(state, err))
	line("nodes    %s", v.nodes(state))
	line("")
	line("%-22s %-7s %-9s last %v (each mark %v: . all answered, o some, x none)", "ADDRESS", "OWNER", "ANSWERS",
		time.Duration(stripMarks)*stripStep, stripStep)
	for _, addr := range v.s.Addrs {
		i := slices.IndexFunc(state.GetVips(), func(s *adminv1.VipStatus) bool { return s.GetAddress() == addr.String() })
		owner := "?"
		if i >= 0 {
			owner = orNobody(state.GetVips()[i].GetOwner())
		}
		answers := "-"
		if x, ok := v.s.UDP[addr].Last(2 * stripStep); ok {
			answers = x.Node
		}
		line("%-22s %-7s %-9s %s", addr, owner, answers, v.strip(addr))
	}
	line("")
	for _, o := range v.done {
		line("%s: %s", o.Event.Name, summary(o))
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(v.out, b.String())
}

func (v *view) members(state *adminv1.GetResponse, err error) string {
	if err != nil {
		return "\x1b[31m" + err.Error() + "\x1b[0m"
	}
	var words []string
	for _, n := range v.s.Members() {
		word := n.MemberName + " on " + n.Name + " "
		i := slices.IndexFunc(state.GetMembers(), func(m *adminv1.MemberStatus) bool { return m.GetAddress() == n.MemberAddr() })
		switch {
		case i < 0 || !n.Member().Running():
			word += "\x1b[31mdown\x1b[0m"
		case state.GetMembers()[i].GetLeader():
			word += "\x1b[32mleader\x1b[0m"
		case state.GetMembers()[i].GetHealthy():
			word += "follower"
		default:
			word += "\x1b[33mnot reached\x1b[0m"
		}
		words = append(words, word)
	}
	return strings.Join(words, "   ")
}

func (v *view) nodes(state *adminv1.GetResponse) string {
	var words []string
	for _, n := range state.GetNodes() {
		colour := "32"
		if n.GetState() != "Ready" {
			colour = "31"
		}
		words = append(words, fmt.Sprintf("%s \x1b[%sm%s\x1b[0m owns %d", n.GetName(), colour, n.GetState(), n.GetOwned()))
	}
	return strings.Join(words, "   ")
}

// strip draws the newest seconds of an address's UDP probe. Datagrams that are
// on their way are not drawn.
func (v *view) strip(addr netip.Addr) string {
	now := time.Now().Add(-stripStep / 2)
	var b strings.Builder
	for i := range stripMarks {
		from := now.Add(time.Duration(i-stripMarks) * stripStep)
		sent, answered := 0, 0
		for _, x := range v.s.UDP[addr].Samples(from, from.Add(stripStep)) {
			sent++
			if !x.Answered.IsZero() {
				answered++
			}
		}
		switch {
		case sent == 0:
			b.WriteByte(' ')
		case answered == sent:
			b.WriteByte('.')
		case answered > 0:
			b.WriteString("\x1b[33mo\x1b[0m")
		default:
			b.WriteString("\x1b[31mx\x1b[0m")
		}
	}
	return b.String()
}
