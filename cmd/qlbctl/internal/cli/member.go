package cli

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

func (a *app) memberCmd() *cobra.Command {
	return group(&cobra.Command{Use: "member", Short: "List, add and remove the group's members, transfer leadership"},
		a.memberListCmd(), a.memberAddCmd(), a.memberRemoveCmd(), a.memberTransferCmd())
}

func (a *app) memberListCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "list",
		Short: "List the members",
		Long:  `List the members: the same as "qlbctl get members".`,
		Example: `  qlbctl member list
  qlbctl member list --stale   # when there is no leader`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		k, err := findKind("members", false)
		if err != nil {
			return err
		}
		return a.get(ctx, []target{{kind: k}}, instant{}, nil, false)
	})
}

func (a *app) memberAddCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "add ID HOST:PORT",
		Short: "Admit a member that is to join",
		Long: `Admit a member under its id and address. It becomes a voter when it has caught up. Start
its quorumlb-node with the same id and with the addresses of the others as --members.`,
		Example: `  qlbctl member add m4 10.0.1.4:7400`,
		Args:    args("ID", "HOST:PORT"),
	}, func(ctx context.Context, args []string) error {
		if _, port, err := net.SplitHostPort(args[1]); err != nil || port == "" {
			return usagef("%q is not HOST:PORT", args[1])
		}
		if _, err := call(ctx, a, adminv1.AdminServiceClient.AddMember, &adminv1.AddMemberRequest{Id: args[0], Address: args[1]}); err != nil {
			return err
		}
		return a.done(changeResult{Object: "member/" + args[0], Result: "added"}, fmt.Sprintf("member/%s added at %s", args[0], args[1]))
	})
}

func (a *app) memberRemoveCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "remove ID",
		Short: "Remove a member for good",
		Long: `Remove a member for good, for example one whose machine will not return. To replace a
lost disk nothing needs to be removed: the member joins again as new.`,
		Example:           `  qlbctl member remove m4`,
		Args:              args("ID"),
		ValidArgsFunction: a.completeNames("members"),
	}, func(ctx context.Context, args []string) error {
		if _, err := call(ctx, a, adminv1.AdminServiceClient.RemoveMember, &adminv1.RemoveMemberRequest{Id: args[0]}); err != nil {
			return err
		}
		return a.done(changeResult{Object: "member/" + args[0], Result: "removed"}, "member/"+args[0]+" removed")
	})
}

func (a *app) memberTransferCmd() *cobra.Command {
	var to string
	cmd := command(&cobra.Command{
		Use:   "transfer-leadership",
		Short: "Have another member lead",
		Long: `Have another member lead: the one that is named, or the most advanced. A member that is
stopped with SIGTERM does this by itself.`,
		Example: `  qlbctl member transfer-leadership
  qlbctl member transfer-leadership --to m2`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		resp, err := call(ctx, a, adminv1.AdminServiceClient.TransferLeadership, &adminv1.TransferLeadershipRequest{To: to})
		if err != nil {
			return err
		}
		return a.done(changeResult{Object: "member/" + resp.GetLeader(), Result: "leads", To: resp.GetLeader()},
			"member/"+words.OrNone(resp.GetLeader())+" leads")
	})
	cmd.Flags().StringVar(&to, "to", "", "member to lead (default: the most advanced one)")
	a.completeFlag(cmd, "to", "members")
	return cmd
}
