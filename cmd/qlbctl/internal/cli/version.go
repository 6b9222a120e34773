package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/internal/version"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

type versionReport struct {
	Client versionOf  `json:"client"`
	Server *versionOf `json:"server,omitempty"`
}

type versionOf struct {
	Version           string `json:"version"`
	GoVersion         string `json:"goVersion"`
	MaxClusterVersion uint32 `json:"maxClusterVersion,omitempty"`
}

func (a *app) versionCmd() *cobra.Command {
	var clientOnly bool
	cmd := command(&cobra.Command{
		Use:   "version",
		Short: "Print the versions of qlbctl and of the member that answers",
		Example: `  qlbctl version
  qlbctl version --client`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		r := versionReport{Client: versionOf{Version: version.String(), GoVersion: version.Go()}}
		var asked error
		if !clientOnly {
			var resp *adminv1.VersionResponse
			if resp, asked = call(ctx, a, adminv1.AdminServiceClient.Version, &adminv1.VersionRequest{}); asked == nil {
				r.Server = &versionOf{resp.GetVersion(), resp.GetGoVersion(), resp.GetMaxClusterVersion()}
			}
		}
		// The client's own version is worth printing when nobody answers, too.
		if err := a.printOne(r, func(w io.Writer, _ bool) error {
			fmt.Fprintf(w, "Client: %s (%s)\n", r.Client.Version, r.Client.GoVersion)
			if r.Server != nil {
				fmt.Fprintf(w, "Server: %s (%s) at %s, cluster versions up to %d\n", r.Server.Version, r.Server.GoVersion, a.member(), r.Server.MaxClusterVersion)
			}
			return nil
		}); err != nil {
			return err
		}
		return asked
	})
	cmd.Flags().BoolVar(&clientOnly, "client", false, "ask no member")
	return cmd
}
