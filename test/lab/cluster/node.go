package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/test/lab"
)

// Node is a host of the cluster and what runs on it.
type Node struct {
	Name string
	// MemberName is empty on a node without a member.
	MemberName string
	Host       *lab.Host

	c      *Cluster
	number int
	disk   string // of the member

	member, speaker, responder atomic.Pointer[lab.Process]
}

// Member is the member's newest process; nil before the first start.
func (n *Node) Member() *lab.Process { return n.member.Load() }

// Speaker is the speaker's newest process; nil before the first start.
func (n *Node) Speaker() *lab.Process { return n.speaker.Load() }

// Responder is the newest process of the service behind the addresses.
func (n *Node) Responder() *lab.Process { return n.responder.Load() }

// IsMember says whether a member runs here.
func (n *Node) IsMember() bool { return n.MemberName != "" }

// Number is 1 for n1.
func (n *Node) Number() int { return n.number }

// MemberAddr is the member's host:port.
func (n *Node) MemberAddr() string { return fmt.Sprintf("10.0.1.%d:%d", n.number, memberPort) }

// DataDir is the member's.
func (n *Node) DataDir() string { return filepath.Join(n.disk, "data") }

// StateDir is the speaker's.
func (n *Node) StateDir() string { return filepath.Join(n.c.Dir(), n.Name, "speaker") }

// Disk is what FillDisk fills, with Options.MemberDisk.
func (n *Node) Disk() string { return n.disk }

func (n *Node) makeDisk() (err error) {
	n.disk = filepath.Join(n.c.Dir(), n.Name, "member")
	if small := n.c.opts.SmallDisk; n.c.opts.MemberDisk > 0 && n.IsMember() && (small == nil || small(n.number)) {
		n.disk, err = n.c.SmallDisk(filepath.Join(n.Name, "member"), n.c.opts.MemberDisk)
	}
	return errors.Join(err, os.MkdirAll(n.disk, 0o755), os.MkdirAll(n.StateDir(), 0o755))
}

// StartAll starts whatever of the node's processes does not run.
func (n *Node) StartAll() error {
	if n.IsMember() && !n.Member().Running() {
		if err := n.StartMember(); err != nil {
			return err
		}
	}
	if !n.Responder().Running() {
		if err := n.StartResponder(); err != nil {
			return err
		}
	}
	if n.Speaker().Running() {
		return nil
	}
	return n.StartSpeaker()
}

// StartResponder starts the service behind the addresses.
func (n *Node) StartResponder() error {
	p, err := n.Host.StartResponder()
	if err == nil {
		n.responder.Store(p)
	}
	return err
}

// StartMember starts quorumlb-node, always by the same command line.
func (n *Node) StartMember() error {
	p, err := n.Host.Start("member", n.MemberCommand()...)
	if err == nil {
		n.member.Store(p)
	}
	return err
}

// MemberCommand is the member's command line.
func (n *Node) MemberCommand() []string {
	var members []string
	for _, m := range n.c.Members() {
		members = append(members, m.MemberName+"="+m.MemberAddr())
	}
	id := n.c.identity(n.MemberName)
	var argv []string
	if env := n.c.opts.MemberEnv; env != nil {
		argv = append([]string{"env"}, env(n)...)
	}
	argv = append(argv,
		n.c.Bin(nodeProgram), "--name", n.MemberName, "--data-dir", n.DataDir(),
		"--listen", n.MemberAddr(), "--advertise", n.MemberAddr(), "--members", strings.Join(members, ","),
		"--tls-ca", id.CA, "--tls-cert", id.Cert, "--tls-key", id.Key,
		"--http", memberHTTP, "--log-level", n.c.opts.LogLevel)
	if n.c.opts.Profile != "" {
		argv = append(argv, "--profile", n.c.opts.Profile)
	}
	return append(argv, n.c.opts.MemberArgs...)
}

// StartSpeaker starts quorumlb-speaker, always by the same command line.
func (n *Node) StartSpeaker() error {
	p, err := n.Host.Start("speaker", n.SpeakerCommand()...)
	if err == nil {
		n.speaker.Store(p)
	}
	return err
}

// StartSecondSpeaker starts a speaker beside the one that runs, with files and
// port of its own, as a careless operator might. Speaker is then the new one.
func (n *Node) StartSecondSpeaker(number int) error {
	dir := fmt.Sprintf("%s-%d", n.StateDir(), number)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	argv := append(n.SpeakerCommand(), "--state-dir", dir, "--http", fmt.Sprintf("127.0.0.1:%d", 7403+100*number))
	p, err := n.Host.Start(fmt.Sprintf("speaker-%d", number), argv...)
	if err == nil {
		n.speaker.Store(p)
	}
	return err
}

// SpeakerCommand is the speaker's command line.
func (n *Node) SpeakerCommand() []string {
	id := n.c.identity("speaker-" + n.Name)
	return append([]string{
		n.c.Bin(speakerProgram), "--node", n.Name, "--members", strings.Join(n.c.endpoints(), ","),
		"--tls-ca", id.CA, "--tls-cert", id.Cert, "--tls-key", id.Key, "--state-dir", n.StateDir(),
		"--http", speakerHTTP, "--interfaces", LAN, "--gateways", n.c.gateways(), "--log-level", n.c.opts.LogLevel,
	}, n.c.opts.SpeakerArgs...)
}

// PowerOn gives the host power again and starts what starts at boot.
func (n *Node) PowerOn() error {
	if err := n.Host.PowerOn(); err != nil {
		return err
	}
	return n.StartAll()
}

// StopMember ends the member as an init system would: SIGTERM, and SIGKILL for
// one that does not listen, which is an error.
func (n *Node) StopMember(ctx context.Context) error { return stop(ctx, n.Member()) }

// StopSpeaker ends the speaker as an init system would.
func (n *Node) StopSpeaker(ctx context.Context) error { return stop(ctx, n.Speaker()) }

func stop(ctx context.Context, p *lab.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		if p.Running() {
			_ = p.Signal(unix.SIGKILL)
		}
		return err
	}
	return nil
}

// MemberReady asks the member's own probe.
func (n *Node) MemberReady(ctx context.Context) error {
	return n.get(ctx, "http://"+memberHTTP+"/readyz", io.Discard)
}

// Metrics reads the metrics of the node's "member" or "speaker".
func (n *Node) Metrics(ctx context.Context, daemon string) (string, error) {
	at := map[string]string{"member": memberHTTP, "speaker": speakerHTTP}[daemon]
	var b strings.Builder
	err := n.get(ctx, "http://"+at+"/metrics", &b)
	return b.String(), err
}

// Pprof reads a Go profile of the node's "member" or "speaker", which must run with
// --pprof: "profile" of so many seconds of its CPU time, or "heap" after a collection.
func (n *Node) Pprof(ctx context.Context, daemon, kind string, d time.Duration, to io.Writer) error {
	at := map[string]string{"member": memberHTTP, "speaker": speakerHTTP}[daemon]
	client := n.Host.HTTP()
	client.Timeout = d + 10*time.Second
	url := fmt.Sprintf("http://%s/debug/pprof/%s?gc=1", at, kind)
	if d > 0 {
		url += fmt.Sprintf("&seconds=%d", int(d.Seconds()))
	}
	return n.getBy(ctx, client, url, to)
}

func (n *Node) get(ctx context.Context, url string, to io.Writer) error {
	return n.getBy(ctx, n.Host.HTTP(), url, to)
}

func (n *Node) getBy(ctx context.Context, client *http.Client, url string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("%s: %s: %s: %s", n.Name, url, resp.Status, strings.TrimSpace(string(why)))
	}
	_, err = io.Copy(to, resp.Body)
	return err
}
