package service

import (
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// conflictKinds are what the question before the first use can find.
var conflictKinds = map[speakerv1.FirstUse]logv1.ConflictKind{
	speakerv1.FirstUse_FIRST_USE_FOREIGN: logv1.ConflictKind_CONFLICT_KIND_FOREIGN,
	speakerv1.FirstUse_FIRST_USE_PROXY:   logv1.ConflictKind_CONFLICT_KIND_PROXY,
	speakerv1.FirstUse_FIRST_USE_KERNEL:  logv1.ConflictKind_CONFLICT_KIND_KERNEL,
}

// conflictDifferences lists the commands about other stations that have an
// address. Only the owner's word counts: a former owner that yields to its successor has
// met no conflict. A claim that is heard now outweighs what was found before the
// first use; that in turn is over when the node says so, and not when a
// restarted speaker has nothing to say of it.
func conflictDifferences(s *fsm.State, rec *fsm.Address, node string, st *speakerv1.VipStatus, current bool) []decider.Command {
	seen := &decider.ConflictObserved{Node: node, Address: rec.Addr, MAC: macOf(st.GetForeignMac())}
	found := macOf(st.GetFirstUseMac())
	if kind := conflictKinds[st.GetFirstUse()]; kind != 0 && (seen.MAC == (fsm.MAC{}) || seen.MAC == found) {
		seen.MAC, seen.Kind, seen.Holder = found, kind, st.GetFirstUseNode()
		if holder := holderOf(s, seen.MAC); holder != "" {
			seen.Kind, seen.Holder = logv1.ConflictKind_CONFLICT_KIND_KERNEL, holder
		}
	}
	if seen.MAC != (fsm.MAC{}) {
		if current && (rec.Conflict != seen.MAC || rec.ConflictNode != node || rec.ConflictKind != seen.Kind || rec.ConflictHolder != seen.Holder) {
			return []decider.Command{seen}
		}
		return nil
	}
	stays := rec.ConflictKind != logv1.ConflictKind_CONFLICT_KIND_UNSPECIFIED && current &&
		st.GetFirstUse() != speakerv1.FirstUse_FIRST_USE_CLEAR
	if rec.Conflict != (fsm.MAC{}) && rec.ConflictNode == node && !stays {
		return []decider.Command{&decider.ConflictCleared{Node: node, Address: rec.Addr}}
	}
	return nil
}

func macOf(raw []byte) fsm.MAC {
	if len(raw) != len(fsm.MAC{}) {
		return fsm.MAC{}
	}
	return fsm.MAC(raw)
}

// holderOf names the node of the group that has the MAC; "" for a foreign station.
// The speaker that heard it may not know yet of a node that has just come.
func holderOf(s *fsm.State, mac fsm.MAC) string {
	for name, n := range s.Nodes {
		if slices.Contains(watch.MACs(n), mac) {
			return name
		}
	}
	return ""
}

// conflictText says what is wrong about a conflict, and what an operator can do.
func conflictText(rec *fsm.Address) string {
	switch rec.ConflictKind {
	case logv1.ConflictKind_CONFLICT_KIND_FOREIGN:
		return "a foreign station answers for it too; take the address from one of the two"
	case logv1.ConflictKind_CONFLICT_KIND_PROXY:
		return "a router answers for any address there (proxy ARP); clients may reach it instead: switch proxy ARP off, or take the pool out of it"
	case logv1.ConflictKind_CONFLICT_KIND_KERNEL:
		return "KernelAnswers{" + rec.ConflictHolder + "}: the kernel of node " + rec.ConflictHolder +
			" answers for it; remove the address from its interfaces, or set strictARP for kube-proxy in IPVS mode"
	}
	return ""
}
