package service

import (
	"fmt"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// A dry run of 200,000 services fits into one answer; of more, those that are left out
// are counted.
func TestEffectMessages(t *testing.T) {
	addr := []netip.Addr{netip.MustParseAddr("10.20.30.40")}
	var list []decider.Effect
	for i := range 200_000 {
		list = append(list, decider.Effect{
			Service: fsm.KeyOf("default", fmt.Sprintf("service-%06d", i)), Taken: addr, Given: addr,
			Owners: []decider.OwnerEffect{{Addr: addr[0], From: "node-17", Why: "no L2Advertisement selects the pool"}},
		})
	}
	all, left := effectMessages(list, maxEffects)
	if len(all) != len(list) || left != 0 {
		t.Errorf("%d of %d, %d left out", len(all), len(list), left)
	}
	if size := proto.Size(&adminv1.ApplyResponse{Effects: all}); size > maxEffects {
		t.Errorf("%d bytes, want %d at most", size, maxEffects)
	}
	some, left := effectMessages(list, 1000)
	if len(some) == 0 || len(some)+int(left) != len(list) {
		t.Errorf("%d with little room, %d left out", len(some), left)
	}
	if size := proto.Size(&adminv1.DeleteResponse{Effects: some}); size > 1000 {
		t.Errorf("%d bytes, want 1000 at most", size)
	}
}
