package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/config"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

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
	if n := spec.GetAddressCount(); n > 1 {
		f.add("Address count", fmt.Sprintf("%d of each family, on distinct nodes", n))
	}
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
		t.row(r.GetPool(), addr, words.Family(r.GetFamily()), words.WhyRefused(r))
	}
	return t.write(w, "  ")
}
