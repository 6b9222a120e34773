package layer2

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// Apply puts a view in force: when it returns, no reply for an address that the
// node has lost is still to be sent, and those that it has gained are answered
// (if the node is confirmed) and will be announced. An address with an older epoch than was seen
// in the same cluster is left out. It returns how many were.
func (l *Layer2) Apply(view View) (refused int) {
	refused, gained, lost := l.apply(view)
	l.report("own", gained)
	l.report("own no more", lost)
	return refused
}

// reportedSingly is up to how many addresses each get a line in the log.
const reportedSingly = 16

// report logs what became of addresses. It is called without the lock: a log
// that is written slowly must not hold up replies.
func (l *Layer2) report(what string, vips []*vip) {
	if len(vips) > reportedSingly {
		l.log.Info(what, "vips", len(vips))
		return
	}
	for _, v := range vips {
		l.log.Info(what, "vip", v.Addr, "epoch", v.Epoch)
	}
}

func (l *Layer2) apply(view View) (refused int, gained, lost []*vip) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	l.lookAtConfirmation(now)
	wanted := l.admit(view, &refused)
	l.peers = view.Peers

	for addr, v := range l.vips {
		if w, ok := wanted[addr]; !ok || w.Epoch != v.Epoch {
			l.drop(v, now)
			lost = append(lost, v)
		}
	}
	if len(lost) > 0 {
		// First of all: the next owner waits for it.
		l.install()
	}
	var changed, loud []*vip
	for addr, w := range wanted {
		v := l.vips[addr]
		if v == nil {
			v = &vip{Vip: w, connections: -1, held: w.Check && !w.Inherited && !w.Soft}
			l.vips[addr] = v
			delete(l.removed, addr)
			gained = append(gained, v)
		}
		switch {
		case w.Soft && !v.Soft:
			l.soften(v)
			changed = append(changed, v)
		case v.quiet() && w.Predecessor == "":
			v.pending = allRounds
			changed, loud = append(changed, v), append(loud, v)
		}
		v.Vip = w
	}
	l.place(now)
	for _, v := range changed {
		l.touch(v)
	}
	for v := range l.troubled {
		l.touch(v) // a station's node may have become known
	}
	for _, v := range lost {
		l.leave(v, v.joined)
	}
	for _, v := range gained {
		v.pending = allRounds
		if v.Inherited {
			v.pending = 1
		}
		if v.quiet() || v.held {
			l.joinAll(v, now)
		}
	}
	l.check(gained, now)
	if l.confirmed {
		l.announce(append(loud, gained...), nil, now)
	}
	l.wake()
	return refused, gained, lost
}

// admit checks epochs and returns what remains of a view.
func (l *Layer2) admit(view View, refused *int) map[netip.Addr]Vip {
	epochs := l.epochs[view.Cluster]
	if epochs == nil {
		epochs = make(map[netip.Addr]uint64)
		l.epochs[view.Cluster] = epochs
	}
	l.cluster = view.Cluster
	wanted := make(map[netip.Addr]Vip, len(view.Vips))
	for _, v := range view.Vips {
		if seen := epochs[v.Addr]; v.Epoch < seen {
			*refused++
			l.log.Warn("ignored an old epoch", "vip", v.Addr, "epoch", v.Epoch, "seen", seen)
			continue
		}
		epochs[v.Addr] = v.Epoch
		wanted[v.Addr] = v
	}
	return wanted
}

// drop forgets a vip, all but its groups.
func (l *Layer2) drop(v *vip, now time.Duration) {
	delete(l.vips, v.Addr)
	delete(l.troubled, v)
	l.uncheck(v)
	v.endBursts()
	l.forget(v, now)
}

// SetLinks tells what links there are now.
func (l *Layer2) SetLinks(set links.Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	l.own = set.Own
	present := make(map[int]bool, len(set.Links))
	var moved []int // under another MAC, or behind another port of a switch
	for _, n := range set.Links {
		present[n.Index] = true
		old := l.links[n.Index]
		if old == nil {
			old = &link{refresh: refreshAfter(now)}
			l.links[n.Index] = old
		}
		if old.Up && n.Up && (old.MAC != n.MAC || old.Path != n.Path) {
			moved = append(moved, n.Index)
		}
		if !n.Up {
			old.sendErr = nil
		}
		old.Link = n
	}
	for index := range l.links {
		if !present[index] {
			l.removeLink(index)
		}
	}
	l.place(now)
	for _, index := range moved {
		var there []*vip
		for _, v := range l.vips {
			if slices.Contains(v.on, index) {
				there = append(there, v)
			}
		}
		l.announceOn(index, there, now)
	}
	l.wake()
}

func (l *Layer2) removeLink(index int) {
	delete(l.links, index)
	l.pacer.drop(index)
	for _, v := range l.vips {
		if slices.Contains(v.joined, index) {
			l.leave(v, []int{index})
		}
	}
}

// place decides for every vip on which links it is answered, and puts that in
// force. Known vips are announced on links that they gain.
func (l *Layer2) place(now time.Duration) {
	usable := slices.Sorted(maps.Keys(l.links))
	usable = slices.DeleteFunc(usable, func(i int) bool { return !l.links[i].Up })
	gained := make(map[int][]*vip)
	var changed []*vip
	for _, v := range l.vips {
		on, trouble := l.placeOne(v, usable)
		if v.entry != nil && slices.Equal(on, v.on) && trouble == v.trouble {
			continue
		}
		changed = append(changed, v)
		for _, index := range on {
			if v.entry != nil && !slices.Contains(v.on, index) {
				gained[index] = append(gained[index], v)
			}
		}
		for _, index := range v.on {
			if !slices.Contains(on, index) {
				v.doubt(index)
			}
		}
		v.on, v.trouble = slices.Clone(on), trouble
		for _, b := range v.bursts {
			b.ended = b.ended || !slices.Contains(on, b.link)
		}
	}
	l.install()
	for _, v := range changed {
		l.touch(v)
	}
	for index, list := range gained {
		l.announceOn(index, list, now)
	}
}

// announceOn announces vips on a link where the neighbours cannot know them as
// they are now; what was proven there before is worth nothing any more.
func (l *Layer2) announceOn(index int, vips []*vip, now time.Duration) {
	for _, v := range vips {
		v.doubt(index)
		v.entry.curious.Store(true)
		if !l.confirmed {
			v.pending = allRounds
		}
		if (!l.confirmed || v.quiet() || v.held) && !v.Soft {
			_ = l.join(v, index, now) // it is not announced, so nothing else would
		}
		l.touch(v)
	}
	if l.confirmed {
		l.announce(vips, []int{index}, now)
	}
}

// placeOne returns the links on which a vip is to be answered, and why there are
// not more of them. The slice is good until the next call.
func (l *Layer2) placeOne(v *vip, usable []int) (on []int, trouble string) {
	if v.Hindered != "" {
		return nil, v.Hindered
	}
	on = l.scratch[:0]
	var why []string
	for _, index := range usable {
		if len(v.Interfaces) > 0 && !slices.Contains(v.Interfaces, l.links[index].Name) {
			continue
		}
		if err := v.refused[index]; err != nil {
			why = append(why, fmt.Sprintf("%s: %v", l.links[index].Name, err))
			continue
		}
		on = append(on, index)
	}
	for _, name := range v.Interfaces {
		switch up, known := l.linkNamed(name); {
		case !known:
			why = append(why, "no link "+name)
		case !up:
			why = append(why, "link "+name+" is down")
		}
	}
	if len(on) == 0 && len(why) == 0 {
		why = append(why, "no link is up")
	}
	l.scratch = on
	return on, strings.Join(why, ", ")
}

func (l *Layer2) linkNamed(name string) (up, known bool) {
	for _, k := range l.links {
		if k.Name == name {
			return k.Up, true
		}
	}
	return false, false
}

// install makes the responder's table of what is known and puts it in force.
func (l *Layer2) install() {
	t := &Table{
		entries: make(map[netip.Addr]*Entry, len(l.vips)),
		links:   make(map[int]system.MAC, len(l.links)),
		own:     l.own,
		peers:   l.peers,
		wanted:  make(map[netip.Addr]struct{}, len(l.probes)),
	}
	for index, k := range l.links {
		if k.Up {
			t.links[index] = k.MAC
		}
	}
	for p := range l.probes {
		t.wanted[p.addr] = struct{}{}
	}
	for _, c := range l.checks {
		c.want(t.wanted)
	}
	replaced := make(map[*vip]*Entry)
	for addr, v := range l.vips {
		if e := v.entry; e == nil || e.Mode != v.Mode || e.Soft != v.Soft || !slices.Equal(e.links, v.on) {
			v.entry = &Entry{Addr: addr, Epoch: v.Epoch, Mode: v.Mode, Soft: v.Soft, links: v.on}
			v.entry.muted.Store(v.yielded)
			v.entry.curious.Store(!v.Soft)
			if e != nil {
				replaced[v] = e
			}
		}
		t.entries[addr] = v.entry
	}
	l.responder.Install(t)
	for v, old := range replaced {
		// The responder may have yielded while the new table was being made.
		if old.muted.Load() {
			v.entry.muted.Store(true)
		}
	}
}
