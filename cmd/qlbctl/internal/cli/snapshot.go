package cli

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

const (
	// chunkSize is what one message of a restore carries.
	chunkSize = 256 << 10
	// transferTimeout is for a whole snapshot, unless --timeout says otherwise.
	transferTimeout = 5 * time.Minute
)

func (a *app) snapshotCmd() *cobra.Command {
	return group(&cobra.Command{Use: "snapshot", Short: "Save, inspect and restore backups"},
		a.snapshotSaveCmd(), a.snapshotInspectCmd(), a.snapshotRestoreCmd())
}

// patient gives a transfer more time than a command.
func (a *app) patient(cmd *cobra.Command) {
	if !cmd.Flags().Changed("timeout") {
		a.flags.timeout = transferTimeout
	}
}

// snapshotReport is what a snapshot holds.
type snapshotReport struct {
	File           string `json:"file"`
	ClusterID      string `json:"clusterID"`
	ClusterVersion uint32 `json:"clusterVersion"`
	Format         uint32 `json:"format"`
	Revision       uint64 `json:"revision"`
	Time           string `json:"time"`
	Pools          int    `json:"pools"`
	Advertisements int    `json:"l2advertisements"`
	Services       int    `json:"services"`
	Addresses      int    `json:"addresses"`
	Free           int    `json:"keptAddresses"`
	Nodes          int    `json:"nodes"`
	Namespaces     int    `json:"namespaces"`
	Reservations   int    `json:"reservations"`
}

func newSnapshotReport(file string, h fsm.Header) snapshotReport {
	return snapshotReport{
		File: file, ClusterID: hex.EncodeToString(h.ClusterID[:]), ClusterVersion: h.ClusterVersion, Format: h.Format,
		Revision: h.Revision, Time: moment(h.Time),
		Pools: h.Counts.Pools, Advertisements: h.Counts.Advertisements, Services: h.Counts.Services,
		Addresses: h.Counts.Addresses, Free: h.Counts.Free, Nodes: h.Counts.Nodes, Namespaces: h.Counts.Namespaces, Reservations: h.Counts.Reservations,
	}
}

func (a *app) snapshotSaveCmd() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use:   "save FILE|-",
		Short: "Save the group's state to a file",
		Long: `Save the group's whole state, as of one revision, to a file. The file is checked before it
gets its name, and it replaces an older one as a whole or not at all.

With --at the state of the past is saved: restored, it undoes what was done since.`,
		Example: `  qlbctl snapshot save backup-$(date +%F).qlb
  qlbctl snapshot save --at 03:00 before.qlb && qlbctl snapshot restore before.qlb --dry-run
  qlbctl snapshot save - | ssh vault 'cat > quorumlb.qlb'`,
		Args: args("FILE"),
	}
	cmd.Flags().StringVar(&at, "at", "", "the state as it was at a revision, a time span ago or a time")
	return command(cmd, func(ctx context.Context, args []string) error {
		a.patient(cmd)
		then, err := parseInstant("at", at, a.env.Now())
		if err != nil {
			return err
		}
		req := &adminv1.SnapshotSaveRequest{Stale: a.flags.stale, AtRevision: then.revision, AtUnixNano: then.unixNano}
		if args[0] == "-" {
			return a.download(ctx, req, a.env.Stdout)
		}
		return a.save(ctx, req, args[0])
	})
}

func (a *app) save(ctx context.Context, req *adminv1.SnapshotSaveRequest, name string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	defer f.Close() // in vain when all went well
	if err := a.download(ctx, req, f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	h, err := inspectFile(f.Name())
	if err != nil {
		return fmt.Errorf("what %s sent is not a snapshot: %w", a.member(), err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return a.printOne(newSnapshotReport(name, h), func(w io.Writer, _ bool) error {
		_, err := fmt.Fprintf(w, "saved revision %d to %s: %s, %s\n", h.Revision, name, words.Count(h.Counts.Services, "service"), words.Count(h.Counts.Addresses, "address"))
		return err
	})
}

// download writes the stream of one member. It is not tried again with another
// one once something has been written.
func (a *app) download(ctx context.Context, req *adminv1.SnapshotSaveRequest, w io.Writer) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.flags.timeout)
	defer cancel()
	return c.Stream(ctx, func(ctx context.Context, api adminv1.AdminServiceClient) error {
		stream, err := api.SnapshotSave(ctx, req)
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := w.Write(m.GetChunk()); err != nil {
				return err
			}
		}
	})
}

func inspectFile(name string) (fsm.Header, error) {
	f, err := os.Open(name)
	if err != nil {
		return fsm.Header{}, err
	}
	defer f.Close()
	return fsm.InspectSnapshot(bufio.NewReaderSize(f, 1<<20))
}

func (a *app) snapshotInspectCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "inspect FILE",
		Short: "Check a snapshot and say what it holds, without a group",
		Long: `Read a snapshot to its end, check it, and say what it holds. No member is asked. Ends
with exit code 1 when it is damaged.`,
		Example: `  qlbctl snapshot inspect backup.qlb`,
		Args:    args("FILE"),
	}, func(_ context.Context, args []string) error {
		h, err := inspectFile(args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		r := newSnapshotReport(args[0], h)
		return a.printOne(r, func(w io.Writer, _ bool) error {
			var f fields
			f.add("Group", fmt.Sprintf("%s, cluster version %d", r.ClusterID, r.ClusterVersion))
			f.add("Revision", number(r.Revision))
			f.add("Time", fmt.Sprintf("%s (%s ago)", words.Time(h.Time), words.Age(a.env.Now(), h.Time)))
			f.add("Pools", fmt.Sprint(r.Pools))
			f.add("L2Advertisements", fmt.Sprint(r.Advertisements))
			f.add("Services", fmt.Sprint(r.Services))
			f.add("Addresses", fmt.Sprintf("%d in use, %d used before", r.Addresses, r.Free))
			f.add("Nodes", fmt.Sprint(r.Nodes))
			f.add("Format", fmt.Sprint(r.Format))
			return f.write(w)
		})
	})
}

func (a *app) snapshotRestoreCmd() *cobra.Command {
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Revert the group to what a snapshot holds",
		Long: `Revert what is declared, and which address each service has, to what a snapshot holds.
Services that came later are deleted. It is a change like any other: nodes, sessions and
owners stay as they are, so no address is answered for twice, and the log keeps the way
back. Look first with --dry-run.`,
		Example: `  qlbctl snapshot restore backup.qlb --dry-run
  qlbctl snapshot restore backup.qlb --yes`,
		Args: args("FILE"),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change, and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return command(cmd, func(ctx context.Context, args []string) error {
		a.patient(cmd)
		h, err := inspectFile(args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if !dryRun && !yes {
			if err := a.confirm(fmt.Sprintf("Revert the group to revision %d of %s?", h.Revision, words.Time(h.Time))); err != nil {
				return err
			}
		}
		return a.restore(ctx, args[0], dryRun)
	})
}

// confirm asks a person; a program has to say --yes.
func (a *app) confirm(question string) error {
	if !a.env.Interactive {
		return usagef("this reverts the group: say --yes, or look first with --dry-run")
	}
	fmt.Fprint(a.env.Stderr, question+" [y/N] ")
	answer, err := bufio.NewReader(a.env.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

type restoreResult struct {
	Revision         uint64 `json:"revision,omitempty"`
	FromRevision     uint64 `json:"fromRevision"`
	ServicesChanged  uint32 `json:"servicesChanged"`
	AddressesChanged uint32 `json:"addressesChanged"`
	DryRun           bool   `json:"dryRun"`
}

func (a *app) restore(ctx context.Context, name string, dryRun bool) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	var resp *adminv1.SnapshotRestoreResponse
	err = c.Call(ctx, func(ctx context.Context, api adminv1.AdminServiceClient) error {
		resp, err = upload(ctx, api, name, dryRun)
		return err
	})
	if err != nil {
		return err
	}
	r := restoreResult{resp.GetRevision(), resp.GetFromRevision(), resp.GetServicesChanged(), resp.GetAddressesChanged(), dryRun}
	return a.printOne(r, func(w io.Writer, _ bool) error {
		format := "reverted to revision %d: %s and %s changed\n"
		if dryRun {
			format = "would revert to revision %d: %s and %s would change\n"
		}
		_, err := fmt.Fprintf(w, format, r.FromRevision,
			words.Count(r.ServicesChanged, "service"), words.Count(r.AddressesChanged, "address"))
		return err
	})
}

func upload(ctx context.Context, api adminv1.AdminServiceClient, name string, dryRun bool) (*adminv1.SnapshotRestoreResponse, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stream, err := api.SnapshotRestore(ctx)
	if err != nil {
		return nil, err
	}
	chunk := make([]byte, chunkSize)
	for first := true; ; first = false {
		n, err := io.ReadFull(f, chunk)
		if n > 0 || first {
			// A refusal shows as io.EOF here and as itself in CloseAndRecv.
			if err := stream.Send(&adminv1.SnapshotRestoreRequest{Chunk: chunk[:n], DryRun: first && dryRun}); err != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return stream.CloseAndRecv()
}
