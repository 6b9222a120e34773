package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestList holds the list against the tree: every text that is replaced stands there once, and
// what it becomes is Go.
func TestList(t *testing.T) {
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	check := newChecker(t, root)
	seen := map[string]bool{}
	for _, m := range mutants {
		t.Run(m.Name, func(t *testing.T) {
			if seen[m.Name] {
				t.Error("the name is taken")
			}
			seen[m.Name] = true
			if m.model != "" {
				if _, err := os.Stat(filepath.Join(root, "docs", "model", m.model+".txt")); err != nil {
					t.Errorf("no trace of that rule: %v", err)
				}
			}
			text, err := m.sources(root)
			if err != nil {
				t.Fatal(err)
			}
			dirs := map[string]bool{}
			for file := range text {
				dirs[filepath.Dir(file)] = true
			}
			for dir := range dirs {
				if err := check.types(dir, text); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// checker type-checks single packages with the compiled ones that they import.
type checker struct {
	root  string
	fset  *token.FileSet
	of    map[string][]string // files by folder
	using types.Importer
}

func newChecker(t *testing.T, root string) *checker {
	c := &checker{root: root, fset: token.NewFileSet(), of: map[string][]string{}}
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{.Dir}}\t{{join .GoFiles \" \"}}"}
	folders := map[string]bool{}
	for _, m := range mutants {
		for _, f := range m.files() {
			folders["./"+filepath.Dir(f)] = true
		}
	}
	for f := range folders {
		args = append(args, f)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	export := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		f := strings.Split(lines.Text(), "\t")
		export[f[0]] = f[1]
		if dir, err := filepath.Rel(root, f[2]); err == nil {
			c.of[dir] = strings.Fields(f[3])
		}
	}
	c.using = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
		if export[path] == "" {
			return nil, fmt.Errorf("%s is not compiled", path)
		}
		return os.Open(export[path])
	})
	return c
}

// types checks the package of a folder with some of its files replaced.
func (c *checker) types(dir string, text map[string]string) error {
	var files []*ast.File
	for _, name := range c.of[dir] {
		file := filepath.Join(dir, name)
		var src any
		if s, ok := text[file]; ok {
			src = s
		}
		f, err := parser.ParseFile(c.fset, filepath.Join(c.root, file), src, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: c.using}
	_, err := conf.Check(dir, c.fset, files, nil)
	return err
}

func TestReadSim(t *testing.T) {
	const found = `    sim_test.go:39: schedules from seed 100 on
    --- FAIL: TestSim/group (1.00s)
            sim_test.go:53: seed 103: 9.1234 s: two answer for 10.0.1.2: n1/p1 and n2/p2
                replay: make sim SEED=103
    sim_test.go:63: 3 schedules in 1.234s, 146 a minute; {}; slowest to settle: 1s
`
	for _, c := range []struct {
		name, out string
		failed    bool
		want      result
		err       bool
	}{
		{name: "found", out: found, failed: true, want: result{
			Found: true, Seed: 103, What: "9.1234 s: two answer for 10.0.1.2: n1/p1 and n2/p2", Effort: "3 schedules, 1.2s"}},
		{name: "nothing", out: "schedules from seed 100 on\n 900 schedules in 1m0.04s, 900 a minute", want: result{Effort: "900 schedules, 1m0s"}},
		{name: "panic", out: "schedules from seed 100 on\npanic: runtime error", failed: true, err: true},
		{name: "deadlock", out: "schedules from seed 100 on\n 3 schedules in 1s,\n deadlock", failed: true, err: true},
		{name: "again", out: "seed 7 failed in 3 of 20 plays: 1.0 s: no", failed: true, want: result{
			Found: true, Seed: 7, What: "1.0 s: no", Effort: "3 of 20 plays"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readSim(c.out, c.failed, "")
			if (err != nil) != c.err || fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestReadRules(t *testing.T) {
	for _, c := range []struct {
		name, out string
		want      result
		err       bool
	}{
		{name: "found", out: `    rules_test.go:30: [rapid] failed after 108 tests: revision 9: 10.0.0.1 was given to sim/s0: it rests
          AddressAllocated 10.0.0.1
        To reproduce, specify -run="TestOperationsAgainstTheRules" -rapid.seed=77
`, want: result{Found: true, Seed: 77, What: "revision 9: 10.0.0.1 was given to sim/s0: it rests", Effort: "109 runs"}},
		{name: "nothing", out: "    rules_test.go:30: [rapid] OK, passed 1000 tests (24.567891s)", want: result{Effort: "1000 runs, 24.6s"}},
		{name: "panic", out: "[rapid] panic after 3 tests: runtime error\n -rapid.seed=77", err: true},
		{name: "flaky", out: "[rapid] flaky test, can not reproduce a failure\n -rapid.seed=77", err: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readRules(c.out, c.want.Found, "")
			if (err != nil) != c.err || fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}
