package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// demo is a run of the real program.
type demo struct {
	*exec.Cmd
	lines chan string // closed when the output ends
}

func start(t *testing.T, args ...string) *demo {
	t.Helper()
	lab.Require(t)
	program := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	d := &demo{Cmd: exec.CommandContext(t.Context(), program, args...), lines: make(chan string, 1000)}
	d.Stderr = os.Stderr
	out, err := d.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the program's output
		defer close(d.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			d.lines <- s.Text()
		}
	}()
	return d
}

// until reads lines until one holds the text.
func (d *demo) until(t *testing.T, text string) (line string) {
	t.Helper()
	deadline := time.After(3 * time.Minute)
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				t.Fatalf("ended without saying %q", text)
			}
			if strings.Contains(line, text) {
				return line
			}
		case <-deadline:
			t.Fatalf("never said %q", text)
		}
	}
}

// end waits for the program's end and returns its exit status.
func (d *demo) end(t *testing.T) int {
	t.Helper()
	for range d.lines {
	}
	err := d.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return d.ProcessState.ExitCode()
}

// leftovers are namespaces, processes and directories of the run.
func (d *demo) leftovers() (found []string) {
	prefix := fmt.Sprintf("qlab-%d-", d.Process.Pid)
	for _, pattern := range []string{"/run/netns/" + prefix + "*", filepath.Join(os.TempDir(), prefix+"*")} {
		names, _ := filepath.Glob(pattern)
		found = append(found, names...)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if args, _ := os.ReadFile(p); strings.Contains(string(args), prefix) {
			found = append(found, p+": "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}

func TestOneRow(t *testing.T) {
	d := start(t, "-only", "5")
	d.until(t, "EVENT")
	if code := d.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestKeep looks around in a kept lab as the demo says.
func TestKeep(t *testing.T) {
	d := start(t, "-only", "5", "-keep")
	command, _, _ := strings.Cut(d.until(t, "admin qlbctl status"), "   how")
	d.until(t, "Logs, data and certificates")
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput()
		if err == nil && strings.Contains(string(out), "No problems") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err := d.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestInterruptLeavesNothing(t *testing.T) {
	d := start(t, "-only", "6")
	d.until(t, "6 all members stopped")
	if err := d.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.end(t); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
