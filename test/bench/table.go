package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is one measurement beside its peer.
type row struct {
	what string
	n    int
	ours string
	peer string
	aim  string
	met  bool // only with an aim
}

// rowsOf makes the rows of one group of results.
type rowsOf struct {
	group string
	rows  func(all results) []row
}

// results are all that was measured, by part.
type results map[string]*result

// tables in the order of the report.
var tables = []rowsOf{
	{"Outages", outageRows},
	{"Writes", writeRows},
	{"Many speakers", swarmRows},
	{"Start, memory, footprint", footprintRows},
	{"Packages", microRows},
}

func loadResults(o options) (results, error) {
	all := results{}
	for _, p := range allParts(o) {
		r, err := loadResult(o.results, p.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[p.name] = r
	}
	return all, nil
}

func loadRows(dir string) (rows []row, err error) {
	all, err := loadResults(options{results: dir})
	for _, t := range tables {
		rows = append(rows, t.rows(all)...)
	}
	return rows, err
}

func printTable(out io.Writer, rows []row) {
	fmt.Fprintln(out, "| measured | n | QuorumLB | peer, same lab | aim | met |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|")
	for _, x := range rows {
		met, n := "", "-"
		if x.aim != "" {
			met = map[bool]string{true: "yes", false: "**no**"}[x.met]
		}
		if x.n > 0 {
			n = strconv.Itoa(x.n)
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s |\n", x.what, n, x.ours, dash(x.peer), dash(x.aim), dash(met))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// darkOf is the kind of samples that an event is judged by.
func darkOf(e event) string {
	if e.arp {
		return "unanswered"
	}
	return "dark"
}

func outageRows(all results) (rows []row) {
	for _, p := range profiles {
		for _, e := range events {
			r := all[ourPart(p, e)]
			if r.get("dark") == nil {
				continue
			}
			kind := darkOf(e)
			s, peer := r.get(kind), all[peerPart(p.advert, e)].get(kind)
			x := row{what: fmt.Sprintf("%s, `%s`", e.text, p.name), n: len(s), ours: s.spread()}
			if len(peer) > 0 {
				x.peer = fmt.Sprintf("keepalived, advert_int %v: %s", p.advert.Seconds(), peer.spread())
			}
			x.judgeOutage(e, p, s, peer)
			if lost := r.get("lost"); e.name == "drain" {
				x.ours += fmt.Sprintf("; %.0f datagrams lost", lost.sum())
				x.aim, x.met = "none lost", lost.sum() == 0
				if l := all[peerPart(p.advert, e)].get("lost"); len(l) > 0 {
					x.peer += fmt.Sprintf("; %.0f lost", l.sum())
				}
			}
			rows = append(rows, x)
			if e.name == "poweroff" {
				rows = append(rows, returnRow(p, r, all[peerPart(p.advert, e)]))
			}
		}
	}
	return rows
}

func (x *row) judgeOutage(e event, p profile, s, peer samples) {
	if e.aim != nil {
		limit := e.aim(p.detect)
		x.aim, x.met = fmt.Sprintf("max <= %v", limit), s.max() <= limit.Seconds()
	}
	if p.name == "fast" && e.name == "poweroff" {
		x.aim += "; p50 below keepalived's"
		x.met = x.met && len(peer) > 0 && s.median() < peer.median()
	}
}

// returnRow is what the return of a dead owner costs.
func returnRow(p profile, r, peer *result) row {
	lost := r.get("return-lost")
	x := row{
		what: fmt.Sprintf("return of that node, `%s`", p.name), n: len(lost),
		ours: fmt.Sprintf("%s; %.0f datagrams lost", r.get("return-dark").spread(), lost.sum()),
		aim:  "none lost", met: lost.sum() == 0,
	}
	if l := peer.get("return-lost"); len(l) > 0 {
		x.peer = fmt.Sprintf("keepalived takes it back: %s; %.0f lost", peer.get("return-dark").spread(), l.sum())
	}
	return x
}

func writeRows(all results) (rows []row) {
	r := all["writes"]
	if r == nil {
		return nil
	}
	for _, n := range writers {
		ours, etcd := r.get(fmt.Sprintf("our-rate-%d", n)), r.get(fmt.Sprintf("etcd-rate-%d", n))
		if len(ours) == 0 {
			continue
		}
		x := row{what: fmt.Sprintf("service declarations, %d clients, three members, fsync, TLS", n), n: 1, ours: perSecond(ours[0])}
		if len(etcd) > 0 {
			x.peer = "etcd puts: " + perSecond(etcd[0])
		}
		if n == 256 {
			x.aim = "10,000/s and more than etcd"
			x.met = ours[0] > 10_000 && len(etcd) > 0 && ours[0] > etcd[0]
		}
		rows = append(rows, x)
	}
	ours, bare, etcd := r.get("our-latency"), r.get("bare-latency"), r.get("etcd-latency")
	x := row{
		what: "one declaration at a time, p50 / p90 / max", n: len(ours), ours: ours.spread(),
		peer: "bare hashicorp/raft: " + bare.spread(), aim: "p50 within 1.5 x of bare Raft", met: len(bare) > 0 && ours.median() <= 1.5*bare.median(),
	}
	if len(etcd) > 0 {
		x.peer += "; etcd: " + etcd.spread()
	}
	return append(rows, x)
}

func swarmRows(all results) (rows []row) {
	if r := all["leases"]; r.get("heartbeats") != nil {
		n := r.get("speakers").max()
		rows = append(rows,
			row{
				what: fmt.Sprintf("heartbeats of %.0f speakers to each of three members", n), n: 1,
				ours: fmt.Sprintf("%s; %s/s up, %s/s down", perSecond(r.get("heartbeats")[0]), kilobytes(r.get("bytes-up")[0]), kilobytes(r.get("bytes-down")[0])),
			}, row{
				what: "... CPU of the leader / of a follower", n: 1,
				ours: fmt.Sprintf("%s / %s of a core", percent(r.get("leader-cpu").max()), percent(r.get("follower-cpu").max())),
			}, row{
				what: "... memory of the leader / of a follower", n: 1,
				ours: fmt.Sprintf("%s / %s", megabytes(r.get("leader-rss").max()), megabytes(r.get("follower-rss").max())),
			}, row{
				what: "... from a heartbeat's sending to its ack, p50 / p90 / max", n: len(r.get("ack")), ours: r.get("ack").spread(),
				aim: "all confirmed", met: r.get("unconfirmed").max() == 0,
			}, row{what: fmt.Sprintf("... until %.0f new speakers are confirmed and watch", n), n: 1, ours: seconds(r.get("joined").max())})
	}
	if r := all["fanout"]; r.get("last") != nil {
		n := r.get("speakers").max()
		x := row{
			what: fmt.Sprintf("a change to %.0f watches: from the commit's answer to the last, p50 / p90 / max", n),
			n:    len(r.get("after-commit")), ours: r.get("after-commit").spread(),
		}
		if peer := r.get("etcd-after-commit"); len(peer) > 0 {
			x.peer = "etcd watches: " + peer.spread()
		}
		y := row{what: "... from the call to the last", n: len(r.get("last")), ours: r.get("last").spread()}
		if peer := r.get("etcd-last"); len(peer) > 0 {
			y.peer = "etcd watches: " + peer.spread()
		}
		rows = append(rows, x, y, row{
			what: "... CPU of all three members / bytes on the wire, for each change", n: len(r.get("members-cpu")),
			ours: fmt.Sprintf("%s / %s", aboveIdle(r.get("members-cpu").median()), kilobytes(r.get("bytes").median())),
		})
	}
	return rows
}

// aboveIdle words CPU time from which that of an idle group was subtracted.
func aboveIdle(v float64) string {
	if v <= 0 {
		return "less than idling varies"
	}
	return seconds(v)
}

func footprintRows(all results) (rows []row) {
	if r := all["coldstart"]; r.get("ready") != nil {
		s := r.get("ready")
		rows = append(rows, row{
			what: fmt.Sprintf("three killed members with %.0f services: all ready from snapshot and %.0f log entries, p50 / p90 / max", r.get("services").max(), r.get("tail").max()),
			n:    len(s), ours: s.spread(),
		}, row{what: "... memory of a member then", n: len(s), ours: megabytes(r.get("rss").max())})
	}
	if r := all["footprint"]; r.get("many-rss") != nil {
		rss := r.get("many-rss").max()
		rows = append(rows,
			row{what: "speaker with nothing to do, CPU / memory", n: 1, ours: fmt.Sprintf("%.2f %% of a core / %s", r.get("speaker-cpu").max(), megabytes(r.get("speaker-rss").max()))},
			row{what: "leader with 5 speakers and nothing to decide, CPU / memory", n: 1, ours: fmt.Sprintf("%.2f %% of a core / %s", r.get("leader-cpu").max(), megabytes(r.get("leader-rss").max()))},
			row{
				what: fmt.Sprintf("speaker that owns %d addresses, CPU / memory (of that not from its file)", manyVIPs), n: 1,
				ours: fmt.Sprintf("%.2f %% of a core / %s (%s)", r.get("many-cpu").max(), megabytes(rss), megabytes(r.get("many-private").max())),
				aim:  "below 30 MB", met: rss < 30<<20,
			})
	}
	if r := all["arp"]; r.get("ours") != nil {
		rows = append(rows, row{what: "ARP replies, 64 questions under way", n: 1, ours: perSecond(r.get("ours").max()), peer: "the kernel's own responder: " + perSecond(r.get("kernel").max())})
	}
	if r := all["spurious"]; r.get("expired") != nil {
		rows = append(rows, row{
			what: fmt.Sprintf("nodes expired in %v with every core busy", time.Duration(r.get("busy").max())*time.Second), n: 1,
			ours: fmt.Sprintf("%.0f", r.get("expired").max()), aim: "none", met: r.get("expired").max() == 0,
		})
	}
	return append(rows, rssRows(all["rss"])...)
}

func rssRows(r *result) (rows []row) {
	if r == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(r.Curves))
	for _, kind := range []string{"member", "speaker"} {
		var start, end, grow samples
		for _, name := range names {
			if v := r.get(name); strings.HasPrefix(name, kind+" ") && len(v) == 3 {
				start, end, grow = append(start, v[0]), append(end, v[1]), append(grow, v[2])
			}
		}
		if len(start) == 0 {
			continue
		}
		rows = append(rows, row{
			what: fmt.Sprintf("memory of a %s over %v of light churn: largest at the start / at the end / steepest slope", kind, time.Duration(r.get("watched").max())*time.Second),
			n:    len(start), ours: fmt.Sprintf("%s / %s / %+.2f MB an hour", megabytes(start.max()), megabytes(end.max()), grow.max()/(1<<20)),
		})
	}
	return rows
}

// aims of the packages' own benchmarks: the value with this unit is at most,
// or at least, the limit.
var aims = []struct {
	name    string // a prefix of the benchmark's name
	unit    string
	limit   float64
	atLeast bool
	text    string
}{
	{"fsm Evolve", "events/s", 300_000, true, "300,000 events/s"},
	{"fsm SnapshotSave", "ns/op", 1e9, false, "1 s"},
	{"fsm SnapshotRestore", "ns/op", 2e9, false, "2 s"},
	{"allocator ChooseAddresses", "ns/op", 1000, false, "below 1 µs"},
	{"speakers/layer2 Reply", "allocs/op", 0, false, "no allocation"},
}

func microRows(all results) (rows []row) {
	r := all["micro"]
	if r == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(r.Texts)) {
		pkg, bench, _ := strings.Cut(name, " ")
		x := row{what: "`" + pkg + "` " + bench, n: 1, ours: r.Texts[name]}
		x.judge(name, strings.Fields(r.Texts[name]))
		rows = append(rows, x)
	}
	return rows
}

// judge adds the aim of a benchmark to its row.
func (x *row) judge(name string, values []string) {
	for _, a := range aims {
		// "fsm Evolve" is not "fsm EvolveFailover".
		if rest, ok := strings.CutPrefix(name, a.name); !ok || rest != "" && rest[0] != '/' {
			continue
		}
		x.aim = a.text
		for i := 0; i+1 < len(values); i += 2 {
			if v, err := strconv.ParseFloat(values[i], 64); err == nil && values[i+1] == a.unit {
				x.met = v <= a.limit
				if a.atLeast {
					x.met = v >= a.limit
				}
			}
		}
	}
}
