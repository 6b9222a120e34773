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
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// leaseProfiles are named lease times.
var leaseProfiles = map[string]fsm.LeaseTimes{
	"default": fsm.DefaultLeaseTimes,
	"fast":    {Detection: 250 * time.Millisecond, Heartbeat: 50 * time.Millisecond, Settle: fsm.DefaultLeaseTimes.Settle},
	"patient": {Detection: 3 * time.Second, Heartbeat: 600 * time.Millisecond, Settle: fsm.DefaultLeaseTimes.Settle},
}

// fence is F for a detection time D.
func fence(detection time.Duration) time.Duration {
	return fsm.LeaseTimes{Detection: detection}.Fence()
}

func (a *app) leaseTimesCmd() *cobra.Command {
	return group(&cobra.Command{Use: "lease-times", Short: "Show or set how fast a dead node is noticed"},
		a.leaseTimesGetCmd(), a.leaseTimesSetCmd())
}

func (a *app) leaseTimesGetCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "get",
		Short: "Show the lease times",
		Long: `Show the lease times:
  detection  silence after which a node is taken for dead and replaced
  heartbeat  interval between heartbeats of a node
  fence      how long an owner may rely on one ack: max(2 x detection, 1.5s)
  settle     wait after most nodes fell silent at once, before anybody is replaced`,
		Example:           `  qlbctl lease-times get`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{Stale: a.flags.stale})
		if err != nil {
			return err
		}
		t := leaseTimesOf(s.GetLeaseTimes())
		return a.printOne(t, func(w io.Writer, _ bool) error {
			var f fields
			f.add("Detection", t.Detection)
			f.add("Heartbeat", t.Heartbeat)
			f.add("Fence", t.Fence)
			f.add("Settle", t.Settle)
			return f.write(w)
		})
	})
}

func (a *app) leaseTimesSetCmd() *cobra.Command {
	var profile string
	var given fsm.LeaseTimes
	cmd := command(&cobra.Command{
		Use:   "set [--profile NAME] [--detection D] [--heartbeat H] [--settle S]",
		Short: "Set the lease times, while the group runs",
		Long: `Set the lease times, while the group runs. What is not given stays as it is; a detection
time without a heartbeat gets a fifth of itself.

Profiles: default 750ms/150ms, fast 250ms/50ms, patient 3s/600ms (detection/heartbeat).
Short times find a dead node sooner, and more often take a slow one for dead. Such a
false alarm costs no datagram, since the node that lost the address still forwards.`,
		Example: `  qlbctl lease-times set --profile fast
  qlbctl lease-times set --detection 1s --settle 20s`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, nil)
	f := cmd.Flags()
	f.StringVar(&profile, "profile", "", "default, fast or patient")
	f.DurationVar(&given.Detection, "detection", 0, "100ms to 60s")
	f.DurationVar(&given.Heartbeat, "heartbeat", 0, "10ms to a third of detection (default: a fifth of it)")
	f.DurationVar(&given.Settle, "settle", 0, "0 to 10m")
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions([]string{"default", "fast", "patient"}, cobra.ShellCompDirectiveNoFileComp))
	return command(cmd, func(ctx context.Context, _ []string) error {
		known, ok := leaseProfiles[profile]
		switch {
		case profile != "" && !ok:
			return usagef("--profile must be default, fast or patient, is %q", profile)
		case profile == "" && !f.Changed("detection") && !f.Changed("heartbeat") && !f.Changed("settle"):
			return usagef("nothing to set: give --profile, --detection, --heartbeat or --settle")
		case profile == "":
			s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{})
			if err != nil {
				return err
			}
			known = fsm.LeaseTimes{
				Detection: time.Duration(s.GetLeaseTimes().GetDetectionNanos()),
				Heartbeat: time.Duration(s.GetLeaseTimes().GetHeartbeatNanos()),
				Settle:    time.Duration(s.GetLeaseTimes().GetSettleNanos()),
			}
		}
		if f.Changed("detection") {
			known.Detection, known.Heartbeat = given.Detection, given.Detection/5
		}
		if f.Changed("heartbeat") {
			known.Heartbeat = given.Heartbeat
		}
		if f.Changed("settle") {
			known.Settle = given.Settle
		}
		return a.setLeaseTimes(ctx, known)
	})
}

func (a *app) setLeaseTimes(ctx context.Context, t fsm.LeaseTimes) error {
	times := &logv1.LeaseTimes{DetectionNanos: int64(t.Detection), HeartbeatNanos: int64(t.Heartbeat), SettleNanos: int64(t.Settle)}
	resp, err := call(ctx, a, adminv1.AdminServiceClient.SetLeaseTimes, &adminv1.SetLeaseTimesRequest{Times: times})
	if err != nil {
		return err
	}
	s := leaseTimesOf(times)
	return a.done(changeResult{Object: "lease-times", Result: "set", Revision: resp.GetRevision()},
		fmt.Sprintf("lease-times set: detection %s, heartbeat %s, fence %s, settle %s", s.Detection, s.Heartbeat, s.Fence, s.Settle))
}

func (a *app) retentionCmd() *cobra.Command {
	get := command(&cobra.Command{
		Use:               "get",
		Short:             "Show the retention time",
		Example:           `  qlbctl retention get`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{Stale: a.flags.stale})
		if err != nil {
			return err
		}
		text := words.Setting(time.Duration(s.GetRetentionNanos()))
		return a.printOne(struct {
			Retention string `json:"retention"`
		}{text}, func(w io.Writer, _ bool) error {
			_, err := fmt.Fprintln(w, text)
			return err
		})
	})
	set := command(&cobra.Command{
		Use:               "set DURATION",
		Short:             "Set the retention time",
		Example:           "  qlbctl retention set 48h\n  qlbctl retention set 7d",
		Args:              args("DURATION"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, args []string) error {
		d, err := parseSpan(args[0])
		if err != nil || d < 0 {
			return usagef("%q is not a time span such as 24h or 7d", args[0])
		}
		resp, err := call(ctx, a, adminv1.AdminServiceClient.SetRetention, &adminv1.SetRetentionRequest{RetentionNanos: int64(d)})
		if err != nil {
			return err
		}
		return a.done(changeResult{Object: "retention", Result: "set", Revision: resp.GetRevision()}, "retention set to "+words.Setting(d))
	})
	return group(&cobra.Command{
		Use:   "retention",
		Short: "Show or set how long a deleted service's address is kept for its name",
	}, get, set)
}
