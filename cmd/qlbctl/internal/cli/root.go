package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const rootLong = `qlbctl asks and tells a QuorumLB group: what addresses there are, which node owns
each of them, what that node really does, and why.

Any member answers. Give one or more of them, and a certificate:

  export QLBCTL_ENDPOINTS=10.0.1.1:7400,10.0.1.2:7400,10.0.1.3:7400
  export QLBCTL_TLS_CA=pki/ca.crt QLBCTL_TLS_CERT=pki/admin-alice.crt QLBCTL_TLS_KEY=pki/admin-alice.key

Where to look first when something is wrong:

  qlbctl status                      # problems first
  qlbctl get vips                    # desired and really announced, side by side
  qlbctl describe vip 192.0.2.10     # why each node may or may not own it
  qlbctl history address 192.0.2.10  # what happened to it, and when
  qlbctl probe 192.0.2.10            # who answers for it on the wire, right now

Exit codes:
  0  done; a check found nothing
  1  refused or failed, or a check found something (status, probe)
  2  the command line, or a flag's value, is wrong
  3  no member could be reached, or none answered in time`

var outputs = []string{"table", "wide", "json", "yaml", "name"}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "qlbctl",
		Short:             "Control a QuorumLB group",
		Long:              rootLong,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError(err)} })
	a.globalFlags(root)
	root.AddGroup(
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "change", Title: "Change:"},
		&cobra.Group{ID: "group", Title: "The group itself:"},
	)
	for id, cmds := range map[string][]*cobra.Command{
		"look":   {a.statusCmd(), a.getCmd(), a.describeCmd(), a.probeCmd(), a.eventsCmd(), a.historyCmd()},
		"change": {a.applyCmd(), a.planCmd(), a.deleteCmd(), a.drainCmd(), a.undrainCmd(), a.moveCmd(), a.rebalanceCmd(), a.quarantineCmd()},
		"group":  {a.memberCmd(), a.nodeCmd(), a.leaseTimesCmd(), a.retentionCmd(), a.snapshotCmd(), a.pkiCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = id
		}
		root.AddCommand(cmds...)
	}
	root.AddCommand(a.versionCmd())
	root.CompletionOptions.DisableNoDescFlag = true
	return root
}

func (a *app) globalFlags(root *cobra.Command) {
	f, get := root.PersistentFlags(), a.env.Getenv
	var endpoints []string
	for _, ep := range strings.Split(get("QLBCTL_ENDPOINTS"), ",") {
		if ep = strings.TrimSpace(ep); ep != "" {
			endpoints = append(endpoints, ep)
		}
	}
	g := &a.flags
	f.StringSliceVar(&g.endpoints, "endpoints", endpoints, "members to ask, host:port,... (env QLBCTL_ENDPOINTS)")
	f.StringVar(&g.ca, "tls-ca", get("QLBCTL_TLS_CA"), "file of the group's CA certificate (env QLBCTL_TLS_CA)")
	f.StringVar(&g.crt, "tls-cert", get("QLBCTL_TLS_CERT"), "file of our certificate, role admin or viewer (env QLBCTL_TLS_CERT)")
	f.StringVar(&g.key, "tls-key", get("QLBCTL_TLS_KEY"), "file of its private key (env QLBCTL_TLS_KEY)")
	f.StringVarP(&g.output, "output", "o", "table", "output: "+strings.Join(outputs, "|"))
	f.BoolVar(&g.stale, "stale", false, "answer from the member's own state, without asking the leader: works without a majority, may be old")
	f.DurationVar(&g.timeout, "timeout", defaultTimeout, "give up after this time")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
}

// flagError says of a time span what one looks like.
func flagError(err error) error {
	var bad *pflag.InvalidValueError
	if errors.As(err, &bad) && bad.GetFlag().Value.Type() == "duration" {
		return fmt.Errorf("--%s must be a time span with a unit, such as 500ms, 30s or 5m, is %q", bad.GetFlag().Name, bad.GetValue())
	}
	return err
}

func (a *app) checkFlags() error {
	if !slices.Contains(outputs, a.flags.output) {
		return usagef("--output must be one of %s, is %q", strings.Join(outputs, ", "), a.flags.output)
	}
	if a.flags.timeout <= 0 {
		return usagef("--timeout must be more than 0, is %s", a.flags.timeout)
	}
	return nil
}
