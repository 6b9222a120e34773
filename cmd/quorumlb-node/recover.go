package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// newRecoverCommand is the one documented way out of the loss of a majority.
func newRecoverCommand(e env) *cobra.Command {
	var dir, advertise, confirm string
	cmd := &cobra.Command{
		Use:   "recover --data-dir DIR --advertise HOST:PORT --i-have-lost-the-majority NAME",
		Short: "Start a new group from this member's data after the majority was lost for good",
		Long:  recoverHelp,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return recoverGroup(e, dir, advertise, confirm)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", newOptions().DataDir, "`directory` of the member that survives; it must not run")
	cmd.Flags().StringVar(&advertise, "advertise", "", "`host:port` that others will reach this member by")
	cmd.Flags().StringVar(&confirm, "i-have-lost-the-majority", "", "the member's `name`, to confirm")
	return cmd
}

func recoverGroup(e env, dir, advertise, confirm string) (err error) {
	if advertise == "" {
		return errors.New("advertise: must be set")
	}
	log, err := obs.NewLogger(e.stderr, "warn", "")
	if err != nil {
		return err
	}
	store, err := storage.Open(dir, storage.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	id, ok := store.Identity()
	if !ok {
		return fmt.Errorf("%s holds no member's data", dir)
	}
	if confirm != id.Name {
		return fmt.Errorf("this is the data of member %q; confirm with --i-have-lost-the-majority %s", id.Name, id.Name)
	}
	members := []consensus.Member{{ID: id.ID, Address: advertise, Voter: true}}
	if err := consensus.Recover(store, members, log); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "Member %s is now a group of its own. Start it, then start the others with empty data directories.\n", id.Name)
	return err
}
