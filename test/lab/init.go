package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ErrNoPrivilege says why network namespaces cannot be made here.
var ErrNoPrivilege = errors.New("lab: no right to make network namespaces")

const (
	// envRole makes a copy of the program play a part in the lab (a server
	// on a host) instead of being itself.
	envRole = "QUORUMLB_LAB_ROLE"
	// envUserns marks the copy that runs inside a user namespace.
	envUserns = "QUORUMLB_LAB_USERNS"

	netnsDir = "/run/netns"
)

// roles are the parts that a copy of this program can play.
var roles = map[string]func(args []string) error{
	"responder": runResponder,
	"burn":      runBurn,
	"try-userns": func([]string) error {
		return errors.Join(prepareUserns(), canMakeNamespaces())
	},
}

// Role adds a part that a copy of this program can play, for StartRole. Call it
// before Init.
func Role(name string, run func(args []string) error) { roles[name] = run }

// Init must be the first call in main, but for Role. In a process that plays a part in a lab
// it does not return. Without the right to make namespaces it runs the program
// again in a user namespace and exits with its status; where the kernel forbids
// that it returns, and New fails with ErrNoPrivilege.
func Init() {
	if role := os.Getenv(envRole); role != "" {
		exit(playRole(role))
	}
	if os.Getenv(envUserns) != "" {
		if err := prepareUserns(); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
		}
		return
	}
	if canMakeNamespaces() != nil && usernsWorks() {
		exit(runInUserns())
	}
}

// Main is Init and the tests of a package, for TestMain.
func Main(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// Require skips the test, with the reason, when no lab can be made here. Under
// CI=true it fails instead: there the lab must work.
func Require(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("the lab is not for -short")
	}
	if err := canMakeNamespaces(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func playRole(role string) error {
	run, ok := roles[role]
	if !ok {
		return fmt.Errorf("unknown role %q", role)
	}
	return run(os.Args[1:])
}

func exit(err error) {
	var status *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &status) && status.ExitCode() > 0:
		os.Exit(status.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// canMakeNamespaces tries it, on a thread that is thrown away.
func canMakeNamespaces() error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("%w (%w): run as root, or allow unprivileged user namespaces "+
			"(sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", ErrNoPrivilege, err)
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrNoPrivilege, err)
	}
	return nil
}

// usernsWorks tries the whole of it with a program that does nothing: some
// kernels let the namespace be made and then refuse every right in it.
func usernsWorks() bool {
	exe, err := os.Executable()
	if err != nil {
		return false
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envUserns+"=try", envRole+"=try-userns")
	cmd.SysProcAttr = usernsAttr()
	return cmd.Run() == nil
}

func usernsAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		GidMappingsEnableSetgroups: false,
		Pdeathsig:                  unix.SIGTERM,
	}
}

// runInUserns runs this program again, with all rights over namespaces that it
// makes and none over the machine. The network stays the machine's.
func runInUserns() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the death signal comes when the starting thread ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envUserns+"=1")
	cmd.SysProcAttr = usernsAttr()
	if err := cmd.Start(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer func() { signal.Stop(signals); close(signals) }()
	go func() {
		for s := range signals {
			if s != unix.SIGINT { // the terminal sends that one to the whole group
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	return cmd.Wait()
}

// prepareUserns gives this mount namespace a /run/netns that we may write.
func prepareUserns() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	target := netnsDir
	if _, err := os.Stat(netnsDir); err != nil {
		target = "/run"
	}
	if err := unix.Mount("qlab", target, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", target, err)
	}
	return os.MkdirAll(netnsDir, 0o755)
}

// InUserns says whether the lab lives in a user namespace; looking into it from
// outside then needs nsenter with that process id.
func InUserns() (pid int, ok bool) {
	return os.Getpid(), strings.TrimSpace(os.Getenv(envUserns)) != ""
}
