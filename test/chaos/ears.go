package chaos

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// ears are captures at the nodes' own ports: what each could hear. A node that gets
// power again has a new port, and so a new capture.
type ears struct {
	lan *lab.Switch

	mu       sync.Mutex
	captures map[string][]*lab.Capture // by node
}

func newEars(lan *lab.Switch, nodes []*cluster.Node) (*ears, error) {
	e := &ears{lan: lan, captures: map[string][]*lab.Capture{}}
	var errs []error
	for _, n := range nodes {
		errs = append(errs, e.replug(n))
	}
	return e, errors.Join(errs...)
}

// replug begins a capture at the node's present port and ends that of the former.
func (e *ears) replug(n *cluster.Node) error {
	c, err := e.lan.Capture(n.Name)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, old := range e.captures[n.Name] {
		old.Close()
	}
	e.captures[n.Name] = append(e.captures[n.Name], c)
	return nil
}

func (e *ears) at(node string) []*lab.Capture {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*lab.Capture(nil), e.captures[node]...)
}

// all are the captures of all nodes.
func (e *ears) all() (list []*lab.Capture) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.captures {
		list = append(list, c...)
	}
	return list
}

// heard collects, for each node, the claims of others that its line carried.
func (e *ears) heard(nodes []*cluster.Node, from, to time.Time, addrs []netip.Addr) map[string]map[netip.Addr][]lab.Claim {
	out := map[string]map[netip.Addr][]lab.Claim{}
	for _, n := range nodes {
		own := n.Host.MAC(cluster.LAN)
		var list []lab.Claim
		for _, c := range lab.Claims(from, to, addrs, e.at(n.Name)...) {
			if c.MAC != own {
				list = append(list, c)
			}
		}
		out[n.Name] = byAddr(list)
	}
	return out
}
