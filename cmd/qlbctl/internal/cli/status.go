package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// statusReport is what `status -o json` gives.
type statusReport struct {
	ClusterID      string     `json:"clusterID"`
	ClusterVersion uint32     `json:"clusterVersion"`
	AnsweredBy     string     `json:"answeredBy"`
	Leader         string     `json:"leader"`
	Term           uint64     `json:"term"`
	Revision       uint64     `json:"revision"`
	HistoryFrom    uint64     `json:"historyFrom"`
	Problems       []string   `json:"problems"`
	Members        []report   `json:"members"`
	Nodes          counts     `json:"nodes"`
	VIPs           counts     `json:"vips"`
	Services       counts     `json:"services"`
	LeaseTimes     leaseTimes `json:"leaseTimes"`
	Retention      string     `json:"retention"`
	// RebalancePerMinute is the pace of the rebalance under way.
	RebalancePerMinute uint32 `json:"rebalancePerMinute,omitempty"`
}

// counts are how many there are and how many of them are as they should be.
type counts struct {
	Total     uint32 `json:"total"`
	Ready     uint32 `json:"ready"`
	Announced uint32 `json:"announced,omitempty"`
}

func (a *app) statusCmd() *cobra.Command {
	return command(&cobra.Command{
		Use:   "status",
		Short: "Say how the group is, problems first",
		Long: `Say how the group is, problems first.

Ends with exit code 1 when there is any problem, so that a script can ask too.
When the group has no leader, "qlbctl status --stale" shows what one member knows.`,
		Example: `  qlbctl status
  qlbctl status --stale --endpoints 10.0.1.2:7400
  qlbctl status -o json | jq .problems`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{Stale: a.flags.stale})
		if err != nil {
			return err
		}
		problems := statusProblems(s)
		if err := a.printOne(newStatusReport(s, problems), func(w io.Writer, wide bool) error {
			return a.writeStatus(w, s, problems, wide)
		}); err != nil {
			return err
		}
		if len(problems) > 0 {
			return errFound
		}
		return nil
	})
}

// statusProblems are what the group says, and that it has no leader if it forgot.
func statusProblems(s *adminv1.StatusResponse) []string {
	problems := s.GetProblems()
	if s.GetLeader() == "" && !strings.Contains(strings.Join(problems, "\n"), "leader") {
		problems = append([]string{"the group has no leader: a majority of members must run and reach each other"}, problems...)
	}
	return problems
}

func newStatusReport(s *adminv1.StatusResponse, problems []string) statusReport {
	r := statusReport{
		ClusterID: hex.EncodeToString(s.GetClusterId()), ClusterVersion: s.GetClusterVersion(), AnsweredBy: s.GetAnsweredBy(),
		Leader: s.GetLeader(), Term: s.GetTerm(), Revision: s.GetRevision(), HistoryFrom: s.GetHistoryFrom(),
		Problems:   list(problems),
		Members:    []report{},
		Nodes:      counts{Total: s.GetNodes(), Ready: s.GetNodesReady()},
		VIPs:       counts{Total: s.GetVips(), Ready: s.GetVipsOwned(), Announced: s.GetVipsAnnounced()},
		Services:   counts{Total: s.GetServices(), Ready: s.GetServices() - min(s.GetServices(), s.GetServicesPending())},
		LeaseTimes: leaseTimesOf(s.GetLeaseTimes()),
		Retention:  words.Setting(time.Duration(s.GetRetentionNanos())),

		RebalancePerMinute: s.GetRebalancePerMinute(),
	}
	for _, m := range s.GetMembers() {
		r.Members = append(r.Members, memberReport(m))
	}
	return r
}

func (a *app) writeStatus(w io.Writer, s *adminv1.StatusResponse, problems []string, wide bool) error {
	if len(problems) == 0 {
		fmt.Fprintln(w, a.colour(green, "No problems."))
	} else {
		fmt.Fprintln(w, a.colour(bold+red, words.Count(len(problems), "problem")+":"))
		for _, p := range problems {
			fmt.Fprintln(w, a.colour(red, "  "+clean(p)))
		}
	}
	fmt.Fprintln(w)
	if err := a.statusFields(s).write(w); err != nil {
		return err
	}
	if len(s.GetMembers()) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var members section
	a.memberRows(&members, s.GetMembers(), false)
	return members.table(wide).write(w, "")
}

func (a *app) statusFields(s *adminv1.StatusResponse) *fields {
	var f fields
	healthy := 0
	for _, m := range s.GetMembers() {
		if memberProblem(m) == "" {
			healthy++
		}
	}
	leader := "none"
	if s.GetLeader() != "" {
		leader = fmt.Sprintf("%s, term %d", s.GetLeader(), s.GetTerm())
	}
	answered := s.GetAnsweredBy()
	if a.flags.stale {
		answered += " (stale: what this member knows)"
	}
	f.add("Members", fmt.Sprintf("%d of %d healthy, leader %s", healthy, len(s.GetMembers()), leader))
	f.add("Nodes", fmt.Sprintf("%d of %d ready", s.GetNodesReady(), s.GetNodes()))
	f.add("Addresses", fmt.Sprintf("%d in use, %d owned, %d announced", s.GetVips(), s.GetVipsOwned(), s.GetVipsAnnounced()))
	f.add("Services", fmt.Sprintf("%d, %d pending", s.GetServices(), s.GetServicesPending()))
	t := leaseTimesOf(s.GetLeaseTimes())
	if n := s.GetRebalancePerMinute(); n > 0 {
		f.add("Rebalance", fmt.Sprintf("under way, at most %d moves per minute", n))
	}
	f.add("Lease times", fmt.Sprintf("detection %s, heartbeat %s, fence %s, settle %s", t.Detection, t.Heartbeat, t.Fence, t.Settle))
	f.add("Retention", words.Setting(time.Duration(s.GetRetentionNanos())))
	f.add("Revision", fmt.Sprintf("%d, history from %d", s.GetRevision(), s.GetHistoryFrom()))
	f.add("Group", fmt.Sprintf("%s, cluster version %d", words.Hex(s.GetClusterId(), 16), s.GetClusterVersion()))
	f.add("Answered by", answered)
	return &f
}
