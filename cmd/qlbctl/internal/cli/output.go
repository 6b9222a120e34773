package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/config"
)

// table is rows under a header.
type table struct {
	header []string
	rows   [][]string
}

func newTable(header ...string) *table { return &table{header: header} }

// row adds a row; an empty cell becomes "-".
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = words.OrNone(clean(c))
	}
	t.rows = append(t.rows, cells)
}

// write aligns the columns.
func (t *table) write(w io.Writer, indent string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, r := range append([][]string{t.header}, t.rows...) {
		if _, err := fmt.Fprintln(tw, indent+strings.Join(r, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// clean takes out what could move a terminal's cursor: texts come from the
// network.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, s)
}

// fields is "Name:  value" lines; a line without a name goes on with the one
// before.
type fields struct{ lines [][2]string }

func (f *fields) add(name, value string) { f.lines = append(f.lines, [2]string{name, clean(value)}) }

// addSome leaves a field without a value out.
func (f *fields) addSome(name, value string) {
	if value != "" && value != words.None {
		f.add(name, value)
	}
}

func (f *fields) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, l := range f.lines {
		name := l[0]
		if name != "" {
			name += ":"
		}
		if _, err := fmt.Fprintf(tw, "%s\t%s\n", name, words.OrNone(l[1])); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// named is an object that -o name can print.
type named interface{ id() string }

// print writes a list of objects in the form that -o asks for; human writes the
// tables.
func (a *app) print(objects []any, human func(w io.Writer, wide bool) error) error {
	switch a.flags.output {
	case "json":
		return config.WriteJSONList(a.env.Stdout, objects...)
	case "yaml":
		return config.WriteYAML(a.env.Stdout, objects...)
	case "name":
		for _, o := range objects {
			if err := a.printName(o); err != nil {
				return err
			}
		}
		return nil
	}
	return human(a.env.Stdout, a.flags.output == "wide")
}

// printOne is print for a single object, which is then not in a list.
func (a *app) printOne(object any, human func(w io.Writer, wide bool) error) error {
	if a.flags.output == "json" {
		return config.WriteJSON(a.env.Stdout, object)
	}
	return a.print([]any{object}, human)
}

func (a *app) printName(o any) error {
	n, ok := o.(named)
	if !ok {
		return usagef("this command has no output of the form name")
	}
	_, err := fmt.Fprintln(a.env.Stdout, n.id())
	return err
}

// Colours of a terminal.
const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	bold  = "\x1b[1m"
	reset = "\x1b[0m"
)

// colour marks a text for a terminal; elsewhere it is left alone.
func (a *app) colour(c, s string) string {
	if !a.env.Terminal || a.env.Getenv("NO_COLOR") != "" {
		return s
	}
	return c + s + reset
}
