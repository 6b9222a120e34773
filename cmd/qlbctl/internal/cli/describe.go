package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/config"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func (a *app) describeCmd() *cobra.Command {
	var namespace string
	most := 10
	cmd := command(&cobra.Command{
		Use:   "describe KIND NAME | describe KIND/NAME",
		Short: "Tell everything about one thing, with reasons and history",
		Long: `Tell everything about one pool, l2advertisement, service, namespace, reservation, vip, node,
member or address in quarantine: what is wanted, what is so, and why; of services, vips and
nodes also what happened to them lately.

For a vip that is every node's answer to "may it own this address?".`,
		Example: `  qlbctl describe vip 192.0.2.10
  qlbctl describe service web -n shop
  qlbctl describe node/n1 --events 30`,
		Args:              atLeastKind,
		ValidArgsFunction: a.completeTargets(false),
	}, func(ctx context.Context, args []string) error {
		targets, err := parseTargets(args, namespace, false)
		if err != nil {
			return err
		}
		if len(targets) != 1 || targets[0].name == "" {
			return usagef("describe needs one KIND and NAME")
		}
		if a.flags.output != "table" && a.flags.output != "wide" {
			return a.get(ctx, targets, instant{}, false)
		}
		return a.describe(ctx, targets[0], most)
	})
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the service")
	cmd.Flags().IntVar(&most, "events", most, "how much of its history to show; 0: none")
	return cmd
}

func (a *app) describe(ctx context.Context, t target, most int) error {
	kinds := []string{t.kind.plural}
	got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{Kinds: kinds, Name: t.full(), Stale: a.flags.stale})
	if err != nil {
		return err
	}
	missing := fmt.Errorf("%s does not exist", t.id())
	w := a.env.Stdout
	req := &adminv1.EventsRequest{Stale: a.flags.stale}
	switch t.kind.plural {
	case "pools":
		if len(got.GetPools()) != 1 {
			return missing
		}
		return a.describePool(w, got.GetPools()[0])
	case "l2advertisements":
		if len(got.GetL2Advertisements()) != 1 {
			return missing
		}
		return a.describeAdvertisement(w, got.GetL2Advertisements()[0])
	case "namespaces":
		if len(got.GetNamespaces()) != 1 {
			return missing
		}
		return a.describeNamespace(w, got.GetNamespaces()[0])
	case "reservations":
		if len(got.GetReservations()) != 1 {
			return missing
		}
		return a.describeReservation(w, got.GetReservations()[0])
	case "members":
		if len(got.GetMembers()) != 1 {
			return missing
		}
		return a.describeMember(w, got.GetMembers()[0])
	case "services":
		if len(got.GetServices()) != 1 {
			return missing
		}
		req.Service = t.full()
		err = a.describeService(ctx, w, got.GetServices()[0])
	case "vips":
		if len(got.GetVips()) != 1 {
			return missing
		}
		req.Address = got.GetVips()[0].GetAddress()
		err = a.describeVip(w, got.GetVips()[0])
	case "nodes":
		if len(got.GetNodes()) != 1 {
			return missing
		}
		req.Node = t.name
		err = a.describeNode(ctx, w, got.GetNodes()[0])
	case "quarantine":
		if len(got.GetQuarantine()) != 1 {
			return missing
		}
		req.Address = got.GetQuarantine()[0].GetAddress()
		err = a.describeQuarantine(w, got.GetQuarantine()[0])
	}
	if err != nil {
		return err
	}
	return a.historyLines(ctx, w, req, most)
}

func (a *app) describePool(w io.Writer, p *adminv1.PoolStatus) error {
	var f fields
	spec := p.GetPool()
	f.add("Name", spec.GetName())
	f.addSome("Labels", words.Labels(spec.GetLabels()))
	for i, r := range spec.GetAddresses() {
		name := ""
		if i == 0 {
			name = "Addresses"
		}
		f.add(name, r)
	}
	f.add("Auto-assign", yesNo(!spec.GetManualOnly()))
	f.add("Avoid buggy IPs", yesNo(spec.GetAvoidBuggyIps()))
	f.add("For services", allocation(spec.GetServiceAllocation()))
	f.add("Quota", quota(spec.GetQuota()))
	f.add("Quarantine", words.Setting(time.Duration(spec.GetQuarantineNanos())))
	f.add("IPv4", fmt.Sprintf("%s in use, %s free", number(p.GetAssignedIpv4()), number(p.GetAvailableIpv4())))
	f.add("IPv6", fmt.Sprintf("%s in use, %s free", number(p.GetAssignedIpv6()), number(p.GetAvailableIpv6())))
	f.add("Reallocate", yesNo(spec.GetReallocate()))
	f.add("Kept", number(p.GetKept()))
	f.add("Reserved", number(p.GetReserved()))
	if err := f.write(w); err != nil {
		return err
	}
	if len(p.GetLeaving()) > 0 {
		fmt.Fprintln(w, "\nIn use, but no longer in the pool:")
		t := newTable("ADDRESS", "SERVICE")
		for _, l := range p.GetLeaving() {
			t.row(l.GetAddress(), l.GetService())
		}
		if err := t.write(w, "  "); err != nil {
			return err
		}
	}
	if len(p.GetNamespaces()) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nIn use, by namespace:")
	t := newTable("NAMESPACE", "ADDRESSES", "MAY-HAVE")
	for _, name := range words.SortedKeys(p.GetNamespaces()) {
		t.row(name, number(uint64(p.GetNamespaces()[name])), mayHave(spec.GetQuota(), name))
	}
	return t.write(w, "  ")
}

func mayHave(q *logv1.Quota, namespace string) string {
	if n, own := q.GetNamespaces()[namespace]; own {
		return number(uint64(n))
	}
	if q.GetPerNamespace() == 0 {
		return "any"
	}
	return number(uint64(q.GetPerNamespace()))
}

func (a *app) describeReservation(w io.Writer, r *adminv1.ReservationStatus) error {
	var f fields
	spec := r.GetReservation()
	f.add("Name", spec.GetName())
	f.addSome("Labels", words.Labels(spec.GetLabels()))
	f.add("Addresses", strings.Join(spec.GetAddresses(), ", "))
	f.add("For", promisedTo(spec))
	f.add("Until", until(r))
	f.add("Held by", words.OrNone(strings.Join(holders(r), ", ")))
	return f.write(w)
}

func (a *app) describeNamespace(w io.Writer, n *adminv1.NamespaceStatus) error {
	var f fields
	f.add("Name", n.GetNamespace().GetName())
	labels := maps.Clone(n.GetNamespace().GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[fsm.LabelNamespaceName] = n.GetNamespace().GetName() // every namespace has it
	f.add("Labels", words.Labels(labels))
	f.add("Declared", yesNo(n.GetDefined()))
	f.add("Services", number(uint64(n.GetServices())))
	f.add("Addresses", number(uint64(n.GetAddresses())))
	return f.write(w)
}

func (a *app) describeAdvertisement(w io.Writer, ad *logv1.L2Advertisement) error {
	var f fields
	f.add("Name", ad.GetName())
	f.addSome("Labels", words.Labels(ad.GetLabels()))
	f.add("Pools", poolsOf(ad))
	f.add("Nodes", selectors(ad.GetNodeSelectors()))
	interfaces := "all"
	if len(ad.GetInterfaces()) > 0 {
		interfaces = strings.Join(ad.GetInterfaces(), ", ")
	}
	f.add("Interfaces", interfaces)
	f.add("On control loss", words.ControlLoss(ad.GetOnControlLoss()))
	f.add("Placement", words.Placement(ad.GetPlacement()))
	f.add("Rebalance", words.Rebalance(ad.GetRebalance(), ad.GetRebalancePerMinute()))
	f.add("Services", selectors(ad.GetServiceSelectors()))
	for i, p := range ad.GetPreferredNodeSelectors() {
		name := ""
		if i == 0 {
			name = "Prefers"
		}
		f.add(name, fmt.Sprintf("%d x {%s}", p.GetWeight(), selector(p.GetPreference())))
	}
	return f.write(w)
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

func (a *app) describeService(ctx context.Context, w io.Writer, sv *adminv1.ServiceStatus) error {
	o, err := serviceObject(sv)
	if err != nil {
		return err
	}
	var f fields
	spec := sv.GetService()
	f.add("Name", spec.GetName())
	f.add("Namespace", spec.GetNamespace())
	f.addSome("Labels", words.Labels(spec.GetLabels()))
	f.add("Status", a.problemOr(sv.GetPending() != "", serviceState(sv)))
	f.add("Addresses", strings.Join(sv.GetAddresses(), ", "))
	f.addSome("Asked for", strings.Join(spec.GetAddresses(), ", "))
	f.addSome("Pool asked for", spec.GetPool())
	f.add("Ports", words.Ports(spec.GetPorts()))
	v := o.Spec.(config.VirtualServiceSpec)
	f.add("Families", strings.TrimSpace(v.IPFamilyPolicy+" "+strings.Join(v.IPFamilies, ",")))
	f.add("Traffic policy", v.ExternalTrafficPolicy)
	f.addSome("Sharing key", spec.GetSharingKey())
	f.addSome("Selector", unset(words.Labels(spec.GetSelector())))
	f.add("Nodes", selectors(spec.GetNodeSelectors()))
	f.addSome("Preferred node", spec.GetPreferredNode())
	a.addServing(&f, sv)
	f.add("Delivery", v.Delivery)
	f.add("Declared", fmt.Sprintf("%s ago, revision %d", words.Age(a.env.Now(), sv.GetDeclaredUnixNano()), sv.GetDeclaredRevision()))
	if err := f.write(w); err != nil {
		return err
	}
	if err := refusalsTable(w, sv); err != nil {
		return err
	}
	if err := a.healthTable(w, sv); err != nil {
		return err
	}
	vips, err := a.vipsTable(ctx, w, func(vip *adminv1.VipStatus) bool { return slices.Contains(sv.GetAddresses(), vip.GetAddress()) })
	if err != nil || len(vips) == 0 {
		return err
	}
	for i, v := range vips {
		if len(v.GetEligibility()) > 0 {
			continue
		}
		// In a large group only who asks for one address is told about every node.
		got, err := call(ctx, a, adminv1.AdminServiceClient.Get,
			&adminv1.GetRequest{Kinds: []string{"vips"}, Name: v.GetAddress(), Stale: a.flags.stale})
		if err != nil {
			return err
		}
		if len(got.GetVips()) == 1 {
			vips[i] = got.GetVips()[0]
		}
	}
	return a.whyTable(w, vips)
}

// refusalsTable says why a service waits, pool by pool.
func refusalsTable(w io.Writer, sv *adminv1.ServiceStatus) error {
	if len(sv.GetRefusals()) == 0 {
		return nil
	}
	title := "Waits for:"
	if sv.GetPending() == "" {
		title = "Would take as well:"
	}
	fmt.Fprintln(w, "\n"+title)
	t := newTable("POOL", "ADDRESS", "FAMILY", "WHY-NOT")
	for _, r := range sv.GetRefusals() {
		addr := ""
		if len(r.GetAddress()) > 0 {
			addr = words.Addr(r.GetAddress())
		}
		t.row(r.GetPool(), addr, words.Family(r.GetFamily()), words.RefusalReason(r.GetReason()))
	}
	return t.write(w, "  ")
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

// problem marks what a reader should not miss.
func (a *app) problem(s string) string { return a.problemOr(s != "", s) }

func (a *app) problemOr(bad bool, s string) string {
	if !bad {
		return s
	}
	return a.colour(red, s)
}
