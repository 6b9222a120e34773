package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// completionTimeout is what a person waits for after pressing Tab.
const completionTimeout = 2 * time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// names asks the group for the names of a kind; none when it cannot be asked.
func (a *app) names(ctx context.Context, plural string) []string {
	a.flags.timeout = min(a.flags.timeout, completionTimeout)
	if ctx == nil {
		ctx = context.Background()
	}
	got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{Kinds: []string{plural}, Stale: true})
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range got.GetPools() {
		out = append(out, p.GetPool().GetName())
	}
	for _, ad := range got.GetL2Advertisements() {
		out = append(out, ad.GetName())
	}
	for _, s := range got.GetServices() {
		out = append(out, s.GetService().GetNamespace()+"/"+s.GetService().GetName())
	}
	for _, n := range got.GetNamespaces() {
		out = append(out, n.GetNamespace().GetName())
	}
	for _, r := range got.GetReservations() {
		out = append(out, r.GetReservation().GetName())
	}
	for _, v := range got.GetVips() {
		out = append(out, v.GetAddress())
	}
	for _, n := range got.GetNodes() {
		out = append(out, n.GetName())
	}
	for _, m := range got.GetMembers() {
		out = append(out, m.GetId())
	}
	return out
}

// completeNames completes one argument with the names of a kind.
func (a *app) completeNames(plural string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 {
			return nil, noFiles
		}
		return withPrefix(a.names(cmd.Context(), plural), toComplete), noFiles
	}
}

// completeFlag completes a flag's value with the names of a kind.
func (a *app) completeFlag(cmd *cobra.Command, flag, plural string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		return withPrefix(a.names(cmd.Context(), plural), toComplete), noFiles
	})
}

// completeTargets completes a kind, and after it names of that kind.
func (a *app) completeTargets(declaredOnly bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(given) == 0 {
			return withPrefix(kindNames(declaredOnly), toComplete), noFiles
		}
		k, err := findKind(given[0], declaredOnly)
		if err != nil {
			return nil, noFiles
		}
		return withPrefix(a.names(cmd.Context(), k.plural), toComplete), noFiles
	}
}

func withPrefix(list []string, prefix string) []string {
	var out []string
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out
}
