package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/config"
	"github.com/quorumlb/quorumlb/internal/pki"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
)

// maxMessage is what qlbctl allows, too: a list of every address of a large group.
const maxMessage = 64 << 20

// AdminAt is the admin service of one member, over the management network, with
// the operator's certificate.
func (c *Cluster) AdminAt(n *Node) (adminv1.AdminServiceClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, ok := c.conns[n.Name]; ok {
		return adminv1.NewAdminServiceClient(conn), nil
	}
	conn, err := c.DialAs(n, c.files)
	if err != nil {
		return nil, err
	}
	c.conns[n.Name] = conn
	return adminv1.NewAdminServiceClient(conn), nil
}

// DialAs connects the admin host to a member with any identity.
func (c *Cluster) DialAs(n *Node, files pki.Files, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	id, err := pki.NewReloader(files, c.opts.Lab.Log)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+n.MemberAddr(), append(opts,
		grpc.WithTransportCredentials(credentials.NewTLS(id.ClientTLS(pki.KindMember, "h2"))),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return c.Admin.Dial(ctx, "tcp", addr)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))...)
}

// Do calls fn with the admin service of one member after the other until one
// answers, for at most 10 s. Only "unavailable" and a deadline lead to another try.
func (c *Cluster) Do(ctx context.Context, fn func(context.Context, adminv1.AdminServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		for _, n := range c.Members() {
			if !n.Member().Running() {
				continue
			}
			client, err := c.AdminAt(n)
			if err != nil {
				return err
			}
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			err = fn(try, client)
			cancel()
			if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
				return err
			}
			last = fmt.Errorf("%s: %w", n.MemberName, err)
		}
		if err := lab.Wait(ctx, 20*time.Millisecond); err != nil {
			break
		}
	}
	return fmt.Errorf("no member answers: %w", last)
}

// Apply declares the documents (YAML, as for qlbctl apply).
func (c *Cluster) Apply(ctx context.Context, documents string) (resp *adminv1.ApplyResponse, err error) {
	docs, err := config.Parse("lab.yaml", strings.NewReader(documents))
	if err != nil {
		return nil, err
	}
	req := &adminv1.ApplyRequest{}
	for _, d := range docs {
		req.Resources = append(req.Resources, d.Resource)
	}
	err = c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) (err error) {
		resp, err = a.Apply(ctx, req)
		return err
	})
	return resp, err
}

// Get reads kinds of things; stale reads any member's own state.
func (c *Cluster) Get(ctx context.Context, stale bool, kinds ...string) (resp *adminv1.GetResponse, err error) {
	err = c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) (err error) {
		resp, err = a.Get(ctx, &adminv1.GetRequest{Kinds: kinds, Stale: stale})
		return err
	})
	return resp, err
}

// VIPs are all addresses with what the log and the speakers say.
func (c *Cluster) VIPs(ctx context.Context) ([]*adminv1.VipStatus, error) {
	resp, err := c.Get(ctx, false, "vips")
	return resp.GetVips(), err
}

// Owners maps each address to its owner by the log.
func (c *Cluster) Owners(ctx context.Context) (map[string]string, error) {
	vips, err := c.VIPs(ctx)
	owners := map[string]string{}
	for _, v := range vips {
		owners[v.GetAddress()] = v.GetOwner()
	}
	return owners, err
}

// Leader is the node whose member leads.
func (c *Cluster) Leader(ctx context.Context) (*Node, error) {
	var leader *Node
	err := lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		resp, err := c.Get(ctx, false, "members")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(resp.GetMembers(), func(m *adminv1.MemberStatus) bool { return m.GetLeader() })
		if i < 0 {
			return fmt.Errorf("nobody leads among %d members", len(resp.GetMembers()))
		}
		leader = c.NodeByMemberAddr(resp.GetMembers()[i].GetAddress())
		if leader == nil {
			return fmt.Errorf("unknown leader %v", resp.GetMembers()[i])
		}
		return nil
	})
	return leader, err
}

// NodeByMemberAddr finds the node of a member by its host:port.
func (c *Cluster) NodeByMemberAddr(addr string) *Node {
	i := slices.IndexFunc(c.Members(), func(n *Node) bool { return n.MemberAddr() == addr })
	if i < 0 {
		return nil
	}
	return c.Nodes[i]
}

// Facts reads the log's events from a revision on; 0 for all that are kept.
func (c *Cluster) Facts(ctx context.Context, since uint64) (facts []*adminv1.EventsResponse, err error) {
	err = c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		stream, err := a.Events(ctx, &adminv1.EventsRequest{SinceRevision: since})
		if err != nil {
			return err
		}
		facts = nil
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			facts = append(facts, e)
		}
	})
	return facts, err
}

// SaveSnapshot reads a backup.
func SaveSnapshot(ctx context.Context, a adminv1.AdminServiceClient) (backup []byte, err error) {
	stream, err := a.SnapshotSave(ctx, &adminv1.SnapshotSaveRequest{})
	if err != nil {
		return nil, err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return backup, nil
		}
		if err != nil {
			return nil, err
		}
		backup = append(backup, resp.GetChunk()...)
	}
}

// WriteConfig writes a file that qlbctl can apply, and returns its path.
func (c *Cluster) WriteConfig(name, documents string) (string, error) {
	path := c.Dir() + "/" + name
	return path, os.WriteFile(path, []byte(documents), 0o644)
}
