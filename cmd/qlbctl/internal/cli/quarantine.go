package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

func (a *app) quarantineCmd() *cobra.Command {
	end := command(&cobra.Command{
		Use:   "end ADDRESS",
		Short: "Let an address be given away again",
		Long: `Let an address be given away again, although a foreign station had it. Whoever gets it
asks the wire before the first use once more: while the station answers the address
returns to quarantine.`,
		Example: `  qlbctl probe 192.0.2.10 && qlbctl quarantine end 192.0.2.10`,
		Args:    args("ADDRESS"),
	}, func(ctx context.Context, args []string) error {
		addr, err := parseAddress(args[0])
		if err != nil {
			return err
		}
		resp, err := call(ctx, a, adminv1.AdminServiceClient.EndQuarantine, &adminv1.EndQuarantineRequest{Address: addr})
		if err != nil {
			return err
		}
		return a.done(changeResult{Object: "quarantine/" + addr, Result: "ended", Revision: resp.GetRevision()}, "quarantine/"+addr+" ended")
	})
	return group(&cobra.Command{Use: "quarantine", Short: "Give back addresses that foreign stations had (see also get quarantine)"}, end)
}

type quarantineStatus struct {
	Pool  string `json:"pool"`
	MAC   string `json:"mac"`
	Node  string `json:"node"`
	Since string `json:"since"`
	Until string `json:"until"`
}

func quarantineReport(q *adminv1.QuarantineStatus) report {
	return newReport("Quarantine", q.GetAddress(), nil, quarantineStatus{
		Pool: q.GetPool(), MAC: words.MAC(q.GetMac()), Node: q.GetNode(),
		Since: moment(q.GetSinceUnixNano()), Until: moment(q.GetUntilUnixNano()),
	})
}

func (a *app) quarantineRows(s *section, list []*adminv1.QuarantineStatus) {
	s.found = len(list)
	s.header = columns("ADDRESS POOL FOREIGN-MAC SEEN-BY SINCE ASKED-AGAIN-IN", "")
	slices.SortStableFunc(list, func(x, y *adminv1.QuarantineStatus) int { return byAddress(x.GetAddress(), y.GetAddress()) })
	for _, q := range list {
		s.add(quarantineReport(q), func(t *table, wide bool) {
			cells(t, wide, []string{
				q.GetAddress(), q.GetPool(), words.MAC(q.GetMac()), q.GetNode(), words.Age(a.env.Now(), q.GetSinceUnixNano()), a.left(q.GetUntilUnixNano()),
			})
		})
	}
}

// left is the time until a moment; "0ms" when that has passed.
func (a *app) left(unixNano int64) string {
	return words.Duration(max(0, time.Unix(0, unixNano).Sub(a.env.Now())))
}

func (a *app) describeQuarantine(w io.Writer, q *adminv1.QuarantineStatus) error {
	var f fields
	f.add("Address", q.GetAddress())
	f.addSome("Pool", q.GetPool())
	f.add("Why", a.problem(fmt.Sprintf("foreign station %s answered for it, seen by %s", words.MAC(q.GetMac()), q.GetNode())))
	f.add("Since", words.Age(a.env.Now(), q.GetSinceUnixNano()))
	f.add("Asked again in", a.left(q.GetUntilUnixNano()))
	return f.write(w)
}
