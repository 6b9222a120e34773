package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Role("leak", leak)
	Main(m)
}

var (
	addrA4 = netip.MustParseAddr("192.0.2.1")
	addrA6 = netip.MustParseAddr("2001:db8:1::1")
)

// small is a lab of two hosts, a and b, a client c and one switch.
type small struct {
	*Lab
	sw      *Switch
	a, b, c *Host
}

func newSmall(t *testing.T) *small {
	t.Helper()
	Require(t)
	l, err := New(Options{Dir: t.TempDir(), KeepDir: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &small{Lab: l}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	s.sw = must(l.NewSwitch("lan"))(t)
	for i, h := range []**Host{&s.a, &s.b, &s.c} {
		*h = must(l.NewHost(string(rune('a' + i))))(t)
		ok(t, (*h).Plug(s.sw, "eth0", fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8:1::%d/64", i+1)))
	}
	return s
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func greets(h *Host, addr netip.Addr, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		name, err := h.Greet(ctx, addr)
		if err == nil && name != want {
			err = fmt.Errorf("%s answered, want %s", name, want)
		}
		return err
	}
}

func TestPowerOffSilencesAtOnce(t *testing.T) {
	s := newSmall(t)
	ctx := t.Context()
	responder := must(s.a.StartResponder())(t)
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA4, "a")))
	capture := must(s.sw.Capture("c"))(t)
	asker := must(s.b.Ask("eth0", 2*time.Millisecond))(t)
	asker.SetAddrs([]netip.Addr{addrA4, addrA6})
	var udp []*UDPProbe
	for _, addr := range []netip.Addr{addrA4, addrA6} {
		udp = append(udp, must(s.c.ProbeUDP(addr, 5*time.Millisecond))(t))
	}
	tcp := must(s.c.ProbeTCP(addrA4, 5*time.Millisecond))(t)
	start := time.Now()
	windows := func(from, to time.Time) []Report {
		return []Report{udp[0].Window(from, to), udp[1].Window(from, to), tcp.Window(from, to)}
	}
	var alive time.Time
	ok(t, Poll(ctx, 10*time.Second, func(context.Context) error {
		alive = time.Now()
		for _, r := range windows(start, alive) {
			if r.Sent < 30 {
				return fmt.Errorf("sent so far: %+v", r)
			}
		}
		return nil
	}))
	ok(t, Poll(ctx, 10*time.Second, func(context.Context) error {
		for _, r := range windows(start, alive) {
			if r.Lost > 0 {
				return fmt.Errorf("with power: %+v", r)
			}
		}
		return nil
	}))

	off := must(s.a.PowerOff())(t)
	if took := time.Since(off); took > 10*time.Second {
		t.Errorf("power off took %v", took)
	}
	if responder.Running() {
		t.Error("a process outlived the power")
	}
	if _, err := s.a.PowerOff(); !errors.Is(err, ErrOff) {
		t.Errorf("second power off: %v", err)
	}
	if _, err := s.a.Start("x", "true"); !errors.Is(err, ErrOff) {
		t.Errorf("start without power: %v", err)
	}
	silent := off.Add(200 * time.Millisecond) // the kernel may be slow to take the port down
	ok(t, Wait(ctx, time.Until(silent)+300*time.Millisecond))
	for _, f := range capture.Frames(silent, time.Time{}) {
		if f.Src == s.a.MAC("eth0") {
			t.Errorf("a frame after the end: %v", f)
		}
	}
	for _, p := range udp {
		if r := p.Window(silent, time.Now()); r.Sent == 0 || r.Lost != r.Sent {
			t.Errorf("%s after: %+v", p.Addr, r)
		}
	}

	ok(t, s.a.PowerOn())
	must(s.a.StartResponder())(t)
	back := time.Now()
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA4, "a")))
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA6, "a")))
	ok(t, Wait(ctx, Patience))
	dark := tcp.Window(silent, back.Add(-Patience))
	if dark.Lost != dark.Sent {
		t.Errorf("TCP while off: %+v", dark)
	}
	if x, ok := tcp.Last(time.Second); !ok || x.Node != "a" {
		t.Errorf("TCP after the return: %+v, %v", x, ok)
	}
	if n := capture.Drops(); n > 0 {
		t.Errorf("the capture dropped %d frames", n)
	}
	path := filepath.Join(s.Dir(), "c.pcap")
	ok(t, capture.WritePcap(path))
}

func TestCaptureSeesWhoAnswers(t *testing.T) {
	s := newSmall(t)
	ctx := t.Context()
	capture := must(s.sw.Capture("c"))(t)
	asker := must(s.c.Ask("eth0", 10*time.Millisecond))(t)
	addrs := []netip.Addr{addrA4, addrA6}
	asker.SetAddrs(addrs)
	ok(t, Poll(ctx, 5*time.Second, func(context.Context) error {
		held := Tenures(Claims(time.Time{}, time.Time{}, addrs, capture))
		for _, addr := range addrs {
			if len(held[addr]) != 1 || held[addr][0].MAC != s.a.MAC("eth0") || held[addr][0].Claims < 10 {
				return fmt.Errorf("%s: %v", addr, held[addr])
			}
		}
		return nil
	}))
	if name := s.NameOf(s.a.MAC("eth0")); name != "a" {
		t.Errorf("the MAC is %q's", name)
	}

	// A second station with the same address is an overlap.
	d := must(s.NewHost("d"))(t)
	ok(t, d.Plug(s.sw, "eth0", "192.0.2.1/24"))
	from := time.Now()
	ok(t, Poll(ctx, 5*time.Second, func(context.Context) error {
		if len(Overlaps(Claims(from, time.Time{}, addrs, capture))) == 0 {
			return errors.New("no overlap seen")
		}
		return nil
	}))
}

func TestFaults(t *testing.T) {
	s := newSmall(t)
	ctx := t.Context()
	for _, h := range []*Host{s.a, s.b} {
		must(h.StartResponder())(t)
	}
	addrB4 := s.b.Addr("eth0", false)
	reach := func(h *Host, addr netip.Addr, node string) {
		t.Helper()
		ok(t, Poll(ctx, 5*time.Second, greets(h, addr, node)))
	}
	dark := func(h *Host, addr netip.Addr) {
		t.Helper()
		short, cancel := context.WithTimeout(ctx, 150*time.Millisecond)
		defer cancel()
		if name, err := h.Greet(short, addr); err == nil {
			t.Errorf("%s reaches %s (%s)", h.Name(), addr, name)
		}
	}
	reach(s.c, addrA4, "a")

	ok(t, s.sw.Cut("a"))
	dark(s.c, addrA4)
	dark(s.a, addrB4)
	reach(s.c, addrB4, "b")
	ok(t, s.sw.Heal())
	reach(s.c, addrA4, "a")

	ok(t, s.sw.Split("a", "b"))
	dark(s.c, addrA4)
	reach(s.a, addrB4, "b")
	ok(t, s.sw.Heal())
	reach(s.c, addrA4, "a")

	ok(t, s.sw.PortDown("a"))
	dark(s.c, addrA4)
	ok(t, s.sw.PortUp("a"))
	reach(s.c, addrA4, "a")

	f := must(s.sw.Drop("a", "c", 1000))(t)
	dark(s.c, addrA4)
	reach(s.a, addrB4, "b")
	ok(t, f.Clear())
	reach(s.c, addrA4, "a")

	f = must(s.sw.Drop("c", "a", 300))(t)
	probe := must(s.c.ProbeUDP(addrA4, time.Millisecond))(t)
	start := time.Now()
	ok(t, Wait(ctx, time.Second))
	end := time.Now()
	ok(t, f.Clear())
	ok(t, Wait(ctx, Patience))
	if r := probe.Window(start, end); r.Sent < 200 || r.Lost < r.Sent/5 || r.Lost > r.Sent*2/5 {
		t.Errorf("30 %% loss: %d of %d", r.Lost, r.Sent)
	}
}

func TestPauseAndKill(t *testing.T) {
	s := newSmall(t)
	ctx := t.Context()
	responder := must(s.a.StartResponder())(t)
	probe := must(s.c.ProbeUDP(addrA4, 5*time.Millisecond))(t)
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA4, "a")))
	answered := func(want bool) func(context.Context) error {
		return func(context.Context) error {
			if _, got := probe.Last(50 * time.Millisecond); got != want {
				return fmt.Errorf("answered: %v", got)
			}
			return nil
		}
	}
	ok(t, Poll(ctx, 5*time.Second, answered(true)))
	ok(t, responder.Pause())
	ok(t, Poll(ctx, 5*time.Second, answered(false)))
	ok(t, responder.Resume())
	ok(t, Poll(ctx, 5*time.Second, answered(true)))
	ok(t, responder.Kill())
	ok(t, Poll(ctx, 5*time.Second, answered(false)))
	if responder.Running() {
		t.Error("killed, and runs")
	}
	if err := responder.Wait(ctx); err == nil {
		t.Error("killed without an error")
	}
	if err := responder.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to the dead: %v", err)
	}
	out, err := s.a.Run(ctx, "cat", "/proc/self/net/dev")
	if err != nil || !strings.Contains(out, "eth0") {
		t.Errorf("Run: %v\n%s", err, out)
	}
}

// TestSignalWhileItEnds sends one signal after the other, so that some come between
// the end of the process and the moment in which Process knows of it.
func TestSignalWhileItEnds(t *testing.T) {
	s := newSmall(t)
	for range 100 {
		p := must(s.a.Start("sleep", "sleep", "60"))(t)
		var err error
		for err == nil {
			err = p.Signal(unix.SIGKILL)
		}
		if !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		ok(t, p.Kill())
	}
}

func TestFloodARP(t *testing.T) {
	s := newSmall(t)
	rate, err := s.c.FloodARP(t.Context(), "eth0", s.a.MAC("eth0"), addrA4, 200*time.Millisecond)
	if err != nil || rate < 1000 {
		t.Errorf("the kernel answers %.0f/s, %v", rate, err)
	}
	t.Logf("the kernel answers %.0f questions a second", rate)
	if _, err := s.c.FloodARP(t.Context(), "eth0", s.a.MAC("eth0"), s.b.Addr("eth0", false), 100*time.Millisecond); err == nil {
		t.Error("a answers for b")
	}
}

func TestSmallDisk(t *testing.T) {
	s := newSmall(t)
	dir := must(s.SmallDisk("disk", 1<<20))(t)
	free := must(FillDisk(dir))(t)
	if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, 5000), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write on a full disk: %v", err)
	}
	ok(t, free())
	ok(t, os.WriteFile(filepath.Join(dir, "x"), make([]byte, 5000), 0o600))
}

// leak makes a lab, says so, and waits to be killed.
func leak([]string) error {
	l, err := New(Options{})
	if err != nil {
		return err
	}
	sw, err := l.NewSwitch("lan")
	if err != nil {
		return err
	}
	h, err := l.NewHost("a")
	if err != nil {
		return err
	}
	if err := h.Plug(sw, "eth0", "192.0.2.1/24"); err != nil {
		return err
	}
	if _, err := l.SmallDisk("disk", 1<<20); err != nil {
		return err
	}
	p, err := h.StartResponder()
	if err != nil {
		return err
	}
	fmt.Println(l.prefix, p.PID())
	select {}
}

func TestSweepRemovesWhatACrashLeft(t *testing.T) {
	Require(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envRole+"=leak")
	out := must(cmd.StdoutPipe())(t)
	ok(t, cmd.Start())
	var prefix string
	var pid int
	_, err := fmt.Fscan(out, &prefix, &pid)
	ok(t, err)
	left := func() (n int) {
		for _, pattern := range []string{filepath.Join(netnsDir, prefix+"*"), filepath.Join(os.TempDir(), prefix+"*")} {
			m, _ := filepath.Glob(pattern)
			n += len(m)
		}
		return n
	}
	Sweep()
	if n := left(); n != 3 {
		t.Errorf("%d of 3 names while the run lives", n)
	}
	ok(t, cmd.Process.Kill())
	_ = cmd.Wait()
	Sweep()
	if n := left(); n != 0 {
		t.Errorf("%d names left", n)
	}
	ok(t, Poll(t.Context(), 5*time.Second, func(context.Context) error {
		if err := unix.Kill(pid, 0); err == nil {
			return errors.New("the responder outlived its lab")
		}
		return nil
	}))
}

// TestWithoutRoot runs a test of this file as nobody, which has to make a user
// namespace first.
func TestWithoutRoot(t *testing.T) {
	Require(t)
	if os.Getuid() != 0 || os.Getenv(envUserns) != "" {
		t.Skip("already without root")
	}
	dir := must(os.MkdirTemp("", "lab-nobody"))(t)
	defer os.RemoveAll(dir)
	ok(t, os.Chmod(dir, 0o777))
	exe := filepath.Join(dir, "lab.test")
	raw := must(os.ReadFile(os.Args[0]))(t)
	ok(t, os.WriteFile(exe, raw, 0o755))
	cmd := exec.Command(exe, "-test.run=^(TestFaults|TestPauseAndKill|TestSmallDisk)$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir, "CI=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), ErrNoPrivilege.Error()) {
		t.Skipf("the kernel allows no unprivileged user namespaces:\n%s", out)
	}
	if err != nil || strings.Count(string(out), "--- PASS") != 3 {
		t.Fatalf("%v\n%s", err, out)
	}
}
