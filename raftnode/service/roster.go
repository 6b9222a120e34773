package service

import (
	"context"
	"slices"
	"sync"
	"time"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// rosterInterval is how often the group's configuration is looked at. It
// changes when an operator adds or removes a member.
const rosterInterval = time.Second

// roster is the member list that speakers are told.
type roster struct {
	membership Membership
	group      Group

	mu      sync.Mutex
	members []*speakerv1.MemberAddress
	changed chan struct{} // closed and replaced by every change
}

func newRoster(m Membership, g Group) *roster {
	return &roster{membership: m, group: g, changed: make(chan struct{})}
}

// run follows the configuration until ctx is cancelled.
func (r *roster) run(ctx context.Context) error {
	tick := time.NewTicker(rosterInterval)
	defer tick.Stop()
	for {
		leadership := r.group.Leadership()
		r.refresh()
		select {
		case <-ctx.Done():
			return nil
		case <-leadership.Changed:
		case <-tick.C:
		}
	}
}

func (r *roster) refresh() {
	var members []*speakerv1.MemberAddress
	for _, m := range r.membership.Members() {
		members = append(members, &speakerv1.MemberAddress{Id: m.ID, Address: m.Address})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	same := slices.EqualFunc(members, r.members, func(a, b *speakerv1.MemberAddress) bool {
		return a.GetId() == b.GetId() && a.GetAddress() == b.GetAddress()
	})
	if !same && len(members) > 0 {
		r.members = members
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// get gives the list, empty while none is known, and a channel that closes when
// it changes.
func (r *roster) get() ([]*speakerv1.MemberAddress, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members, r.changed
}
