package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type daemon struct {
	Name     string            `yaml:"name"`
	Listen   netip.AddrPort    `yaml:"listen"`
	Interval time.Duration     `yaml:"interval"`
	Level    slog.Level        `yaml:"level"`
	Members  []member          `yaml:"members"`
	Labels   map[string]string `yaml:"labels"`
	Rate     uint16            `yaml:"rate"`
	Offset   int8              `yaml:"offset"`
	Load     float64           `yaml:"load"`
	TLS      *tlsFiles         `yaml:"tls"`
	On       bool              `json:"on"`
	Secret   string
	common   `yaml:",inline"`
}

type member struct {
	ID string `yaml:"id"`
}

type tlsFiles struct {
	CA string `yaml:"ca"`
}

type common struct {
	HTTP string `yaml:"http"`
}

func TestDecodeStrict(t *testing.T) {
	got := daemon{Name: "default", Rate: 2000, TLS: &tlsFiles{CA: "default.crt"}}
	err := DecodeStrict(strings.NewReader(`
listen: 10.0.1.1:7400   # a comment
interval: 750ms
level: DEBUG
members: [{id: m1}, {id: m2}]
labels: {rack: "1"}
rate:
offset: -3
load: 0.5
tls: {}
on: true
http: 127.0.0.1:7402
`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := daemon{
		Name: "default", Listen: netip.MustParseAddrPort("10.0.1.1:7400"), Interval: 750 * time.Millisecond,
		Level: slog.LevelDebug, Members: []member{{"m1"}, {"m2"}}, Labels: map[string]string{"rack": "1"},
		Rate: 2000, Offset: -3, Load: 0.5, TLS: &tlsFiles{CA: "default.crt"}, On: true, common: common{"127.0.0.1:7402"},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(daemon{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestDecodeStrictOfNothing(t *testing.T) {
	for _, doc := range []string{"", "# only a comment\n", "---\n", "{}"} {
		v := daemon{Name: "kept"}
		if err := DecodeStrict(strings.NewReader(doc), &v); err != nil || v.Name != "kept" {
			t.Errorf("%q: %v, name %q", doc, err, v.Name)
		}
	}
}

func TestDecodeStrictRefuses(t *testing.T) {
	for _, tt := range []struct{ name, doc, want string }{
		{"unknown field", "nmae: x", "line 1: nmae: unknown field; did you mean name? allowed: name, listen,"},
		{"case", "Name: x", "line 1: Name: unknown field; did you mean name?"},
		{"field without a tag", "Secret: x", "line 1: Secret: unknown field; allowed:"},
		{"nested unknown field", "members:\n- id: a\n- idd: b", "line 3: members[1].idd: unknown field; did you mean id? allowed: id"},
		{"number for string", "name: 5", "line 1: name: must be a string, is the number 5; quote it"},
		{"bool for string", "name: true", "name: must be a string, is the boolean true; quote it"},
		{"string for bool", `on: "true"`, `on: must be true or false, is the string "true"`},
		{"duration without unit", "interval: 750", `interval: must be a duration with a unit, such as "750ms" or "24h", is the number 750`},
		{"bad duration", "interval: 750 msec", `interval: must be a duration with a unit (ns, us, ms, s, m, h), such as "750ms" or "24h", is "750 msec"`},
		{"too large", "rate: 65536", "rate: must be a whole number from 0 to 65535, is the number 65536"},
		{"negative", "rate: -1", "rate: must be a whole number from 0 to 65535, is the number -1"},
		{"too small", "offset: -129", "offset: must be a whole number from -128 to 127"},
		{"fraction", "rate: 1.5", "rate: must be a whole number"},
		{"octal", "rate: 010", "rate: must be a whole number from 0 to 65535, is the number 010"},
		{"no number", "load: [1]", "load: must be a number, is a list"},
		{"bad address", "listen: 10.0.1.1", `listen: "10.0.1.1": `},
		{"mapping for list", "members: {id: a}", "members: must be a list, is a mapping"},
		{"string for mapping", "tls: a", `tls: must be a mapping (ca), is the string "a"`},
		{"list for map", "labels: [a]", "labels: must be a mapping of names to values, is a list"},
		{"null in list", "members: [{id: a}, ]\n#\nlabels: {a: }", `labels.a: has no value`},
		{"null element", "members: [~]", "members[0]: has no value"},
		{"duplicate key", "name: a\nname: b", "line 2: name: is given twice, first in line 1"},
		{"duplicate map key", "labels: {a: x, b: y, a: z}", "labels.a: is given twice"},
		{"number as key", "1: a", "a key must be a string, is the number 1; quote it"},
		{"merge key", "<<: {name: x}", "merge keys (<<) are not supported"},
		{"top level list", "- a", "must be a mapping (name, listen,"},
		{"syntax", "name: [", "not valid YAML: "},
		{"second document", "name: a\n---\nname: b", "line 3: a second document begins here"},
		{"alias that contains itself", "members: &a [*a]", "must be a mapping (id), is a list"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v daemon
			err := DecodeStrict(strings.NewReader(tt.doc), &v)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant     %s", err, tt.want)
			}
		})
	}
}

// A document of nested aliases must not unfold: nine levels of nine are 400
// million values.
func TestDecodeStrictBoundsAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("a: &a [x, x, x, x, x, x, x, x, x]\n")
	for c := 'b'; c <= 'i'; c++ {
		p := string(c - 1)
		b.WriteString(string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+p+",", 9), ",") + "]\n")
	}
	type nest []nest
	var v struct {
		A []string `yaml:"a"`
		B nest     `yaml:"b"`
		C nest     `yaml:"c"`
		D nest     `yaml:"d"`
		E nest     `yaml:"e"`
		F nest     `yaml:"f"`
		G nest     `yaml:"g"`
		H nest     `yaml:"h"`
		I nest     `yaml:"i"`
	}
	start := time.Now()
	if err := DecodeStrict(strings.NewReader(b.String()), &v); err == nil {
		t.Error("accepted")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestDecodeStrictFindsEveryMistake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte("nmae: a\nrate: x\ninterval: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var v daemon
	err := LoadStrict(path, &v)
	var all Errors
	if !errors.As(err, &all) || len(all) != 3 {
		t.Fatalf("want three errors, have %v", err)
	}
	if want := path + ":2:7: rate: must be a whole number"; !strings.HasPrefix(all[1].Error(), want) {
		t.Errorf("%v\nwant %s", all[1], want)
	}
	var one *Error
	if !errors.As(err, &one) || one.Path != "nmae" {
		t.Errorf("errors.As gives %v", one)
	}
}

func TestDecodeStrictNeedsAStruct(t *testing.T) {
	if err := DecodeStrict(strings.NewReader("a: 1"), daemon{}); err == nil {
		t.Error("accepted a struct that cannot be set")
	}
}
