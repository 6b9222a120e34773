package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

type probeReport struct {
	Address string `json:"address"`
	Owner   string `json:"owner,omitempty"`
	// Verdict says in words what was found; OK is true for one right answer.
	Verdict string      `json:"verdict"`
	OK      bool        `json:"ok"`
	Nodes   []nodeProbe `json:"nodes"`
}

type nodeProbe struct {
	Node  string     `json:"node"`
	Hits  []probeHit `json:"hits"`
	Error string     `json:"error,omitempty"`
}

type probeHit struct {
	MAC       string `json:"mac"`
	Node      string `json:"node,omitempty"`
	Interface string `json:"interface"`
}

func (a *app) probeCmd() *cobra.Command {
	wait := time.Second
	cmd := command(&cobra.Command{
		Use:   "probe ADDRESS",
		Short: "Ask the wire, from every node, who answers for an address",
		Long: `Have every speaker ask by ARP or NDP who has an address, and list who answered.

A speaker does not hear its own answers, so the owner's own row is usually empty.
Ends with exit code 1 unless exactly one station answers and it is the owner: two
different MACs, nobody at all, or another node than the group wants. For an address
without owner it ends with 1 if anybody answers.

The speakers send frames, so this needs the role admin.`,
		Example: `  qlbctl probe 192.0.2.10
  qlbctl probe 2001:db8::10 --wait 3s
  qlbctl probe 192.0.2.10 || page-somebody`,
		Args:              args("ADDRESS"),
		ValidArgsFunction: a.completeNames("vips"),
	}, func(ctx context.Context, args []string) error {
		addr, err := parseAddress(args[0])
		if err != nil {
			return err
		}
		return a.probe(ctx, addr, wait)
	})
	cmd.Flags().DurationVar(&wait, "wait", wait, "how long each speaker waits for answers")
	return cmd
}

func (a *app) probe(ctx context.Context, addr string, wait time.Duration) error {
	if wait <= 0 || wait >= a.flags.timeout {
		return usagef("--wait must be more than 0 and less than --timeout (%s)", a.flags.timeout)
	}
	// Who should answer; an address that is not ours may be probed too.
	owner := ""
	got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{Kinds: []string{"vips"}, Name: addr, Stale: a.flags.stale})
	if err == nil && len(got.GetVips()) == 1 {
		owner = got.GetVips()[0].GetOwner()
	}
	resp, err := call(ctx, a, adminv1.AdminServiceClient.Probe, &adminv1.ProbeRequest{Address: addr, TimeoutNanos: int64(wait)})
	if err != nil {
		return err
	}
	r := newProbeReport(addr, owner, resp)
	if err := a.printOne(r, func(w io.Writer, _ bool) error { return a.writeProbe(w, r) }); err != nil {
		return err
	}
	if !r.OK {
		return errFound
	}
	return nil
}

func newProbeReport(addr, owner string, resp *adminv1.ProbeResponse) probeReport {
	r := probeReport{Address: addr, Owner: owner, Nodes: []nodeProbe{}}
	nodes := resp.GetNodes()
	slices.SortStableFunc(nodes, func(x, y *adminv1.NodeProbe) int { return byName(x.GetNode(), y.GetNode()) })
	stations := map[string]string{} // MAC -> whose
	for _, n := range nodes {
		p := nodeProbe{Node: n.GetNode(), Hits: []probeHit{}, Error: n.GetError()}
		for _, h := range n.GetHits() {
			mac := words.MAC(h.GetMac())
			if stations[mac] == "" {
				stations[mac] = h.GetNode()
			}
			p.Hits = append(p.Hits, probeHit{mac, h.GetNode(), h.GetInterface()})
		}
		r.Nodes = append(r.Nodes, p)
	}
	r.OK, r.Verdict = probeVerdict(owner, stations)
	if r.OK && !slices.ContainsFunc(r.Nodes, func(n nodeProbe) bool { return n.Error == "" }) {
		r.OK, r.Verdict = false, "no node could ask"
	}
	return r
}

func probeVerdict(owner string, stations map[string]string) (ok bool, verdict string) {
	var names []string
	for _, mac := range words.SortedKeys(stations) {
		names = append(names, station(mac, stations[mac]))
	}
	switch {
	case len(names) == 0 && owner == "":
		return true, "nobody answers, and nobody should"
	case len(names) == 0:
		return false, fmt.Sprintf("nobody answers, %s should (a node does not hear itself: one other must be on the same segment)", owner)
	case len(names) > 1:
		return false, fmt.Sprintf("%d different stations answer: %s", len(names), strings.Join(names, ", "))
	case owner == "":
		return false, names[0] + " answers, nobody should"
	}
	for _, node := range stations {
		if node != owner {
			return false, fmt.Sprintf("%s answers, %s should", names[0], owner)
		}
	}
	return true, "one station answers: " + names[0]
}

func station(mac, node string) string {
	if node == "" {
		return mac + " (no node of the group)"
	}
	return mac + " (" + node + ")"
}

func (a *app) writeProbe(w io.Writer, r probeReport) error {
	t := newTable("ASKED-FROM", "MAC", "WHOSE", "LINK", "ERROR")
	for _, n := range r.Nodes {
		if len(n.Hits) == 0 {
			t.row(n.Node, "", "", "", n.Error)
		}
		for _, h := range n.Hits {
			t.row(n.Node, h.MAC, h.Node, h.Interface, n.Error)
		}
	}
	if len(t.rows) == 0 {
		fmt.Fprintln(w, "No speaker is attached.")
	} else if err := t.write(w, ""); err != nil {
		return err
	}
	c := green
	if !r.OK {
		c = red
	}
	_, err := fmt.Fprintln(w, "\n"+a.colour(c, r.Address+": "+clean(r.Verdict)))
	return err
}
