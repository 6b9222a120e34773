package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const namePrefix = "qlab-"

// ownName matches the names of namespaces and directories: process id and start
// time of the process that made them, so that a reused id is no confusion.
var ownName = regexp.MustCompile(`^qlab-(\d+)-(\d+)-\d+`)

func thisProcess() (string, error) {
	start, err := startTime(os.Getpid())
	return fmt.Sprintf("%d-%d", os.Getpid(), start), err
}

// startTime is field 22 of /proc/PID/stat: clock ticks since boot.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is a name in brackets that may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// orphan says whether name was made by a run whose process is gone.
func orphan(name string) bool {
	m := ownName.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err1 := strconv.Atoi(m[1])
	start, err2 := strconv.ParseUint(m[2], 10, 64)
	if errors.Join(err1, err2) != nil {
		return false
	}
	now, err := startTime(pid)
	return err != nil || now != start
}

// Sweep removes what dead runs left behind and names what it removed. It never
// touches anything of a living process or of another program.
func Sweep() (removed []string) {
	namespaces, _ := os.ReadDir(netnsDir)
	for _, e := range namespaces {
		path := filepath.Join(netnsDir, e.Name())
		if !orphan(e.Name()) {
			continue
		}
		killInNamespace(path)
		if removeNamespace(path) == nil {
			removed = append(removed, path)
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), namePrefix+"*"))
	for _, dir := range dirs {
		if !orphan(filepath.Base(dir)) {
			continue
		}
		unmountBelow(dir)
		if os.RemoveAll(dir) == nil {
			removed = append(removed, dir)
		}
	}
	return removed
}

// killInNamespace kills every process whose network namespace is the one at
// path. It returns how many it found.
func killInNamespace(path string) (found int) {
	var want unix.Stat_t
	if unix.Stat(path, &want) != nil {
		return 0
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() {
			continue
		}
		var have unix.Stat_t
		if unix.Stat(filepath.Join(proc, "ns/net"), &have) != nil || have.Ino != want.Ino || have.Dev != want.Dev {
			continue
		}
		found++
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return found
}

func unmountBelow(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}
