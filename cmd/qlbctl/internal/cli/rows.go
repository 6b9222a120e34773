package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/config"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// columns gives the header of a kind's table: narrow, and what wide adds.
func columns(narrow, more string) func(wide bool) []string {
	return func(wide bool) []string {
		if wide {
			return append(strings.Fields(narrow), strings.Fields(more)...)
		}
		return strings.Fields(narrow)
	}
}

// cells are a row: narrow, and what wide adds.
func cells(t *table, wide bool, narrow []string, more ...string) {
	if wide {
		narrow = append(narrow, more...)
	}
	t.row(narrow...)
}

func (a *app) poolRows(s *section, pools []*adminv1.PoolStatus) {
	s.found = len(pools)
	s.header = columns("NAME ADDRESSES AUTO-ASSIGN USED-IPV4 FREE-IPV4 USED-IPV6 FREE-IPV6", "KEPT RESTING RESERVED FOREIGN FOR QUOTA QUARANTINE REALLOCATE LEAVING AVOID-BUGGY LABELS")
	slices.SortStableFunc(pools, func(x, y *adminv1.PoolStatus) int { return byName(x.GetPool().GetName(), y.GetPool().GetName()) })
	for _, p := range pools {
		spec := p.GetPool()
		s.add(poolObject(p), func(t *table, wide bool) {
			most := 2
			if wide {
				most = 1000
			}
			cells(t, wide, []string{
				spec.GetName(), words.Some(spec.GetAddresses(), most), yesNo(!spec.GetManualOnly()),
				number(p.GetAssignedIpv4()), number(p.GetAvailableIpv4()), number(p.GetAssignedIpv6()), number(p.GetAvailableIpv6()),
			}, number(p.GetKept()), number(p.GetResting()), number(p.GetReserved()), number(p.GetForeign()), allocation(spec.GetServiceAllocation()), quota(spec.GetQuota()),
				words.Setting(time.Duration(spec.GetQuarantineNanos())), yesNo(spec.GetReallocate()), number(uint64(len(p.GetLeaving()))), yesNo(spec.GetAvoidBuggyIps()), words.Labels(spec.GetLabels()))
		})
	}
}

// allocation says for which services a pool is.
func allocation(a *logv1.ServiceAllocation) string {
	if a == nil {
		return "all"
	}
	var parts []string
	if namespaces := namespacesOf(a); namespaces != "" {
		parts = append(parts, "namespaces "+namespaces)
	}
	if len(a.GetServiceSelectors()) > 0 {
		parts = append(parts, "services "+selectors(a.GetServiceSelectors()))
	}
	if len(parts) == 0 {
		parts = append(parts, "all")
	}
	if a.GetPriority() > 0 {
		parts = append(parts, fmt.Sprintf("priority %d", a.GetPriority()))
	}
	return strings.Join(parts, ", ")
}

func namespacesOf(a *logv1.ServiceAllocation) string {
	parts := slices.Clone(a.GetNamespaces())
	for _, sel := range a.GetNamespaceSelectors() {
		parts = append(parts, "{"+selector(sel)+"}")
	}
	return strings.Join(parts, " or ")
}

// quota gives "5 each, shop 9".
func quota(q *logv1.Quota) string {
	var parts []string
	if q.GetPerNamespace() > 0 {
		parts = append(parts, fmt.Sprintf("%d each", q.GetPerNamespace()))
	}
	for _, name := range words.SortedKeys(q.GetNamespaces()) {
		parts = append(parts, fmt.Sprintf("%s %d", name, q.GetNamespaces()[name]))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (a *app) reservationRows(s *section, list []*adminv1.ReservationStatus) {
	s.found = len(list)
	s.header = columns("NAME ADDRESSES FOR UNTIL HELD-BY", "LABELS")
	slices.SortStableFunc(list, func(x, y *adminv1.ReservationStatus) int {
		return byName(x.GetReservation().GetName(), y.GetReservation().GetName())
	})
	for _, r := range list {
		s.add(reservationObject(r), func(t *table, wide bool) {
			most := 2
			if wide {
				most = 1000
			}
			cells(t, wide, []string{
				r.GetReservation().GetName(), words.Some(r.GetReservation().GetAddresses(), most), promisedTo(r.GetReservation()), until(r),
				words.Some(holders(r), most),
			}, words.Labels(r.GetReservation().GetLabels()))
		})
	}
}

func promisedTo(r *logv1.Reservation) string {
	if r.GetServiceName() == "" {
		return "nobody"
	}
	return r.GetServiceNamespace() + "/" + r.GetServiceName()
}

func until(r *adminv1.ReservationStatus) string {
	switch {
	case r.GetReservation().GetUntilUnixNano() == 0:
		return "for ever"
	case r.GetEnded():
		return "over since " + moment(r.GetReservation().GetUntilUnixNano())
	}
	return moment(r.GetReservation().GetUntilUnixNano())
}

func holders(r *adminv1.ReservationStatus) []string {
	var out []string
	for _, h := range r.GetHolders() {
		out = append(out, fmt.Sprintf("%s (%s)", h.GetService(), h.GetAddress()))
	}
	return out
}

func (a *app) namespaceRows(s *section, namespaces []*adminv1.NamespaceStatus) {
	s.found = len(namespaces)
	s.header = columns("NAME DECLARED SERVICES ADDRESSES LABELS", "")
	slices.SortStableFunc(namespaces, func(x, y *adminv1.NamespaceStatus) int {
		return byName(x.GetNamespace().GetName(), y.GetNamespace().GetName())
	})
	for _, n := range namespaces {
		row := func(t *table, wide bool) {
			cells(t, wide, []string{
				n.GetNamespace().GetName(), yesNo(n.GetDefined()), number(uint64(n.GetServices())), number(uint64(n.GetAddresses())),
				words.Labels(n.GetNamespace().GetLabels()),
			})
		}
		if n.GetDefined() || len(namespaces) == 1 {
			s.add(namespaceObject(n), row)
		} else {
			s.addRow(row) // who applies what was printed does not want to declare it
		}
	}
}

func (a *app) advertisementRows(s *section, ads []*logv1.L2Advertisement) error {
	s.found = len(ads)
	s.header = columns("NAME POOLS NODES INTERFACES ON-CONTROL-LOSS PLACEMENT", "SERVICES PREFERS REBALANCE LABELS")
	slices.SortStableFunc(ads, func(x, y *logv1.L2Advertisement) int { return byName(x.GetName(), y.GetName()) })
	for _, ad := range ads {
		o, err := config.FromAdvertisement(ad)
		if err != nil {
			return err
		}
		s.add(object{o}, func(t *table, wide bool) {
			interfaces := "all"
			if len(ad.GetInterfaces()) > 0 {
				interfaces = strings.Join(ad.GetInterfaces(), ",")
			}
			cells(t, wide, []string{
				ad.GetName(), poolsOf(ad), selectors(ad.GetNodeSelectors()), interfaces,
				words.ControlLoss(ad.GetOnControlLoss()), words.Placement(ad.GetPlacement()),
			}, selectors(ad.GetServiceSelectors()), strings.Join(preferences(ad), ","),
				words.Rebalance(ad.GetRebalance(), ad.GetRebalancePerMinute()), words.Labels(ad.GetLabels()))
		})
	}
	return nil
}

// poolsOf says which pools an advertisement is for.
func poolsOf(ad *logv1.L2Advertisement) string {
	names := slices.Clone(ad.GetIpAddressPools())
	for _, sel := range ad.GetIpAddressPoolSelectors() {
		names = append(names, "{"+selector(sel)+"}")
	}
	if len(names) == 0 {
		return "all"
	}
	return strings.Join(names, ",")
}

// preferences gives "9 x {a=b}" for each of an advertisement's weights.
func preferences(ad *logv1.L2Advertisement) (list []string) {
	for _, p := range ad.GetPreferredNodeSelectors() {
		list = append(list, fmt.Sprintf("%d x {%s}", p.GetWeight(), selector(p.GetPreference())))
	}
	return list
}

// selectors gives "{a=b,c in (d,e)} or {f}"; "all" for none.
func selectors(list []*logv1.LabelSelector) string {
	if len(list) == 0 {
		return "all"
	}
	var out []string
	for _, sel := range list {
		out = append(out, "{"+selector(sel)+"}")
	}
	return strings.Join(out, " or ")
}

// selector is in the form that kubectl's -l reads.
func selector(sel *logv1.LabelSelector) string {
	var out []string
	for _, k := range words.SortedKeys(sel.GetMatchLabels()) {
		out = append(out, k+"="+sel.GetMatchLabels()[k])
	}
	for _, e := range sel.GetMatchExpressions() {
		switch e.GetOperator() {
		case "Exists":
			out = append(out, e.GetKey())
		case "DoesNotExist":
			out = append(out, "!"+e.GetKey())
		default:
			out = append(out, fmt.Sprintf("%s %s (%s)", e.GetKey(), strings.ToLower(e.GetOperator()), strings.Join(e.GetValues(), ",")))
		}
	}
	return strings.Join(out, ",")
}

func (a *app) serviceRows(s *section, services []*adminv1.ServiceStatus, problems bool) error {
	s.found = len(services)
	s.header = columns("NAMESPACE NAME ADDRESSES PORTS DECLARED STATUS", "POOL FAMILIES COUNT TRAFFIC SHARING-KEY DELIVERY NODES PREFERRED-NODE HEALTH-CHECK LABELS")
	slices.SortStableFunc(services, func(x, y *adminv1.ServiceStatus) int {
		if c := strings.Compare(x.GetService().GetNamespace(), y.GetService().GetNamespace()); c != 0 {
			return c
		}
		return byName(x.GetService().GetName(), y.GetService().GetName())
	})
	for _, sv := range services {
		if problems && sv.GetPending() == "" {
			continue
		}
		o, err := serviceObject(sv)
		if err != nil {
			return err
		}
		spec := o.Spec.(config.VirtualServiceSpec)
		s.add(o, func(t *table, wide bool) {
			p := sv.GetService()
			cells(t, wide, []string{
				p.GetNamespace(), p.GetName(), strings.Join(sv.GetAddresses(), ","), words.Ports(p.GetPorts()),
				words.Age(a.env.Now(), sv.GetDeclaredUnixNano()), serviceState(sv),
			}, p.GetPool(), spec.IPFamilyPolicy, number(uint64(fsm.AddressCount(p))), spec.ExternalTrafficPolicy, p.GetSharingKey(), spec.Delivery,
				selectors(p.GetNodeSelectors()), p.GetPreferredNode(), checkOf(p), words.Labels(p.GetLabels()))
		})
	}
	return nil
}

// checkOf is a service's health check in words; empty for none.
func checkOf(spec *logv1.Service) string {
	if spec.GetHealthCheck() == nil {
		return ""
	}
	return fsm.CheckText(spec.GetHealthCheck())
}

func serviceState(sv *adminv1.ServiceStatus) string {
	if sv.GetPending() != "" {
		return "Pending: " + sv.GetPending()
	}
	return "Ready"
}

func (a *app) vipRows(s *section, vips []*adminv1.VipStatus, problems bool) {
	s.found = len(vips)
	s.header = columns("ADDRESS SERVICES OWNER ANNOUNCED SINCE PROBLEM", "WHY POOL EPOCH ON-CONTROL-LOSS INTERFACES PROVEN-BY")
	slices.SortStableFunc(vips, func(x, y *adminv1.VipStatus) int { return byAddress(x.GetAddress(), y.GetAddress()) })
	for _, v := range vips {
		found := vipProblems(v)
		if problems && len(found) == 0 {
			continue
		}
		s.add(vipReport(v), func(t *table, wide bool) {
			var interfaces, proven []string
			for _, n := range v.GetAnnounced() {
				if n.GetNode() == v.GetOwner() {
					interfaces = n.GetStatus().GetInterfaces()
					for _, by := range n.GetStatus().GetProvenBy() {
						proven = append(proven, words.Addr(by))
					}
				}
			}
			since := words.None
			if v.GetOwner() != "" {
				since = words.Age(a.env.Now(), v.GetOwnedSinceUnixNano())
			}
			cells(t, wide, []string{
				v.GetAddress(), words.Some(v.GetServices(), 2), v.GetOwner(), announced(v), since, strings.Join(found, "; "),
			}, words.OwnerReason(v.GetReason()), v.GetPool(), number(v.GetEpoch()), words.ControlLoss(v.GetOnControlLoss()),
				strings.Join(interfaces, ","), words.Some(proven, 3))
		})
	}
}

// announced gives "n1 Proven", and every other node that says anything.
func announced(v *adminv1.VipStatus) string {
	var out []string
	for _, n := range v.GetAnnounced() {
		text := n.GetNode() + " " + words.Announced(n.GetStatus().GetAnnounced())
		if n.GetNode() == v.GetOwner() {
			out = slices.Insert(out, 0, text)
			continue
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func (a *app) nodeRows(s *section, nodes []*adminv1.NodeStatus, problems bool) {
	s.found = len(nodes)
	s.header = columns("NAME STATE OWNED HEARD LINKS VERSION PROBLEM", "SESSION INCARNATION SEEN MACS LABELS")
	slices.SortStableFunc(nodes, func(x, y *adminv1.NodeStatus) int { return byName(x.GetName(), y.GetName()) })
	for _, n := range nodes {
		if problems && nodeProblem(n) == "" {
			continue
		}
		s.add(nodeReport(n), func(t *table, wide bool) {
			cells(t, wide, []string{
				n.GetName(), n.GetState(), strconv.Itoa(int(n.GetOwned())), heard(n), linkCount(n.GetLinks()), n.GetVersion(), nodeProblem(n),
			}, number(n.GetSession()), number(n.GetIncarnation()), number(n.GetSeen()), words.MACs(n.GetMacs()), words.Labels(n.GetLabels()))
		})
	}
}

// heard says how long ago any member heard a node.
func heard(n *adminv1.NodeStatus) string {
	if n.GetUnheardNanos() < 0 {
		return "never"
	}
	return words.Duration(time.Duration(n.GetUnheardNanos())) + " ago"
}

// linkCount gives "2/3 up".
func linkCount(links []*logv1.Link) string {
	up := 0
	for _, l := range links {
		if l.GetUp() {
			up++
		}
	}
	return fmt.Sprintf("%d/%d up", up, len(links))
}

func (a *app) memberRows(s *section, members []*adminv1.MemberStatus, problems bool) {
	s.found = len(members)
	s.header = columns("ID ADDRESS ROLE HEALTHY REVISION UP VERSION PROBLEM", "DIGEST")
	slices.SortStableFunc(members, func(x, y *adminv1.MemberStatus) int { return byName(x.GetId(), y.GetId()) })
	for _, m := range members {
		if problems && memberProblem(m) == "" {
			continue
		}
		s.add(memberReport(m), func(t *table, wide bool) {
			up := words.None
			if m.GetUpNanos() > 0 {
				up = words.Duration(time.Duration(m.GetUpNanos()))
			}
			cells(t, wide, []string{
				m.GetId(), m.GetAddress(), memberRole(m), yesNo(m.GetHealthy()), number(m.GetRevision()), up, m.GetVersion(), memberProblem(m),
			}, words.Hex(m.GetDigest(), 6))
		})
	}
}

func memberRole(m *adminv1.MemberStatus) string {
	switch {
	case m.GetLeader():
		return "leader"
	case m.GetVoter():
		return "voter"
	}
	return "learner"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// number gives a count; "many" for what no table has room for.
func number(n uint64) string {
	if n >= 1<<40 {
		return "many"
	}
	return strconv.FormatUint(n, 10)
}
