package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/test/lab"
)

// Interfaces of a node, and the ports of its daemons.
const (
	LAN  = "eth0"
	Mgmt = "eth1"

	memberPort  = 7400
	memberHTTP  = "127.0.0.1:7402"
	speakerHTTP = "127.0.0.1:7403"
)

// certificateFor is longer than what the daemons warn of.
const certificateFor = 90 * 24 * time.Hour

// Options of a cluster. The zero value is five nodes, three members, default profile.
type Options struct {
	Nodes   int // at most 9
	Members int // on the first nodes
	// Profile of the members: "default", "fast" or "patient".
	Profile string
	// LogLevel of the daemons; "info" by default.
	LogLevel string
	// MemberArgs and SpeakerArgs are added to the command lines.
	MemberArgs, SpeakerArgs []string
	// MemberDisk makes each member's data directory a disk of so many bytes of
	// its own, which can be filled.
	MemberDisk int64
	// SmallDisk limits that to some nodes, by number; nil means all. The others
	// have a real disk, where a sync takes its time.
	SmallDisk func(number int) bool
	// Bin is a directory with the three programs, instead of what Build gives.
	Bin string
	// MemberEnv is added to the environment of a node's member.
	MemberEnv func(n *Node) []string
	Lab       lab.Options
}

// Cluster is QuorumLB in a lab.
type Cluster struct {
	*lab.Lab
	LAN, Mgmt *lab.Switch
	Nodes     []*Node
	// Client sends the probes; Router is the nodes' gateway, and a good place
	// for an asker; Admin is on the management network only.
	Client, Router, Admin *lab.Host

	opts  Options
	bin   string
	files pki.Files // the operator's

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn
	looked uint64 // newest revision that Look has seen
}

// New builds the programs and makes the hosts and the certificates. Nothing
// of QuorumLB runs yet.
func New(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Nodes == 0 {
		opts.Nodes = 5
	}
	if opts.Members == 0 {
		opts.Members = 3
	}
	if opts.LogLevel == "" {
		opts.LogLevel = "info"
	}
	if opts.Lab.Log == nil {
		opts.Lab.Log = slog.New(slog.DiscardHandler)
	}
	bin := opts.Bin
	if bin == "" {
		var err error
		if bin, err = Build(ctx); err != nil {
			return nil, err
		}
	}
	l, err := lab.New(opts.Lab)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: l, opts: opts, bin: bin, conns: map[string]*grpc.ClientConn{}}
	if err := errors.Join(c.makeHosts(), c.makeCertificates()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) makeHosts() (err error) {
	if c.LAN, err = c.NewSwitch("lan"); err != nil {
		return err
	}
	if c.Mgmt, err = c.NewSwitch("mgmt"); err != nil {
		return err
	}
	for i := 1; i <= c.opts.Nodes; i++ {
		n := &Node{c: c, Name: fmt.Sprintf("n%d", i), number: i}
		if i <= c.opts.Members {
			n.MemberName = fmt.Sprintf("m%d", i)
		}
		if n.Host, err = c.NewHost(n.Name); err != nil {
			return err
		}
		if err := n.Host.Plug(c.LAN, LAN, lanAddrs(i)...); err != nil {
			return err
		}
		if err := n.Host.Plug(c.Mgmt, Mgmt, fmt.Sprintf("10.0.1.%d/24", i)); err != nil {
			return err
		}
		if err := n.makeDisk(); err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, n)
	}
	if c.Client, err = c.NewHost("client"); err != nil {
		return err
	}
	if c.Router, err = c.NewHost("router"); err != nil {
		return err
	}
	if err := errors.Join(c.Client.Plug(c.LAN, LAN, lanAddrs(11)...), c.Router.Plug(c.LAN, LAN, lanAddrs(12)...)); err != nil {
		return err
	}
	if c.Admin, err = c.NewHost("admin"); err != nil {
		return err
	}
	return c.Admin.Plug(c.Mgmt, LAN, "10.0.1.100/24")
}

func lanAddrs(i int) []string {
	return []string{fmt.Sprintf("192.0.2.%d/24", i), fmt.Sprintf("2001:db8:1::%d/64", i)}
}

func (c *Cluster) pkiDir() string { return filepath.Join(c.Dir(), "pki") }

func (c *Cluster) makeCertificates() error {
	if err := pki.Init(c.pkiDir()); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.Rotate(n); err != nil {
			return err
		}
	}
	if err := c.issue(pki.KindAdmin, "lab", "admin"); err != nil {
		return err
	}
	c.files = c.identity("admin")
	return nil
}

// Rotate issues new certificates for what runs on the node, in place of the old.
func (c *Cluster) Rotate(n *Node) error {
	if n.IsMember() {
		if err := c.issue(pki.KindMember, n.MemberName, n.MemberName, "10.0.1."+fmt.Sprint(n.number)); err != nil {
			return err
		}
	}
	return c.issue(pki.KindSpeaker, n.Name, "speaker-"+n.Name)
}

func (c *Cluster) issue(kind pki.Kind, name, base string, sans ...string) error {
	_, err := pki.IssueAs(c.pkiDir(), pki.Role{Kind: kind, Name: name}, sans, certificateFor, filepath.Join(c.pkiDir(), base))
	return err
}

// Identity issues a certificate of the group's CA to whoever is not a node of the lab.
func (c *Cluster) Identity(kind pki.Kind, name string) (pki.Files, error) {
	base := "extra-" + name
	return c.identity(base), c.issue(kind, name, base)
}

func (c *Cluster) identity(base string) pki.Files {
	path := func(name string) string { return filepath.Join(c.pkiDir(), name) }
	return pki.Files{CA: path(pki.CACertFile), Cert: path(base + ".crt"), Key: path(base + ".key")}
}

// Start starts everything and waits until the members lead and every speaker
// has a session. Call Apply next.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.StartAll(); err != nil {
			return err
		}
	}
	if err := c.WaitMembers(ctx, 15*time.Second); err != nil {
		return err
	}
	return c.WaitNodes(ctx, 15*time.Second)
}

// Node finds a node by its name or that of its member.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name || n.MemberName == name {
			return n
		}
	}
	return nil
}

// Members are the nodes with a member.
func (c *Cluster) Members() []*Node { return c.Nodes[:c.opts.Members] }

// Close removes everything.
func (c *Cluster) Close() error {
	c.mu.Lock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.mu.Unlock()
	return c.Lab.Close()
}

// AdminFiles are the operator's certificate and key.
func (c *Cluster) AdminFiles() pki.Files { return c.files }

// Bin is the path of one of the project's programs.
func (c *Cluster) Bin(program string) string { return filepath.Join(c.bin, program) }

// CtlEnv is the environment in which qlbctl finds the cluster.
func (c *Cluster) CtlEnv() []string {
	return []string{
		"QLBCTL_ENDPOINTS=" + strings.Join(c.endpoints(), ","),
		"QLBCTL_TLS_CA=" + c.files.CA, "QLBCTL_TLS_CERT=" + c.files.Cert, "QLBCTL_TLS_KEY=" + c.files.Key,
	}
}

// Ctl runs qlbctl on the admin host and returns its output.
func (c *Cluster) Ctl(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{"env"}, c.CtlEnv()...)
	return c.Admin.Run(ctx, append(append(argv, c.Bin(ctlProgram)), args...)...)
}

func (c *Cluster) endpoints() (list []string) {
	for _, n := range c.Members() {
		list = append(list, n.MemberAddr())
	}
	return list
}

// gateways are the router's addresses.
func (c *Cluster) gateways() string {
	return c.Router.Addr(LAN, false).String() + "," + c.Router.Addr(LAN, true).String()
}

// MACOf is the node's MAC on the segment; the zero MAC for an unknown node.
func (c *Cluster) MACOf(node string) lab.MAC {
	if n := c.Node(node); n != nil {
		return n.Host.MAC(LAN)
	}
	return lab.MAC{}
}

// LogTails gives the last lines of every daemon's log, for failed runs.
func (c *Cluster) LogTails(lines int) string {
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(c.Dir(), "*.log"))
	for _, path := range logs {
		raw, err := os.ReadFile(path)
		if err != nil || len(raw) == 0 {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(raw)), "\n")
		fmt.Fprintf(&b, "--- %s (%d lines)\n%s\n", filepath.Base(path), len(all), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return b.String()
}

// Addrs parses addresses that come from the API.
func Addrs(list []string) []netip.Addr {
	out := make([]netip.Addr, 0, len(list))
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}
