package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
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
			return a.get(ctx, targets, instant{}, nil, false)
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

// problem marks what a reader should not miss.
func (a *app) problem(s string) string { return a.problemOr(s != "", s) }

func (a *app) problemOr(bad bool, s string) string {
	if !bad {
		return s
	}
	return a.colour(red, s)
}
