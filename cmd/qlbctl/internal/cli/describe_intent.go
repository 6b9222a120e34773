package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

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
	f.add("Resting", number(p.GetResting()))
	f.add("Reserved", number(p.GetReserved()))
	f.add("Foreign", number(p.GetForeign()))
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
	f.add("Labels", words.Labels(namespaceLabels(n.GetNamespace())))
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
	for i, p := range preferences(ad) {
		name := ""
		if i == 0 {
			name = "Prefers"
		}
		f.add(name, p)
	}
	return f.write(w)
}
