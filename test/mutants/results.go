package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// result is what one prover said about one mutant.
type result struct {
	Found bool `json:"found"`
	// Seed is that of the schedule that fails, or of the run.
	Seed uint64 `json:"seed,omitempty"`
	// What is the first violation, More are the others.
	What string   `json:"what,omitempty"`
	More []string `json:"more,omitempty"`
	// Effort is how much it took, or how much was in vain.
	Effort string `json:"effort"`
}

// String is for the progress.
func (r result) String() string {
	if !r.Found {
		return fmt.Sprintf("nothing (%s)", r.Effort)
	}
	return fmt.Sprintf("found (%s; seed %d): %s", r.Effort, r.Seed, r.What)
}

// results are all that is known, by the mutant's text and then by the prover. They outlive
// the command, for the simulation and chaos are seldom asked in one go.
type results map[string]map[string]result

func resultsFile(root string) string { return filepath.Join(root, ".cache", "mutants", "results.json") }

func load(root string) (results, error) {
	known := results{}
	raw, err := os.ReadFile(resultsFile(root))
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, fmt.Errorf("%s: %w; delete it to begin anew", resultsFile(root), err)
	}
	return known, nil
}

func (r results) save(root string) error {
	raw, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(resultsFile(root)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(resultsFile(root), raw, 0o644)
}

// key changes with the mutant's text: what was found of an older one does not count.
func (m mutant) key() string {
	return fmt.Sprintf("%s %.4x", m.Name, sha256.Sum256(fmt.Append(nil, m.edits)))
}

func (r results) of(m mutant) map[string]result { return r[m.key()] }

func (r results) put(m mutant, prover string, res result) {
	if r[m.key()] == nil {
		r[m.key()] = map[string]result{}
	}
	r[m.key()][prover] = res
}

// caught tells whether a prover that runs the code found the mutant.
func (r results) caught(m mutant) bool {
	return slices.ContainsFunc(provers, func(p prover) bool { return r.of(m)[p.name].Found })
}

// foundBy names the first prover that found the mutant; empty: none.
func (r results) foundBy(m mutant) string {
	for _, p := range provers {
		if r.of(m)[p.name].Found {
			return p.name
		}
	}
	if m.model != "" {
		return "model"
	}
	return ""
}

// summary counts, in a sentence, what was found.
func summary(list []mutant, known results) string {
	var sim, more, wire, model, asked int
	var none, later []string
	for _, m := range list {
		switch r := known.of(m); {
		case m.Name == unchanged:
			continue
		case r[simulation].Found:
			sim++
		case r[rules].Found:
			more++
		case r[chaos].Found:
			wire++
		case m.model != "":
			model++
		case len(r) == 0:
			later = append(later, "`"+m.Name+"`")
			continue
		default:
			none = append(none, "`"+m.Name+"`")
		}
		asked++
	}
	s := fmt.Sprintf("Of %d bugs the simulation found %d, the rules of allocation %d more and chaos %d; of %d only the model has the rule that they leave out.",
		asked, sim, more, wire, model)
	if len(none) > 0 {
		s += " Nobody: " + strings.Join(none, ", ") + "."
	}
	if len(later) > 0 {
		s += " Not asked about yet: " + strings.Join(later, ", ") + "."
	}
	return s + "\n"
}

// table lists mutants and what the provers said, in Markdown.
func table(list []mutant, known results) string {
	var b strings.Builder
	b.WriteString(summary(list, known) + "\n")
	b.WriteString("| bug | where | model | simulation | rules | chaos |\n|---|---|---|---|---|---|\n")
	for _, m := range list {
		if m.Name == unchanged {
			continue
		}
		model := ""
		if m.model != "" {
			model = fmt.Sprintf("[%s](model/%s.txt)", m.model, m.model)
		}
		sim := cell(known.of(m)[simulation])
		if m.wire {
			sim = "has a table there"
		}
		what := m.Breaks
		if m.covered != "" {
			what += " (" + m.covered + ")"
		}
		fmt.Fprintf(&b, "| `%s`: %s | %s | %s | %s | %s | %s |\n", m.Name, what, strings.Join(m.files(), ", "), model, sim,
			cell(known.of(m)[rules]), cell(known.of(m)[chaos]))
	}
	return b.String()
}

func cell(r result) string {
	switch {
	case r.Effort == "":
		return ""
	case !r.Found:
		return fmt.Sprintf("nothing in %s", r.Effort)
	}
	return fmt.Sprintf("**%s**: %s (seed %d)", r.Effort, strings.ReplaceAll(short(r.What), "|", "/"), r.Seed)
}

// short is the beginning of a violation.
func short(s string) string {
	const most = 110
	if len(s) <= most {
		return s
	}
	return strings.TrimSpace(s[:most]) + " ..."
}

// files are those that the mutant changes, without doubles.
func (m mutant) files() (list []string) {
	for _, e := range m.edits {
		if len(list) == 0 || list[len(list)-1] != e.file {
			list = append(list, e.file)
		}
	}
	return list
}

const (
	begin = "<!-- begin of the table -->\n"
	end   = "<!-- end of the table -->\n"
)

// writePage puts the table between the markers of docs/mutants.md.
func writePage(root, table string) error {
	page := filepath.Join(root, "docs", "mutants.md")
	raw, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the table: put the lines %q and %q there", page, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+table+"\n"+end+after), 0o644)
}
