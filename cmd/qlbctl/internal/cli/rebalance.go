package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// rebalanceResult is what a rebalance is to do, for programs.
type rebalanceResult struct {
	Result    string        `json:"result"`
	Revision  uint64        `json:"revision,omitempty"`
	PerMinute uint32        `json:"perMinute,omitempty"`
	Moves     []balanceMove `json:"moves"`
	// Held are moves that flapping holds back.
	Held []balanceMove `json:"held,omitempty"`
}

type balanceMove struct {
	Address string `json:"address"`
	From    string `json:"from"`
	To      string `json:"to"`
	// HeldUntil is until when flapping holds the move back.
	HeldUntil string `json:"heldUntil,omitempty"`
	until     int64
}

func balanceMovesOf(list []*adminv1.BalanceMove) []balanceMove {
	moves := []balanceMove{}
	for _, m := range list {
		moves = append(moves, balanceMove{m.GetAddress(), m.GetFromNode(), m.GetToNode(), moment(m.GetHeldUntilUnixNano()), m.GetHeldUntilUnixNano()})
	}
	return moves
}

func (r rebalanceResult) id() string { return "group/rebalance" }

func (a *app) rebalanceCmd() *cobra.Command {
	var dryRun, stop, wait bool
	var perMinute uint32
	limit := 10 * time.Minute
	cmd := command(&cobra.Command{
		Use:   "rebalance",
		Short: "Spread the addresses evenly over the nodes, by planned moves",
		Long: `Spread the addresses evenly over the nodes, one planned move after the other.

An address moves if another node would be chosen for it: one that is preferred more,
or one that owns at least two addresses less. Those that were forced to move least
often move first; addresses with placement Ideal stay, and so do those that flapping
holds back: they are listed with the time until which they may not move. The list is
that of the moment; each move is chosen when it is made.

The group goes on by itself, also when its leader changes, until nothing is left to
move or --stop. With --wait return when that is so.`,
		Example: `  qlbctl rebalance --dry-run
  qlbctl rebalance --per-minute 120 --wait
  qlbctl rebalance --stop`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, nil)
	f := cmd.Flags()
	command(cmd, func(ctx context.Context, _ []string) error {
		if f.Changed("per-minute") && (perMinute == 0 || perMinute > fsm.MaxRebalancePerMinute) {
			return usagef("--per-minute must be from 1 to %d, is %d", fsm.MaxRebalancePerMinute, perMinute)
		}
		resp, err := call(ctx, a, adminv1.AdminServiceClient.Rebalance, &adminv1.RebalanceRequest{DryRun: dryRun, PerMinute: perMinute, Stop: stop})
		if err != nil {
			return err
		}
		r := rebalanceResult{Result: "started", Revision: resp.GetRevision(), PerMinute: resp.GetPerMinute(), Moves: balanceMovesOf(resp.GetMoves()), Held: balanceMovesOf(resp.GetHeld())}
		switch {
		case stop:
			r.Result = "stopped"
		case dryRun:
			r.Result = "dry run"
		case len(r.Moves) == 0:
			r.Result = "balanced"
		case wait:
			if err := a.waitBalanced(ctx, limit); err != nil {
				return err
			}
			r.Result = "done"
		}
		return a.printOne(r, func(w io.Writer, _ bool) error { return r.write(w) })
	})
	f.BoolVar(&dryRun, "dry-run", false, "list the moves, and change nothing")
	f.Uint32Var(&perMinute, "per-minute", 0, "most moves per minute, 1 to 600 (default 60)")
	f.BoolVar(&stop, "stop", false, "end a rebalance that is under way")
	f.BoolVar(&wait, "wait", false, "wait until nothing is left to move")
	f.DurationVar(&limit, "wait-timeout", limit, "how long to wait; exit code 1 when it is over")
	return cmd
}

func (r rebalanceResult) write(w io.Writer) error {
	if len(r.Moves) > 0 {
		t := newTable("ADDRESS", "FROM", "TO")
		for _, m := range r.Moves {
			t.row(m.Address, m.From, m.To)
		}
		if err := t.write(w, ""); err != nil {
			return err
		}
	}
	line := "rebalance " + r.Result
	switch r.Result {
	case "started", "dry run":
		line += fmt.Sprintf(": %s, at most %d per minute", words.Count(len(r.Moves), "move"), r.PerMinute)
		if len(r.Moves) == 0 {
			line = "rebalance dry run: nothing to move"
		}
	case "balanced":
		line = "rebalance: nothing to move"
	}
	fmt.Fprintln(w, line)
	if len(r.Held) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nHeld back by flapping:")
	t := newTable("ADDRESS", "FROM", "TO", "UNTIL")
	for _, m := range r.Held {
		t.row(m.Address, m.From, m.To, words.Time(m.until))
	}
	return t.write(w, "")
}

// waitBalanced looks until no rebalance is under way.
func (a *app) waitBalanced(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{})
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil && s.GetRebalancePerMinute() == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the rebalance goes on after %s: see 'qlbctl rebalance --dry-run', or raise the pace with --per-minute", limit)
		case <-time.After(pollPause):
		}
	}
}
