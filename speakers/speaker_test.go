package speakers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/quorumlb/quorumlb/internal/obs"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/internal/membertest"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/session"
)

var (
	vip4    = netip.MustParseAddr("192.0.2.100")
	hold4   = netip.MustParseAddr("192.0.2.101")
	vip6    = netip.MustParseAddr("2001:db8::100")
	client4 = "192.0.2.2"
)

// raceDetector is whether this program has it, which multiplies its memory.
var raceDetector bool

const processEnv = "QLB_TEST_SPEAKER"

// TestMain lets the test's own program be a speaker, as a process that can be
// killed and has a network namespace to itself.
func TestMain(m *testing.M) {
	conf := os.Getenv(processEnv)
	if conf == "" {
		os.Exit(m.Run())
	}
	if err := process(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, session.ErrReplaced) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

// processConfig is what the process is told.
type processConfig struct {
	Members  []string
	StateDir string
	Gateway  netip.Addr
}

func process(conf string) error {
	var pc processConfig
	if err := json.Unmarshal([]byte(conf), &pc); err != nil {
		return err
	}
	registry := obs.NewRegistry("speaker")
	cfg := Config{
		Registry: registry,
		Node:     "n1", Members: pc.Members, StateDir: pc.StateDir, Gateways: []netip.Addr{pc.Gateway},
		LeaveTimeout: 2 * nettest.Patience, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := New(cfg)
	if err != nil {
		return err
	}
	s.node.memory.settle = 300 * time.Millisecond
	listener, err := net.Listen("tcp", metricsAddress)
	if err != nil {
		return err
	}
	metrics := obs.NewServer(listener, obs.Handler(registry, s.Checks()), cfg.Log)
	go metrics.Run(context.WithoutCancel(ctx)) //nolint:errcheck // ends with the process
	return s.Run(ctx)
}

// metricsAddress is where the process serves /metrics, in its own namespace.
const metricsAddress = "127.0.0.1:7403"

// metrics reads the samples that the process serves, by name and labels.
func (b *testbed) metrics() map[string]float64 {
	b.t.Helper()
	dial := func(context.Context, string, string) (c net.Conn, err error) {
		err = b.node.Try(func() error { c, err = net.Dial("tcp", metricsAddress); return err })
		return c, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	samples := make(map[string]float64)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			samples[name] = v
		}
	}
	return samples
}

// testbed is a node with members beside it, and a client.
type testbed struct {
	t       *testing.T
	group   *membertest.Group
	members []*membertest.Member
	node    *nettest.Host
	client  *nettest.Host
	capture *nettest.Capture
	cfg     processConfig
}

func newTestbed(t *testing.T) *testbed {
	seg := nettest.NewSegment(t)
	b := &testbed{
		t: t, group: membertest.NewGroup(),
		node:   seg.NewHost("192.0.2.11/24", "2001:db8::11/64"),
		client: seg.NewHost(client4+"/24", "2001:db8::2/64"),
	}
	b.cfg = processConfig{StateDir: t.TempDir(), Gateway: netip.MustParseAddr(client4)}
	for i := range 3 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(7400+i))
		b.node.Do(func() error {
			b.members = append(b.members, membertest.StartMember(t, b.group, address))
			return nil
		})
		b.cfg.Members = append(b.cfg.Members, address)
	}
	b.capture = b.client.Capture("eth0")
	return b
}

// own gives the node vip4 (Release), hold4 and vip6 (Hold).
func (b *testbed) own() {
	b.group.Own(vip4.String(), hold4.String(), vip6.String())
	b.group.Change(func() {
		for _, v := range b.group.Vips[1:] {
			v.OnControlLoss = logv1.ControlLoss_CONTROL_LOSS_HOLD
		}
	})
}

// proc is a speaker's process.
type proc struct {
	t      *testing.T
	cmd    *exec.Cmd
	mu     sync.Mutex
	log    bytes.Buffer
	exited chan struct{}
}

func (p *proc) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (b *testbed) start() *proc {
	b.t.Helper()
	conf, err := json.Marshal(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	p := &proc{t: b.t, cmd: b.node.Command(os.Args[0]), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), processEnv+"="+string(conf))
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells
		close(p.exited)
	}()
	b.t.Cleanup(func() {
		p.kill()
		if b.t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			b.t.Logf("speaker %d:\n%s", p.cmd.Process.Pid, p.log.String())
		}
	})
	return p
}

func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// exit waits for the end and returns the status.
func (p *proc) exit() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(nettest.Patience):
		p.t.Fatalf("still running after %v", nettest.Patience)
	}
	return p.cmd.ProcessState.ExitCode()
}

// answered asks once, by the client's kernel, and reports whether the node answers.
func (b *testbed) answered(addr netip.Addr) bool {
	b.t.Helper()
	b.client.IP("neigh", "flush", "to", addr.String(), "dev", "eth0")
	before := len(b.capture.Packets(nettest.From(b.node.MAC), nettest.Answers(addr)))
	b.client.Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = c.Write([]byte("x"))
		return nil
	})
	for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if len(b.capture.Packets(nettest.From(b.node.MAC), nettest.Answers(addr))) > before {
			return true
		}
	}
	return false
}

func (b *testbed) eventually(what string, ok func() bool) {
	b.t.Helper()
	nettest.Eventually(b.t, what, ok)
}

func (b *testbed) reported(addr netip.Addr) (s *speakerv1.VipStatus) {
	m := b.members[0]
	m.Lock()
	defer m.Unlock()
	for _, r := range m.Reported {
		for _, v := range r.GetVips() {
			if a, _ := netip.AddrFromSlice(v.GetAddress()); a == addr {
				s = v
			}
		}
	}
	return s
}

func gratuitous(addr netip.Addr) func(nettest.Packet) bool {
	return func(p nettest.Packet) bool {
		return p.ARP != nil && p.ARP.Operation == arp.OperationRequest && p.ARP.SenderIP == addr && p.ARP.TargetIP == addr
	}
}

func TestProcessAnnouncesAndLeaves(t *testing.T) {
	b := newTestbed(t)
	p := b.start()
	b.eventually("a session", func() bool { session, _ := b.group.Now(); return session != 0 })
	b.own()
	b.group.Change(func() { b.group.Hosts = [][]byte{vip4.AsSlice()} })
	for _, vip := range []netip.Addr{vip4, hold4, vip6} {
		b.eventually("answers for "+vip.String(), func() bool { return b.answered(vip) })
	}
	b.eventually("proven by the gateway, and reported", func() bool {
		s := b.reported(vip4)
		return s.GetAnnounced() == speakerv1.Announced_ANNOUNCED_PROVEN && len(s.GetProvenBy()) == 1
	})
	m := b.members[0]
	m.Lock()
	link := m.Reported[0].GetLinks().GetLinks()
	m.Unlock()
	if len(link) != 1 || link[0].GetName() != "eth0" || !link[0].GetUp() || !bytes.Equal(link[0].GetMac(), b.node.MAC) ||
		!strings.Contains(fmt.Sprint(link[0].GetPrefixes()), "192.0.2.0/24") {
		t.Errorf("links %v", link)
	}

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.eventually("asked to move everything", func() bool { b.group.Lock(); defer b.group.Unlock(); return len(b.group.Left) > 0 })
	b.eventually("answers until the address has moved", func() bool { return b.answered(vip4) })
	b.group.Own()
	if code := p.exit(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	b.group.Lock()
	if left := b.group.Left; !left[len(left)-1] {
		t.Errorf("the session was not closed: %v", left)
	}
	b.group.Unlock()
	if b.answered(vip4) {
		t.Error("somebody answers after the end")
	}
	if out := b.node.IP("addr", "show", "dev", "lo"); !strings.Contains(out, vip4.String()) {
		t.Errorf("local delivery ended with the process, while frames still arrive:\n%s", out)
	}
	b.node.Do(func() error { return Cleanup(b.cfg.StateDir, slog.New(slog.DiscardHandler)) })
	if out := b.node.IP("addr", "show", "dev", "lo"); strings.Contains(out, vip4.String()) {
		t.Errorf("still there after the clean-up:\n%s", out)
	}
}

// What /metrics counts is what passes on the wire and what the members are told.
func TestProcessMetrics(t *testing.T) {
	b := newTestbed(t)
	b.start()
	b.eventually("a session", func() bool { session, _ := b.group.Now(); return session != 0 })
	b.own()
	for _, vip := range []netip.Addr{vip4, hold4, vip6} {
		b.eventually("answers for "+vip.String(), func() bool { return b.answered(vip) })
	}
	arps := func(ok func(*arp.Packet) bool) func(nettest.Packet) bool {
		return func(p nettest.Packet) bool {
			return p.ARP != nil && (p.ARP.SenderIP == vip4 || p.ARP.SenderIP == hold4) && ok(p.ARP)
		}
	}
	adverts := func(solicited bool) func(nettest.Packet) bool {
		return func(p nettest.Packet) bool {
			na, ok := p.NDP.(*ndp.NeighborAdvertisement)
			return ok && na.TargetAddress == vip6 && na.Solicited == solicited
		}
	}
	wire := map[string]func(nettest.Packet) bool{
		"arp_reply": arps(func(p *arp.Packet) bool { return p.Operation == arp.OperationReply && p.TargetIP != p.SenderIP }),
		"gratuitous_request": arps(func(p *arp.Packet) bool {
			return p.Operation == arp.OperationRequest && p.TargetIP == p.SenderIP
		}),
		"gratuitous_reply": arps(func(p *arp.Packet) bool { return p.Operation == arp.OperationReply && p.TargetIP == p.SenderIP }),
		"directed": arps(func(p *arp.Packet) bool {
			return p.Operation == arp.OperationRequest && p.TargetIP.String() == client4
		}),
		"neighbour_advert":   adverts(true),
		"unsolicited_advert": adverts(false),
	}
	for kind, is := range wire {
		sample := fmt.Sprintf("quorumlb_speaker_frames_sent_total{kind=%q}", kind)
		var counted float64
		var passed int
		t.Cleanup(func() { t.Logf("%s: counted %v, passed %d", kind, counted, passed) })
		b.eventually(kind+" counted as they pass", func() bool {
			counted, passed = b.metrics()[sample], len(b.capture.Packets(nettest.From(b.node.MAC), is))
			return passed > 0 && int(counted) == passed
		})
	}
	b.eventually("addresses counted by state as they are reported", func() bool {
		states := make(map[speakerv1.Announced]float64)
		for _, vip := range []netip.Addr{vip4, hold4, vip6} {
			states[b.reported(vip).GetAnnounced()]++
		}
		m := b.metrics()
		proven := m[`quorumlb_speaker_vips{state="proven"}`]
		return proven >= 2 && proven == states[speakerv1.Announced_ANNOUNCED_PROVEN] &&
			m[`quorumlb_speaker_vips{state="unproven"}`] == states[speakerv1.Announced_ANNOUNCED_UNPROVEN]
	})
	b.eventually("as many requests replied to as replies", func() bool {
		m := b.metrics()
		return m[`quorumlb_speaker_frames_received_total{protocol="arp",verdict="replied"}`] == m[`quorumlb_speaker_frames_sent_total{kind="arp_reply"}`]
	})
	m := b.metrics()
	if left := m["quorumlb_speaker_confirmation_seconds"]; left <= 0 || m["quorumlb_speaker_session"] == 0 {
		t.Errorf("session %v, confirmed for %v s", m["quorumlb_speaker_session"], left)
	}
}

func TestProcessKilledAndRestarted(t *testing.T) {
	b := newTestbed(t)
	p := b.start()
	b.eventually("a session", func() bool { session, _ := b.group.Now(); return session != 0 })
	b.own()
	b.eventually("answers", func() bool { return b.answered(vip4) && b.answered(hold4) })
	b.eventually("its MAC is remembered", func() bool {
		macs, err := readMACs(filepath.Join(b.cfg.StateDir, memoryFile))
		return err == nil && len(macs) == 1 && bytes.Equal(macs[0][:], b.node.MAC)
	})
	p.kill()
	b.capture.Reset()
	p = b.start()
	b.eventually("answers again", func() bool { return b.answered(vip4) && b.answered(hold4) && b.answered(vip6) })
	// The second round of a takeover would come after 100 ms, the fourth after 1.1 s.
	time.Sleep(1300 * time.Millisecond)
	if got := b.capture.Packets(nettest.From(b.node.MAC), gratuitous(vip4)); len(got) > 1 {
		t.Errorf("%d announcements after a restart: replay is not news", len(got))
	}
	if _, opens := b.group.Now(); opens != 2 {
		t.Errorf("%d sessions", opens)
	}
	// With another network card it is news, whoever the node is.
	p.kill()
	b.node.IP("link", "set", "eth0", "address", "02:00:00:00:00:99")
	b.capture.Reset()
	p = b.start()
	all := func() bool {
		return len(b.capture.Packets(nettest.From(net.HardwareAddr{2, 0, 0, 0, 0, 0x99}), gratuitous(vip4))) > 3
	}
	b.eventually("rounds by the new MAC", all)
	// So it is for who has lost the record.
	p.kill()
	if err := os.Remove(filepath.Join(b.cfg.StateDir, memoryFile)); err != nil {
		t.Fatal(err)
	}
	b.capture.Reset()
	b.start()
	b.eventually("rounds without a record", all)
}

func TestProcessWithoutMembers(t *testing.T) {
	b := newTestbed(t)
	p := b.start()
	b.eventually("a session", func() bool { session, _ := b.group.Now(); return session != 0 })
	b.own()
	b.group.Change(func() { b.group.Hosts = [][]byte{vip4.AsSlice(), hold4.AsSlice(), vip6.AsSlice()} })
	b.eventually("answers", func() bool { return b.answered(vip4) && b.answered(hold4) && b.answered(vip6) })
	b.eventually("delivers", func() bool { return strings.Contains(b.node.IP("addr", "show", "dev", "lo"), hold4.String()) })
	for _, m := range b.members {
		m.Stop()
	}
	b.eventually("Release is silent", func() bool { return !b.answered(vip4) })
	b.eventually("Hold answers while no node fails", func() bool { return b.answered(hold4) && b.answered(vip6) })
	// A speaker that begins while all members are down knows of nothing.
	p.kill()
	b.start()
	for range 5 {
		if b.answered(vip4) || b.answered(hold4) || b.answered(vip6) {
			t.Fatal("an answer without a view, with the address on the loopback device")
		}
	}
	for i, m := range b.members {
		b.node.Do(func() error { m.Start(b.cfg.Members[i]); return nil })
	}
	b.eventually("answers", func() bool { return b.answered(vip4) && b.answered(hold4) && b.answered(vip6) })
}

func TestProcessReplacedExits(t *testing.T) {
	b := newTestbed(t)
	p := b.start()
	b.eventually("a session", func() bool { session, _ := b.group.Now(); return session != 0 })
	b.own()
	b.eventually("answers", func() bool { return b.answered(vip4) })
	b.group.Change(func() { b.group.Refuse = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED })
	if code := p.exit(); code != 3 {
		t.Errorf("exit status %d", code)
	}
}

// Without local delivery the address is not announced, and the report says why.
func TestProcessReportsWhatItCannotDeliver(t *testing.T) {
	b := newTestbed(t)
	b.node.Sysctl("net/ipv6/conf/lo/disable_ipv6", "1")
	b.group.Change(func() { b.group.Hosts = [][]byte{vip6.AsSlice()} })
	b.own()
	b.start()
	b.eventually("reported", func() bool {
		s := b.reported(vip6)
		return s.GetAnnounced() == speakerv1.Announced_ANNOUNCED_FAILED && strings.Contains(s.GetReason(), "cannot be delivered locally")
	})
	if b.answered(vip6) {
		t.Error("answered")
	}
	b.node.Sysctl("net/ipv6/conf/lo/disable_ipv6", "0")
	b.eventually("answers", func() bool { return b.answered(vip6) })
	b.eventually("reported", func() bool { return b.reported(vip6).GetAnnounced() != speakerv1.Announced_ANNOUNCED_FAILED })
}

// Resident memory with 1,000 addresses must not grow unnoticed. The exact figure
// is the bench's: this program also has the test's own code in it, and what the
// collector has not returned yet depends on the machine.
func TestProcessMemory(t *testing.T) {
	b := newTestbed(t)
	p := b.start()
	b.eventually("a session", func() bool { session, _ := b.group.Now(); return session != 0 })
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("198.51.%d.%d", 100+i/250, i%250), fmt.Sprintf("2001:db8:1::%x", i+1))
	}
	b.group.Own(many...)
	b.eventually("announces all", func() bool {
		m := b.members[0]
		m.Lock()
		defer m.Unlock()
		n := 0
		for _, r := range m.Reported {
			n += len(r.GetVips())
		}
		return n >= len(many)
	})
	time.Sleep(2 * time.Second) // three rounds of announcements
	b.node.Do(func() error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		for line := range strings.Lines(string(status)) {
			var kB int
			if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kB); n == 1 {
				t.Logf("%d kB", kB)
				if kB > 45_000 && !raceDetector {
					t.Errorf("%d kB resident, want less than 45 MB", kB)
				}
			}
		}
		return err
	})
}
