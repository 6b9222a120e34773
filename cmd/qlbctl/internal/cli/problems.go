package cli

import (
	"fmt"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// vipProblems says where what is announced differs from what is desired; nil
// when it does not.
func vipProblems(v *adminv1.VipStatus) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	switch {
	case v.GetOwner() == "" && v.GetWaiting() != "":
		add("nobody owns it: %s", v.GetWaiting())
	case v.GetOwner() == "":
		add("nobody owns it")
	case v.GetWaiting() != "":
		add("%s waits: %s", v.GetOwner(), v.GetWaiting())
	}
	ownerReports := false
	for _, a := range v.GetAnnounced() {
		s := a.GetStatus()
		if a.GetNode() != v.GetOwner() {
			if words.Answering(s.GetAnnounced()) {
				add("%s answers too (%s)", a.GetNode(), words.Announced(s.GetAnnounced()))
			}
			continue
		}
		if s.GetEpoch() != v.GetEpoch() {
			continue // what it says is of an earlier time as owner
		}
		ownerReports = true
		if !words.Answering(s.GetAnnounced()) {
			add("%s does not answer (%s)%s", a.GetNode(), words.Announced(s.GetAnnounced()), because(s.GetReason()))
		} else if s.GetAnnounced() == speakerv1.Announced_ANNOUNCED_UNCONFIRMED {
			add("%s answers without confirmation: it does not reach the group%s", a.GetNode(), because(s.GetReason()))
		}
	}
	if v.GetOwner() != "" && !ownerReports && v.GetWaiting() == "" {
		add("%s has not reported that it announces it", v.GetOwner())
	}
	switch {
	case v.GetConflict() != "":
		add("%s (%s)", v.GetConflict(), words.MAC(v.GetConflictMac()))
	case len(v.GetConflictMac()) > 0:
		add("foreign station %s claims it", words.MAC(v.GetConflictMac()))
	}
	return problems
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// nodeProblem says what is wrong with a node, if anything.
func nodeProblem(n *adminv1.NodeStatus) string {
	switch n.GetState() {
	case "Ready", "Closed":
		return ""
	case "Silent":
		return "no member hears it"
	case "Expired":
		return "taken for dead"
	case "Drained":
		return "drained " + words.DrainReason(n.GetDrainReason())
	}
	return n.GetState()
}

// memberProblem says what is wrong with a member, if anything.
func memberProblem(m *adminv1.MemberStatus) string {
	switch {
	case m.GetProblem() != "":
		return m.GetProblem()
	case !m.GetHealthy():
		return "cannot be reached"
	}
	return ""
}
