package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/session"
)

// loopback is asked where the node does not deliver the service's own addresses.
var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// try runs a check once, and says what it found.
func (r *Runner) try(ctx context.Context, key session.ServiceKey, task *speakerv1.HealthTask) (found string, err error) {
	check := task.GetCheck()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", time.Duration(check.GetTimeoutNanos()))
		}
	}()
	switch {
	case check.GetHttp() != nil:
		return askEach(task, func(at []netip.Addr) (string, error) { return askHTTP(ctx, task, at) })
	case check.GetTcp() != nil:
		return askEach(task, func(at []netip.Addr) (string, error) {
			conn, err := dial(ctx, task, at, check.GetTcp().GetPort())
			if err != nil {
				return "", err
			}
			return "connected to " + conn.RemoteAddr().String(), conn.Close()
		})
	case check.GetExec() != nil:
		return runScript(ctx, r.dir, key, task)
	}
	return "", errors.New("a check that this speaker does not know: upgrade it")
}

// askEach asks each of the service's addresses, if the node delivers them: a listener of
// one family may be dead while that of the other lives. Else one of loopback's will do,
// since most servers listen on one only.
func askEach(task *speakerv1.HealthTask, ask func(at []netip.Addr) (string, error)) (found string, err error) {
	var addrs []netip.Addr
	for _, raw := range task.GetAddresses() {
		if a, ok := netip.AddrFromSlice(raw); ok {
			addrs = append(addrs, a)
		}
	}
	switch {
	case len(task.GetAddresses()) == 0:
		return ask(loopback)
	case len(addrs) == 0:
		return "", errors.New("no address to ask")
	}
	for _, a := range addrs {
		if found, err = ask([]netip.Addr{a}); err != nil && len(addrs) > 1 {
			err = fmt.Errorf("%v: %w", a, err)
		}
		if err != nil {
			return "", err
		}
	}
	return found, nil
}

// dial connects to what serves on this node, at one of the addresses.
func dial(ctx context.Context, task *speakerv1.HealthTask, addrs []netip.Addr, port uint32) (net.Conn, error) {
	if port == 0 {
		port = task.GetPort()
	}
	var d net.Dialer
	var errs []error
	for _, a := range addrs {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errs[0]
}

func askHTTP(ctx context.Context, task *speakerv1.HealthTask, at []netip.Addr) (string, error) {
	check := task.GetCheck().GetHttp()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, task, at, check.GetPort())
		},
	}
	defer transport.CloseIdleConnections()
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+check.GetPath(), nil)
	if err != nil {
		return "", err
	}
	if check.GetHost() != "" {
		req.Host = check.GetHost()
	}
	req.Header.Set("User-Agent", "quorumlb-speaker")
	resp, err := client.Do(req)
	if err != nil {
		var inner *net.OpError
		if errors.As(err, &inner) {
			err = inner
		}
		return "", err
	}
	_ = resp.Body.Close() // the status decides, whatever follows
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return "", errors.New("status " + resp.Status)
	}
	return "status " + resp.Status, nil
}

// leftoverWait is how long the output is waited for of what a script has left running.
const leftoverWait = 100 * time.Millisecond

// ErrNoScripts: the speaker was told of no directory of scripts.
var ErrNoScripts = errors.New("this speaker runs no scripts: start it with --check-dir")

// runScript runs a script of the directory, without arguments and in a process group
// of its own, which ends with the script or the timeout.
func runScript(ctx context.Context, dir string, key session.ServiceKey, task *speakerv1.HealthTask) (string, error) {
	name := task.GetCheck().GetExec().GetScript()
	if dir == "" {
		return "", ErrNoScripts
	}
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("%q is not the name of a script", name)
	}
	// The script runs elsewhere, and what is looked at is to be what is run.
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("script %s: %w", name, errors.Unwrap(err))
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("script %s: not an executable file", name)
	}
	var addrs []string
	for _, raw := range task.GetAddresses() {
		if a, ok := netip.AddrFromSlice(raw); ok {
			addrs = append(addrs, a.String())
		}
	}
	var out tail
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"QUORUMLB_SERVICE=" + key.Namespace + "/" + key.Name,
		"QUORUMLB_ADDRESSES=" + strings.Join(addrs, " "),
	}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = leftoverWait
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it has left running
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has succeeded, and left something that could still write
	}
	if err != nil {
		if text := out.line(); text != "" {
			return "", fmt.Errorf("%w: %s", err, text)
		}
		return "", err
	}
	if text := out.line(); text != "" {
		return text, nil
	}
	return "exit status 0", nil
}

// tail keeps the end of what a script writes.
type tail struct{ b []byte }

const tailSize = 512

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > tailSize {
		t.b = append([]byte(nil), t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

// line is the last line that says anything, at most 200 bytes of it.
func (t *tail) line() string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?")), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	return strings.ToValidUTF8(last[:min(len(last), 200)], "")
}
