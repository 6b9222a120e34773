package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// declarers are the operators that fight about services; each call goes through another
// member. One more moves addresses and drains nodes.
const declarers = 4

// declarer calls until ctx ends.
func (e *Env) declarer(ctx context.Context, who int, r *rand.Rand) error {
	for {
		if lab.Wait(ctx, time.Duration(20+r.IntN(230))*time.Millisecond) != nil {
			return nil
		}
		n, a := e.someMember(r, who)
		if a == nil {
			continue
		}
		scope := e.history.scope()
		name := fmt.Sprintf("%s%02d", scope, r.IntN(servicesPerRound))
		switch p := r.IntN(100); {
		case p < 45:
			e.history.declare(ctx, who, n, a, name)
		case p < 62:
			e.history.remove(ctx, who, n, a, name)
		case p < 92:
			e.history.read(ctx, who, n, a, name)
		case p < 97:
			_ = e.history.readAll(ctx, who, n, a, scope)
		default:
			e.history.drained(ctx, who, n, a)
		}
	}
}

// someMember picks a member that runs; nil when none does.
func (e *Env) someMember(r *rand.Rand, who int) (*cluster.Node, adminv1.AdminServiceClient) {
	members := e.Members()
	for i := r.IntN(len(members)); ; i++ {
		n := members[i%len(members)]
		if !n.Member().Running() && i < 2*len(members) {
			continue
		}
		a, err := e.history.client(e, who, n)
		if err != nil || !n.Member().Running() {
			return n, nil
		}
		return n, a
	}
}

// mover makes planned moves and drains until ctx ends. It drains one node at a time and
// leaves none drained.
func (e *Env) mover(ctx context.Context, who int, r *rand.Rand) error {
	for {
		if lab.Wait(ctx, time.Duration(1000+r.IntN(3000))*time.Millisecond) != nil {
			return nil
		}
		n, a := e.someMember(r, who)
		if a == nil {
			continue
		}
		node := e.Nodes[r.IntN(len(e.Nodes))].Name
		if r.IntN(3) > 0 {
			e.move(ctx, a, e.Addrs[r.IntN(len(e.Addrs))].String(), node)
			continue
		}
		_ = e.history.drain(ctx, who, n, a, node, Drain)
		_ = lab.Wait(ctx, time.Duration(500+r.IntN(2500))*time.Millisecond)
		e.undrain(who, r, node)
	}
}

func (e *Env) move(ctx context.Context, a adminv1.AdminServiceClient, addr, node string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := a.Move(ctx, &adminv1.MoveRequest{Address: addr, ToNode: node})
	e.moves.Add(1)
	if err != nil {
		e.movesRefused.Add(1)
	}
}

// undrain repeats until it is done, also when the run ends: the rest needs the node. A node
// that stays drained fails the rest.
func (e *Env) undrain(who int, r *rand.Rand, node string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		n, a := e.someMember(r, who)
		if a != nil && e.history.drain(ctx, who, n, a, node, Undrain) == nil {
			return
		}
		_ = lab.Wait(ctx, 200*time.Millisecond)
	}
}
