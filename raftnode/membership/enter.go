package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// found waits until the group is there. The founder makes it once every other
// member has noted its own id.
func (m *Membership) found(ctx context.Context, node *consensus.Node) error {
	founder := len(m.names) > 0 && m.names[0] == m.cfg.Name
	reported := ""
	for !node.HasState() {
		why := "the founder, " + m.names[0]
		got := m.askAll(ctx)
		ready, lacks, err := m.mayBootstrap(got)
		switch {
		case err != nil && founder:
			return err
		case founder && ready:
			if err := m.bootstrap(ctx, node); err != nil {
				return err
			}
			continue
		case founder:
			why = lacks
		}
		if why != reported {
			reported = why
			m.log.Info("waiting for the cluster to be founded", "for", why)
		}
		if err := m.pause(ctx, m.cfg.Interval); err != nil {
			return err
		}
	}
	return nil
}

// mayBootstrap tells whether every other member has noted its id and done
// nothing else, or what is missing.
func (m *Membership) mayBootstrap(got answers) (ready bool, lacks string, err error) {
	for _, name := range m.names {
		if name == m.cfg.Name {
			continue
		}
		h := got[name]
		if len(h.GetClusterId()) > 0 {
			return false, "", fmt.Errorf("%w: %s belongs to cluster %x", ErrFoundedElsewhere, name, h.GetClusterId())
		}
		if why := m.unfit(name, h); why != "" {
			return false, why, nil
		}
		if h.GetId() != name {
			return false, name + " to note its id", nil
		}
	}
	return true, "", nil
}

func (m *Membership) bootstrap(ctx context.Context, node *consensus.Node) error {
	group := make([]consensus.Member, 0, len(m.names))
	for _, name := range m.names {
		address := m.cfg.Members[name]
		if name == m.cfg.Name {
			address = m.cfg.Advertise
		}
		group = append(group, consensus.Member{ID: name, Name: name, Address: address, Voter: true})
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := node.Bootstrap(ctx, group); err != nil {
		return err
	}
	m.log.Info("cluster founded", "members", m.names)
	return nil
}

// join asks to be taken in until the leader says that it is.
func (m *Membership) join(ctx context.Context, node *consensus.Node) error {
	reported := ""
	for !m.cfg.Store.Admitted() {
		err := m.ask(ctx, node)
		if isFinal(err) {
			return err
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			m.log.Warn("not taken in yet", "error", err)
		}
		if m.cfg.Store.Admitted() {
			break
		}
		if err := m.pause(ctx, m.cfg.Interval); err != nil {
			return err
		}
	}
	return nil
}

// ask tells the leader, by way of any member, who this member is and where. An
// error that is final says that it is not wanted.
func (m *Membership) ask(ctx context.Context, node *consensus.Node) error {
	req := &memberv1.JoinRequest{
		Id: node.ID(), Name: m.cfg.Name, Address: m.cfg.Advertise, MaxClusterVersion: m.cfg.MaxClusterVersion,
	}
	// With the cluster's id it says that it has been taken in before. To have the
	// group's log is not enough: the entry that took it in may have been lost.
	if id, ok := m.cfg.Store.ClusterID(); ok && m.cfg.Store.Admitted() {
		req.ClusterId = id[:]
	}
	if node.Leadership().Leader {
		_, err := m.Join(ctx, req)
		return explain(err)
	}
	addresses := m.addresses(node)
	if len(addresses) == 0 {
		return errors.New("no other member is known")
	}
	var errs []error
	for _, address := range addresses {
		resp, err := m.askOne(ctx, address, req)
		if err == nil {
			if err := m.cfg.Store.SetClusterID([16]byte(resp.GetClusterId())); err != nil {
				return err
			}
			return m.cfg.Store.SetAdmitted()
		}
		if isFinal(err) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return errors.Join(errs...)
}

func (m *Membership) askOne(ctx context.Context, address string, req *memberv1.JoinRequest) (*memberv1.JoinResponse, error) {
	client, err := m.cfg.Dial(address)
	if err != nil {
		return nil, err
	}
	// A change of the configuration takes several commits.
	ctx, cancel := context.WithTimeout(ctx, 10*m.cfg.CallTimeout)
	defer cancel()
	resp, err := client.Join(ctx, req)
	if err != nil {
		return nil, explain(err)
	}
	if len(resp.GetClusterId()) != 16 {
		return nil, fmt.Errorf("answered with a cluster id of %d bytes", len(resp.GetClusterId()))
	}
	return resp, nil
}

// addresses are where other members may be: those of the list and those of the
// group as this member knows it, the leader's first.
func (m *Membership) addresses(node *consensus.Node) []string {
	var out []string
	if l := node.Leadership(); l.Address != "" && l.ID != node.ID() {
		out = append(out, l.Address)
	}
	for _, other := range node.Members() {
		if other.ID != node.ID() {
			out = append(out, other.Address)
		}
	}
	list := m.others()
	for _, name := range slices.Sorted(maps.Keys(list)) {
		out = append(out, list[name])
	}
	var unique []string
	for _, a := range out {
		if a != m.cfg.Advertise && !slices.Contains(unique, a) {
			unique = append(unique, a)
		}
	}
	return unique
}

// explain turns the leader's refusal into an error of this package.
func explain(err error) error {
	for _, d := range status.Convert(err).Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != errorDomain {
			continue
		}
		switch info.GetReason() {
		case reasonRemoved:
			return fmt.Errorf("%w: %w", ErrRemoved, err)
		case reasonOtherCluster:
			return fmt.Errorf("%w: %w", storage.ErrOtherCluster, err)
		}
	}
	return err
}
