package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// pollPause is between two looks at something that is waited for.
const pollPause = 200 * time.Millisecond

// changeResult is what became of one command, for programs.
type changeResult struct {
	Object   string `json:"object"`
	Result   string `json:"result"`
	Revision uint64 `json:"revision,omitempty"`
	Owned    uint32 `json:"owned,omitempty"`
	Soft     uint32 `json:"soft,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
}

func (r changeResult) id() string { return r.Object }

// done prints the result of one command.
func (a *app) done(r changeResult, line string) error {
	return a.printOne(r, func(w io.Writer, _ bool) error {
		_, err := fmt.Fprintln(w, clean(line))
		return err
	})
}

func (a *app) drainCmd() *cobra.Command {
	var wait bool
	var grace time.Duration
	limit := 2 * time.Minute
	var cmd *cobra.Command
	cmd = command(&cobra.Command{
		Use:   "drain NODE",
		Short: "Move everything off a node and keep it off",
		Long: `Move every address off a node, one planned move each, and give it none until undrain.

A planned move loses no datagram and refuses no new connection; established TCP
connections break where the data path keeps per-node state (kube-proxy does).

With --grace they end in peace: new clients go to the new owner at once, and the node
goes on answering the clients that know it, until the grace time is over, or its kernel
tracks no connection to the address any more. Drain again to change the grace time;
without --grace that ends it.

With --wait return when the node owns nothing and answers nobody, so that it can be
switched off.`,
		Example: `  qlbctl drain n1 --wait && ssh n1 poweroff
  qlbctl drain n1 --grace 5m --wait
  qlbctl undrain n1`,
		Args:              args("NODE"),
		ValidArgsFunction: a.completeNames("nodes"),
	}, func(ctx context.Context, args []string) error {
		resp, err := call(ctx, a, adminv1.AdminServiceClient.Drain, &adminv1.DrainRequest{Node: args[0], GraceNanos: int64(grace)})
		if err != nil {
			return err
		}
		r := changeResult{Object: "node/" + args[0], Result: "draining", Revision: resp.GetRevision(), Owned: resp.GetOwned(), Soft: resp.GetSoft()}
		if wait && r.Owned+r.Soft > 0 {
			if !cmd.Flags().Changed("wait-timeout") {
				limit += grace
			}
			if err = a.waitDrained(ctx, args[0], limit); err != nil {
				return err
			}
			r.Owned, r.Soft = 0, 0
		}
		switch {
		case r.Owned == 0 && r.Soft == 0:
			r.Result = "drained"
			return a.done(r, fmt.Sprintf("node/%s drained: it owns nothing", args[0]))
		case r.Owned == 0:
			return a.done(r, fmt.Sprintf("node/%s draining: it still answers old clients of %s", args[0], words.Count(r.Soft, "address")))
		}
		return a.done(r, fmt.Sprintf("node/%s draining: it still owns %s", args[0], words.Count(r.Owned, "address")))
	})
	cmd.Flags().DurationVar(&grace, "grace", 0, "answer the clients that know the node for so long at most (soft drain)")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the node owns nothing")
	cmd.Flags().DurationVar(&limit, "wait-timeout", limit, "how long to wait, beside the grace time; exit code 1 when it is over")
	return cmd
}

// waitDrained looks until the node owns nothing and answers nobody, or the time is over.
func (a *app) waitDrained(ctx context.Context, node string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var owned, soft uint32
	for {
		got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{Kinds: []string{"nodes"}, Name: node})
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil && len(got.GetNodes()) != 1:
			return fmt.Errorf("node/%s does not exist any more", node)
		case err == nil:
			owned, soft = got.GetNodes()[0].GetOwned(), got.GetNodes()[0].GetSoft()
			if owned == 0 && soft == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if owned == 0 && soft > 0 {
				return fmt.Errorf("node/%s still answers old clients of %s after %s: see 'qlbctl describe vip ADDRESS'; 'qlbctl drain %s' ends it now",
					node, words.Count(soft, "address"), limit, node)
			}
			return fmt.Errorf("node/%s still owns %s after %s: see 'qlbctl describe node %s' and, for the reasons, 'qlbctl describe vip ADDRESS'",
				node, words.Count(owned, "address"), limit, node)
		case <-time.After(pollPause):
		}
	}
}

func (a *app) undrainCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "undrain NODE",
		Short: "Let a drained node own addresses again",
		Long: `Let a drained node own addresses again. Nothing moves to it by that, unless an
l2advertisement says placement: Ideal.`,
		Example:           `  qlbctl undrain n1`,
		Args:              args("NODE"),
		ValidArgsFunction: a.completeNames("nodes"),
	}, func(ctx context.Context, args []string) error {
		resp, err := call(ctx, a, adminv1.AdminServiceClient.Undrain, &adminv1.UndrainRequest{Node: args[0]})
		if err != nil {
			return err
		}
		return a.done(changeResult{Object: "node/" + args[0], Result: "undrained", Revision: resp.GetRevision()},
			"node/"+args[0]+" undrained")
	})
}

func (a *app) moveCmd() *cobra.Command {
	var to string
	var wait bool
	limit := 30 * time.Second
	cmd := command(&cobra.Command{
		Use:   "move ADDRESS",
		Short: "Move one address to another node, as planned",
		Long: `Make a planned move of one address: to the node that is named, or to the one that the
group would choose now. The old owner stops answering before the new one begins. The
choice is not in the log: if the leader is lost in between, the group chooses anew.
With --wait return when the address has an owner again.`,
		Example: `  qlbctl move 192.0.2.10
  qlbctl move 192.0.2.10 --to n3 --wait`,
		Args:              args("ADDRESS"),
		ValidArgsFunction: a.completeNames("vips"),
	}, func(ctx context.Context, args []string) error {
		addr, err := parseAddress(args[0])
		if err != nil {
			return err
		}
		resp, err := call(ctx, a, adminv1.AdminServiceClient.Move, &adminv1.MoveRequest{Address: addr, ToNode: to})
		if err != nil {
			return err
		}
		from := resp.GetFromNode()
		if from == "" {
			from = "nobody"
		}
		r := changeResult{Object: "vip/" + addr, Result: "moving", Revision: resp.GetRevision(), From: resp.GetFromNode(), To: resp.GetToNode()}
		if wait && r.From != r.To {
			if r.To, err = a.waitOwned(ctx, addr, resp.GetRevision(), limit); err != nil {
				return err
			}
			r.Result = "moved"
		}
		return a.done(r, fmt.Sprintf("vip/%s %s from %s to %s", addr, r.Result, from, words.OrNone(r.To)))
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the address has its new owner")
	cmd.Flags().DurationVar(&limit, "wait-timeout", limit, "how long to wait; exit code 1 when it is over")
	cmd.Flags().StringVar(&to, "to", "", "node to move to (default: the group chooses)")
	a.completeFlag(cmd, "to", "nodes")
	return cmd
}

// waitOwned looks until an address has an owner that was assigned at or after a
// revision, and names it.
func (a *app) waitOwned(ctx context.Context, addr string, revision uint64, limit time.Duration) (owner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	waiting := ""
	for {
		got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{Kinds: []string{"vips"}, Name: addr})
		switch {
		case err != nil && ctx.Err() == nil:
			return "", err
		case err == nil && len(got.GetVips()) != 1:
			return "", fmt.Errorf("vip/%s does not exist any more", addr)
		case err == nil:
			v := got.GetVips()[0]
			if v.GetOwner() != "" && v.GetEpoch() >= revision {
				return v.GetOwner(), nil
			}
			waiting = v.GetWaiting()
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("vip/%s has no new owner after %s%s: see 'qlbctl describe vip %s'", addr, limit, because(waiting), addr)
		case <-time.After(pollPause):
		}
	}
}

func (a *app) nodeCmd() *cobra.Command {
	forget := command(&cobra.Command{
		Use:   "forget NODE",
		Short: "Remove a node that will not return",
		Long: `Remove a node that will not return from the lists. Only a node without an open session
can be forgotten; one that comes back later is simply new.`,
		Example:           `  qlbctl node forget n7`,
		Args:              args("NODE"),
		ValidArgsFunction: a.completeNames("nodes"),
	}, func(ctx context.Context, args []string) error {
		resp, err := call(ctx, a, adminv1.AdminServiceClient.ForgetNode, &adminv1.ForgetNodeRequest{Node: args[0]})
		if err != nil {
			return err
		}
		return a.done(changeResult{Object: "node/" + args[0], Result: "forgotten", Revision: resp.GetRevision()}, "node/"+args[0]+" forgotten")
	})
	return group(&cobra.Command{Use: "node", Short: "Forget nodes (see also drain, undrain, get nodes)"}, forget)
}
