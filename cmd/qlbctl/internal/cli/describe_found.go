package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

func (a *app) describeVip(w io.Writer, v *adminv1.VipStatus) error {
	var f fields
	f.add("Address", v.GetAddress())
	f.add("Pool", poolOf(v))
	f.add("Services", strings.Join(v.GetServices(), ", "))
	owner := "nobody"
	if v.GetOwner() != "" {
		owner = fmt.Sprintf("%s, for %s (%s), epoch %d", v.GetOwner(), words.Age(a.env.Now(), v.GetOwnedSinceUnixNano()),
			words.OwnerReason(v.GetReason()), v.GetEpoch())
	}
	f.add("Owner", owner)
	if v.GetPredecessor() != "" {
		f.add("Moving softly", a.softMove(v))
	}
	f.addSome("Waiting", v.GetWaiting())
	a.addPlacement(&f, v)
	f.addSome("On control loss", words.ControlLoss(v.GetOnControlLoss()))
	problems := vipProblems(v)
	if len(problems) == 0 {
		f.add("Problems", "none")
	}
	for i, p := range problems {
		name := ""
		if i == 0 {
			name = "Problems"
		}
		f.add(name, a.problem(p))
	}
	if err := f.write(w); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nAnnounced, as each speaker says:")
	if len(v.GetAnnounced()) == 0 {
		fmt.Fprintln(w, "  nobody says anything")
	} else if err := announcedTable(v).write(w, "  "); err != nil {
		return err
	}
	if len(v.GetEligibility()) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nMay own it:")
	t := newTable("NODE", "ELIGIBLE", "ORDER", "OWNS", "PREFERENCE", "WHY")
	for _, e := range v.GetEligibility() {
		order, owned := words.None, words.None
		if e.GetOrder() > 0 {
			order, owned = number(uint64(e.GetOrder())), number(uint64(e.GetOwned()))
		}
		t.row(e.GetNode(), yesNo(e.GetEligible()), order, owned, e.GetPreference(), e.GetReason())
	}
	return t.write(w, "  ")
}

// softMove says who still answers old clients, and for how long.
func (a *app) softMove(v *adminv1.VipStatus) string {
	text := fmt.Sprintf("%s answers the clients that know it for %s more at most", v.GetPredecessor(),
		words.Duration(max(0, time.Unix(0, v.GetSoftUntilUnixNano()).Sub(a.env.Now()))))
	for _, n := range v.GetAnnounced() {
		if n.GetNode() == v.GetPredecessor() && n.GetStatus().Connections != nil {
			text += fmt.Sprintf("; %s left", words.Count(n.GetStatus().GetConnections(), "connection"))
		}
	}
	return text
}

func announcedTable(v *adminv1.VipStatus) *table {
	t := newTable("NODE", "STATE", "EPOCH", "LINKS", "PROVEN-BY", "FOREIGN-CLAIM", "REASON")
	for _, n := range v.GetAnnounced() {
		s := n.GetStatus()
		foreign := words.MAC(s.GetForeignMac())
		if s.GetForeignNode() != "" {
			foreign += " (" + s.GetForeignNode() + ")"
		}
		t.row(n.GetNode(), words.Announced(s.GetAnnounced()), number(s.GetEpoch()), strings.Join(s.GetInterfaces(), ","),
			words.Addrs(s.GetProvenBy()), foreign, s.GetReason())
	}
	return t
}

// vipsTable adds the table of those vips that keep chooses.
func (a *app) vipsTable(ctx context.Context, w io.Writer, keep func(*adminv1.VipStatus) bool) ([]*adminv1.VipStatus, error) {
	got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{Kinds: []string{"vips"}, Stale: a.flags.stale})
	if err != nil {
		return nil, err
	}
	vips := slices.DeleteFunc(got.GetVips(), func(v *adminv1.VipStatus) bool { return !keep(v) })
	if len(vips) == 0 {
		return nil, nil
	}
	fmt.Fprintln(w, "\nAddresses:")
	s := &section{kind: "vips"}
	a.vipRows(s, vips, false)
	return vips, s.table(a.flags.output == "wide").write(w, "  ")
}

func (a *app) describeNode(ctx context.Context, w io.Writer, n *adminv1.NodeStatus) error {
	var f fields
	f.add("Name", n.GetName())
	f.addSome("Labels", words.Labels(n.GetLabels()))
	state := n.GetState()
	if p := nodeProblem(n); p != "" {
		state += ": " + p
	}
	f.add("State", a.problemOr(nodeProblem(n) != "", state))
	f.add("Heard", heard(n))
	f.add("Drained", yesNo(n.GetDrained()))
	f.add("Owns", words.Count(n.GetOwned(), "address"))
	if n.GetSoft() > 0 {
		f.add("Moving softly", fmt.Sprintf("it answers old clients of %s for %s more at most", words.Count(n.GetSoft(), "address"),
			words.Duration(max(0, time.Unix(0, n.GetGraceUntilUnixNano()).Sub(a.env.Now())))))
	}
	f.add("Session", fmt.Sprintf("%d, incarnation %d", n.GetSession(), n.GetIncarnation()))
	f.add("Seen", fmt.Sprintf("revision %d is in force there", n.GetSeen()))
	f.add("MACs", words.MACs(n.GetMacs()))
	f.add("Version", n.GetVersion())
	if err := f.write(w); err != nil {
		return err
	}
	if len(n.GetLinks()) > 0 {
		fmt.Fprintln(w, "\nLinks:")
		t := newTable("NAME", "STATE", "MAC", "PREFIXES")
		for _, l := range n.GetLinks() {
			state := "down"
			if l.GetUp() {
				state = "up"
			}
			t.row(l.GetName(), state, words.MAC(l.GetMac()), strings.Join(l.GetPrefixes(), ","))
		}
		if err := t.write(w, "  "); err != nil {
			return err
		}
	}
	_, err := a.vipsTable(ctx, w, func(v *adminv1.VipStatus) bool { return v.GetOwner() == n.GetName() })
	return err
}

func (a *app) describeMember(w io.Writer, m *adminv1.MemberStatus) error {
	var f fields
	f.add("ID", m.GetId())
	f.add("Address", m.GetAddress())
	f.add("Role", memberRole(m))
	f.add("Healthy", yesNo(m.GetHealthy()))
	f.addSome("Problem", a.problem(memberProblem(m)))
	f.add("Revision", number(m.GetRevision()))
	f.add("Version", m.GetVersion())
	if m.GetUpNanos() > 0 {
		f.add("Up", words.Duration(time.Duration(m.GetUpNanos())))
	}
	f.add("Digest", words.Hex(m.GetDigest(), 32))
	return f.write(w)
}
