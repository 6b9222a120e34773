package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// marks in what the models print: #tick#, and heartbeats, which the models do
// not number. #send:A1# is a new one of process A1, #recv:A1:0# the newest one as it reaches the leader of
// term 0, #ack:A1:0# the one that has reached it.
var mark = regexp.MustCompile(`#(send|recv|ack):([^:#]+)(?::(\d+))?#`)

// readable turns the replay of a counterexample into a table of ticks and
// what happens in them; wrong tells what is the matter in the end.
func readable(replay, wrong string) string {
	var out strings.Builder
	sent, reached := map[string]int{}, map[string]int{}
	tick := 0
	for line := range strings.Lines(replay) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#processes") {
			break // what follows is the last state
		}
		switch {
		case line == "#tick#":
			tick++
			continue
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "spin:"):
			continue
		}
		line = mark.ReplaceAllStringFunc(line, func(s string) string {
			f := mark.FindStringSubmatch(s)
			what, process, at := f[1], f[2], f[2]+" "+f[3]
			n := 0
			switch what {
			case "send":
				sent[process]++
				return fmt.Sprintf("heartbeat %d", sent[process])
			case "recv":
				n = sent[process]
				reached[at] = n
			case "ack":
				n = reached[at]
			}
			return fmt.Sprintf("heartbeat %d of %s", n, process)
		})
		fmt.Fprintf(&out, "%4d  %s\n", tick, line)
	}
	fmt.Fprintf(&out, "%4d  WRONG: %s\n", tick, wrong)
	return out.String()
}

// keep compares the traces with those in dir, or writes them. If all, traces that are
// nobody's are errors too, and the page beside dir has to name each trace.
func keep(dir string, results []result, write, all bool) []string {
	page, err := os.ReadFile(dir + ".md")
	if err != nil {
		return []string{err.Error()}
	}
	var failed []string
	want := map[string]bool{}
	for _, r := range results {
		if r.trace == "" {
			continue
		}
		name := r.file()
		want[name] = true
		if !bytes.Contains(page, []byte("("+filepath.Base(dir)+"/"+name+")")) {
			failed = append(failed, fmt.Sprintf("%s.md does not name %s", dir, name))
		}
		text := fmt.Sprintf("Left out: %s\n(test/model/%s.pml, spin %s)\n\ntick\n%s", r.rule, r.model, strings.Join(r.defines(), " "), r.trace)
		path := filepath.Join(dir, name)
		if write {
			err = os.WriteFile(path, []byte(text), 0o644)
		} else {
			var old []byte
			if old, err = os.ReadFile(path); err == nil && string(old) != text {
				err = fmt.Errorf("%s is not what the model says now: run 'go run ./test/model -write' and commit the result\n%s", path, text)
			}
		}
		if err != nil {
			failed = append(failed, err.Error())
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		failed = append(failed, err.Error())
	}
	for _, f := range files {
		if all && !want[f.Name()] {
			failed = append(failed, fmt.Sprintf("%s is no trace of any check: delete it", filepath.Join(dir, f.Name())))
		}
	}
	return failed
}
