package fsm

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Dump writes the state as text, a line for each row in the order of a
// snapshot, for people and golden files. The same state gives the same text.
func (s *State) Dump(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "cluster %x version %d revision %d time %d\nchain %x\n", s.ClusterID, s.ClusterVersion, s.Revision, s.Time, s.Chain)
	fmt.Fprintf(b, "lease %s\nprior-lease %s\nretention %s\npolicy at=%d\nrebalance %d\n",
		timesText(s.Lease), timesText(s.PriorLease), s.Retention, s.PolicyAt, s.RebalancePerMinute)
	for _, k := range slices.Sorted(maps.Keys(s.Pools)) {
		p := s.Pools[k]
		fmt.Fprintf(b, "pool %s addresses=%v manual=%t avoidBuggy=%t labels=%s for=%s quota=%s quarantine=%s reallocate=%t at=%d\n",
			k, p.Spec.GetAddresses(), p.Spec.GetManualOnly(), p.Spec.GetAvoidBuggyIps(), labelText(p.Spec.GetLabels()),
			allocationText(p.Spec.GetServiceAllocation()), quotaText(p.Spec.GetQuota()), time.Duration(p.Spec.GetQuarantineNanos()), p.Spec.GetReallocate(), p.DefinedAt)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Ads)) {
		a := s.Ads[k]
		fmt.Fprintf(b, "advertisement %s pools=%v poolSelectors=%s nodeSelectors=%s interfaces=%v loss=%d placement=%d serviceSelectors=%s preferred=%s rebalance=%d/%d at=%d\n",
			k, a.Spec.GetIpAddressPools(), selectorText(a.Spec.GetIpAddressPoolSelectors()), selectorText(a.Spec.GetNodeSelectors()),
			a.Spec.GetInterfaces(), a.Spec.GetOnControlLoss(), a.Spec.GetPlacement(),
			selectorText(a.Spec.GetServiceSelectors()), preferredText(a.Spec.GetPreferredNodeSelectors()),
			a.Spec.GetRebalance(), a.Spec.GetRebalancePerMinute(), a.DefinedAt)
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.Services), ServiceKey.Compare) {
		s.Services[k].dump(b)
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.Addresses), netip.Addr.Compare) {
		s.Addresses[k].dump(b)
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.Free), netip.Addr.Compare) {
		f := s.Free[k]
		fmt.Fprintf(b, "free %s pool=%q at=%d key=%s keptUntil=%d restsUntil=%d sharing=%q prior=%s",
			f.Addr, f.Pool, f.FreedAt, f.Key, f.KeptUntil, f.RestsUntil, f.SharingKey, priorText(f.Prior, f.PriorAt, f.PriorSession, f.PriorEpoch))
		if f.Quarantined() {
			fmt.Fprintf(b, " quarantine=%x@%s:%d-%d", f.Conflict, f.ConflictNode, f.QuarantineSince, f.QuarantineUntil)
		}
		fmt.Fprintln(b)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Nodes)) {
		s.Nodes[k].dump(b)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Namespaces)) {
		n := s.Namespaces[k]
		fmt.Fprintf(b, "namespace %s labels=%s at=%d\n", k, labelText(n.Spec.GetLabels()), n.DefinedAt)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Reservations)) {
		r := s.Reservations[k]
		fmt.Fprintf(b, "reservation %s addresses=%v for=%s until=%d labels=%s at=%d\n",
			k, r.Spec.GetAddresses(), r.Key(), r.Spec.GetUntilUnixNano(), labelText(r.Spec.GetLabels()), r.DefinedAt)
	}
	return b.Flush()
}

func (s *Service) dump(w io.Writer) {
	spec := s.Spec
	var ports []string
	for _, p := range spec.GetPorts() {
		ports = append(ports, fmt.Sprintf("%s:%d/%d", p.GetName(), p.GetProtocol(), p.GetPort()))
	}
	var refusals []string
	for _, r := range s.Refusals {
		refusals = append(refusals, fmt.Sprintf("%s/%s:%d/%d/%d", r.Pool, addrText(r.Addr), r.Family, r.Reason, r.Until))
	}
	fmt.Fprintf(w, "service %s addresses=%v pending=%q refusals=%v ports=%v want=%v count=%d pool=%q families=%d%v traffic=%d sharing=%q nodeSelectors=%s delivery=%d preferredNode=%q selector=%s labels=%s source=%s/%d created=%d declared=%d/%d%s\n",
		s.Key, s.Addresses, s.Pending, refusals, ports, spec.GetAddresses(), AddressCount(spec), spec.GetPool(), spec.GetIpFamilyPolicy(), spec.GetIpFamilies(),
		spec.GetExternalTrafficPolicy(), spec.GetSharingKey(), selectorText(spec.GetNodeSelectors()), spec.GetDelivery(),
		spec.GetPreferredNode(), labelText(spec.GetSelector()), labelText(spec.GetLabels()), s.Source, s.Generation, s.CreatedAt, s.DeclaredAt, s.DeclaredTime, s.dumpServing())
}

func (a *Address) dump(w io.Writer) {
	fmt.Fprintf(w, "address %s pool=%s services=%v reason=%d owner=%q epoch=%d since=%d why=%d prior=%s",
		a.Addr, a.Pool, a.Services, a.Reason, a.Owner, a.Epoch, a.OwnerTime, a.OwnerWhy,
		priorText(a.Prior, a.PriorAt, a.PriorSession, a.PriorEpoch))
	for _, node := range slices.Sorted(maps.Keys(a.Failures)) {
		f := a.Failures[node]
		fmt.Fprintf(w, " failed=%s:%d@%d:%q", node, f.Count, f.Time, f.Reason)
	}
	if a.Conflict != (MAC{}) {
		fmt.Fprintf(w, " conflict=%x@%s", a.Conflict, a.ConflictNode)
	}
	if a.PolicyAt != 0 {
		fmt.Fprintf(w, " policy=%d", a.PolicyAt)
	}
	if a.Flaps != 0 {
		fmt.Fprintf(w, " flaps=%d@%d", a.Flaps, a.FlapTime)
	}
	if a.ConflictKind != 0 {
		fmt.Fprintf(w, " conflictKind=%d:%q", a.ConflictKind, a.ConflictHolder)
	}
	if a.FirstUse {
		fmt.Fprint(w, " firstUse")
	}
	if a.SoftNode != "" {
		fmt.Fprintf(w, " soft=%s/%d", a.SoftNode, a.SoftEpoch)
	}
	if a.OnLink {
		fmt.Fprint(w, " onLink")
	}
	fmt.Fprintln(w)
}

func (n *Node) dump(w io.Writer) {
	var links []string
	for _, l := range n.Links {
		links = append(links, fmt.Sprintf("%s/%x/%t/%v", l.GetName(), l.GetMac(), l.GetUp(), l.GetPrefixes()))
	}
	fmt.Fprintf(w, "node %s session=%d state=%d ended=%d process=%x incarnation=%d macs=%x priorMACs=%x labels=%s links=%v version=%q drained=%d grace=%d taken=%d owned=%d\n",
		n.Name, n.Session, n.SessionState, n.EndedAt, n.Process, n.Incarnation, n.MACs, n.PriorMACs,
		labelText(n.Labels), links, n.Version, n.Drained, n.GraceUntil, n.TakenAt, n.Owned)
}

func priorText(node string, at, session, epoch uint64) string {
	if node == "" {
		return "-"
	}
	return fmt.Sprintf("%s@%d/%d/%d", node, at, session, epoch)
}

func quotaText(q *logv1.Quota) string {
	if q == nil {
		return "-"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(q.GetNamespaces())) {
		parts = append(parts, fmt.Sprintf("%s=%d", k, q.GetNamespaces()[k]))
	}
	return fmt.Sprintf("%d{%s}", q.GetPerNamespace(), strings.Join(parts, ","))
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func allocationText(a *logv1.ServiceAllocation) string {
	if a == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%v/%s/%s", a.GetPriority(), a.GetNamespaces(),
		selectorText(a.GetNamespaceSelectors()), selectorText(a.GetServiceSelectors()))
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func selectorText(sels []*logv1.LabelSelector) string {
	var parts []string
	for _, sel := range sels {
		text := labelText(sel.GetMatchLabels())
		for _, r := range sel.GetMatchExpressions() {
			text += fmt.Sprintf("(%s %s %v)", r.GetKey(), r.GetOperator(), r.GetValues())
		}
		parts = append(parts, text)
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func preferredText(list []*logv1.PreferredNodeSelector) string {
	var parts []string
	for _, p := range list {
		parts = append(parts, fmt.Sprintf("%d*%s", p.GetWeight(), selectorText([]*logv1.LabelSelector{p.GetPreference()})))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func timesText(t LeaseTimes) string {
	return fmt.Sprintf("detection=%s heartbeat=%s settle=%s", t.Detection, t.Heartbeat, t.Settle)
}
