package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a program that runs on a host, in a process group of its own.
type Process struct {
	Name string
	host *Host
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // valid after done
}

// Start runs a program on the host. Its output is appended to the log file
// <dir>/<host>-<name>.log. It dies with the host and with the lab.
func (h *Host) Start(name string, argv ...string) (*Process, error) {
	return h.start(name, os.Environ(), argv)
}

// StartRole runs a copy of this program that plays one of the lab's own parts, or one
// that Role added.
func (h *Host) StartRole(name, role string, args ...string) (*Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return h.start(name, append(os.Environ(), envRole+"="+role), append([]string{exe}, args...))
}

func (h *Host) start(name string, env, argv []string) (*Process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns == nil {
		return nil, fmt.Errorf("%s: %w", h.name, ErrOff)
	}
	p := &Process{Name: name, host: h, done: make(chan struct{})}
	p.log = filepath.Join(h.lab.dir, h.name+"-"+name+".log")
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := h.ns.do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", h.name, name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.procs = append(h.procs, p)
	return p, nil
}

// Run runs a program on the host to its end and returns its output; the error
// holds the output when the program fails.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	ns, err := h.namespace()
	if err != nil {
		return "", err
	}
	var out []byte
	err = ns.visit(func() error {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", h.name, strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the path of its log file.
func (p *Process) Log() string { return p.log }

// Signal goes to the whole process group; os.ErrProcessDone when there is none any more.
func (p *Process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
	}
	err := unix.Kill(-p.PID(), sig)
	if errors.Is(err, unix.ESRCH) { // reaped, and done not closed yet
		return os.ErrProcessDone
	}
	return err
}

// Pause stops the process where it stands (SIGSTOP).
func (p *Process) Pause() error { return p.Signal(unix.SIGSTOP) }

// Resume is the end of Pause.
func (p *Process) Resume() error { return p.Signal(unix.SIGCONT) }

// Kill ends the process at once (SIGKILL) and waits for it.
func (p *Process) Kill() error {
	err := p.Signal(unix.SIGKILL)
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		<-p.done
		return nil
	}
	return err
}

// Stop asks the process to end (SIGTERM) and waits until it has, or ctx ends.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.Wait(ctx)
}

// Wait waits for the process's own end and returns its failure, if any.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s on %s: %w", p.Name, p.host.name, p.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s on %s still runs: %w", p.Name, p.host.name, context.Cause(ctx))
	}
}

// Running says whether it has been started and has not ended yet; a nil Process
// does not run.
func (p *Process) Running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
