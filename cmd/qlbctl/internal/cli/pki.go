package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/internal/pki"
)

func (a *app) pkiCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "pki",
		Short: "Make the CA and the certificates of members, speakers and operators",
		Long: `Make the CA and the certificates that members, speakers and operators prove themselves
with. All of it happens in files; no member is asked.`,
		Example: `  qlbctl pki init --dir pki
  qlbctl pki issue member/m1 --dir pki --san 10.0.1.1
  qlbctl pki issue speaker/n1 --dir pki
  qlbctl pki issue admin/alice --dir pki`,
	}, a.pkiInitCmd(), a.pkiIssueCmd())
}

func (a *app) pkiInitCmd() *cobra.Command {
	dir := "pki"
	cmd := command(&cobra.Command{
		Use:   "init",
		Short: "Make a CA",
		Long: `Make a CA: ca.crt, which everybody needs, and ca.key, which nobody but this command's
user should ever read. A CA that exists is not replaced.`,
		Example:           `  qlbctl pki init --dir pki`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(context.Context, []string) error {
		if err := pki.Init(dir); err != nil {
			if errors.Is(err, pki.ErrExists) {
				return fmt.Errorf("%w: everything that the old one issued would stop working; remove its files first if that is meant", err)
			}
			return err
		}
		r := changeResult{Object: filepath.Join(dir, pki.CACertFile), Result: "created"}
		return a.done(r, fmt.Sprintf("made a CA, valid for %s: %s; keep %s secret", words.Duration(pki.CAValidity), r.Object, filepath.Join(dir, pki.CAKeyFile)))
	})
	cmd.Flags().StringVar(&dir, "dir", dir, "directory of the CA")
	return cmd
}

type issuedFiles struct {
	Role string `json:"role"`
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

func (a *app) pkiIssueCmd() *cobra.Command {
	dir, out, validity := "pki", "", ""
	var sans []string
	cmd := command(&cobra.Command{
		Use:   "issue ROLE/NAME",
		Short: "Issue a certificate for a role",
		Long: `Issue a certificate and its key, signed by the CA in --dir, and write them there
or to --out.

Roles:
  member/ID      a quorumlb-node
  speaker/NODE   the quorumlb-speaker of that node
  admin/NAME     an operator who may do everything
  viewer/NAME    an operator who may look

The role is what counts, wherever the connection comes from; --san is for other tools.
A certificate that is issued again replaces its files, and running daemons take it
within a second.`,
		Example: `  qlbctl pki issue member/m1 --san 10.0.1.1 --san m1.example.net
  qlbctl pki issue speaker/n1 --out n1/tls    # n1/tls.crt, n1/tls.key
  qlbctl pki issue viewer/dashboard --validity 90d`,
		Args:              args("ROLE/NAME"),
		ValidArgsFunction: cobra.FixedCompletions([]string{"member/", "speaker/", "admin/", "viewer/"}, noFiles|cobra.ShellCompDirectiveNoSpace),
	}, func(_ context.Context, args []string) error {
		role, err := pki.ParseRole(args[0])
		if err != nil {
			return usageError{err}
		}
		d, err := parseSpan(validity)
		if err != nil || d <= 0 {
			return usagef("--validity %q is not a time span such as 90d or 8760h", validity)
		}
		return a.issue(dir, out, role, sans, d)
	})
	f := cmd.Flags()
	f.StringVar(&dir, "dir", dir, "directory of the CA")
	f.StringVar(&out, "out", "", "path of the files to write, without .crt and .key (default DIR/ROLE-NAME)")
	f.StringSliceVar(&sans, "san", nil, "IP address or DNS name to put in; may be given several times")
	f.StringVar(&validity, "validity", "365d", "how long it is valid")
	return cmd
}

func (a *app) issue(dir, out string, role pki.Role, sans []string, validity time.Duration) error {
	var files pki.Files
	var err error
	if out == "" {
		files, err = pki.Issue(dir, role, sans, validity)
	} else {
		files, err = pki.IssueAs(dir, role, sans, validity, out)
	}
	if err != nil {
		return err
	}
	return a.printOne(issuedFiles{role.String(), files.CA, files.Cert, files.Key}, func(w io.Writer, _ bool) error {
		_, err := fmt.Fprintf(w, "issued %s for %s: %s %s\n", role, words.Duration(validity), files.Cert, files.Key)
		return err
	})
}
