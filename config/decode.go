package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth bounds nesting, and with it an alias that contains itself.
	maxDepth = 64
	// maxAliased bounds the nodes visited through aliases in one document, so
	// that a few lines cannot unfold to gigabytes.
	maxAliased = 100_000
	// maxErrors is where a hopeless document stops being read.
	maxErrors = 20
)

// fieldNoter is a struct that has something to say about names that it does
// not have, for example of fields that are not supported yet.
type fieldNoter interface {
	// fieldNote returns "" when there is nothing to say about name.
	fieldNote(name string) string
}

// decoder fills Go values from YAML nodes and collects every mistake.
type decoder struct {
	errs    Errors
	aliased int
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	if len(d.errs) >= maxErrors {
		return
	}
	d.errs = append(d.errs, &Error{Line: n.Line, Column: n.Column, Path: path, Problem: fmt.Sprintf(format, args...)})
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	nodeType     = reflect.TypeFor[yaml.Node]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value decodes n into v. An empty value (null) leaves v as it is: unset.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value, depth int, aliased bool) {
	if len(d.errs) >= maxErrors {
		return
	}
	if depth > maxDepth {
		d.fail(n, path, "is nested too deep (%d levels)", maxDepth)
		return
	}
	if n.Kind == yaml.AliasNode {
		n, aliased = n.Alias, true
	}
	if aliased {
		if d.aliased++; d.aliased > maxAliased {
			d.fail(n, path, "the document's aliases unfold to more than %d values", maxAliased)
			return
		}
	}
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(*n))
		return
	}
	if isNull(n) {
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(n, path, v)
	case v.CanAddr() && v.Addr().Type().Implements(textType):
		d.text(n, path, v)
	default:
		d.byKind(n, path, v, depth, aliased)
	}
}

func (d *decoder) byKind(n *yaml.Node, path string, v reflect.Value, depth int, aliased bool) {
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			p.Elem().Set(v.Elem())
		}
		d.value(n, path, p.Elem(), depth+1, aliased)
		v.Set(p)
	case reflect.Struct:
		d.structure(n, path, v, depth, aliased)
	case reflect.Map:
		d.mapping(n, path, v, depth, aliased)
	case reflect.Slice:
		d.list(n, path, v, depth, aliased)
	case reflect.String:
		if s, ok := d.str(n, path); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		var b bool
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(&b) != nil {
			d.fail(n, path, "must be true or false, is %s", describeNode(n))
			return
		}
		v.SetBool(b)
	default:
		d.number(n, path, v)
	}
}

func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value, depth int, aliased bool) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "must be a mapping (%s), is %s", strings.Join(fieldNames(v.Type()), ", "), describeNode(n))
		return
	}
	fields := fieldsOf(v.Type())
	d.pairs(n, path, func(key string, k, val *yaml.Node) {
		at := joinField(path, key)
		index, ok := fields[key]
		if !ok {
			d.fail(k, at, "%s", unknownField(v, key))
			return
		}
		d.value(val, at, v.FieldByIndex(index), depth+1, aliased)
	})
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value, depth int, aliased bool) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "must be a mapping of names to values, is %s", describeNode(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, func(key string, k, val *yaml.Node) {
		at := joinField(path, key)
		if isNull(val) {
			d.fail(k, at, "has no value; write \"\" for an empty string")
			return
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(val, at, e, depth+1, aliased)
		m.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), e)
	})
	v.Set(m)
}

// pairs calls f for each key of a mapping, and refuses keys that are no strings
// and keys that come twice.
func (d *decoder) pairs(n *yaml.Node, path string, f func(key string, k, val *yaml.Node)) {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		switch {
		case k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge":
			d.fail(k, path, "merge keys (<<) are not supported; write the fields out")
			continue
		case k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str":
			d.fail(k, path, "a key must be a string, is %s; quote it", describeNode(k))
			continue
		}
		if line, dup := seen[k.Value]; dup {
			d.fail(k, joinField(path, k.Value), "is given twice, first in line %d", line)
			continue
		}
		seen[k.Value] = k.Line
		f(k.Value, k, val)
	}
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value, depth int, aliased bool) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "must be a list, is %s", describeNode(n))
		return
	}
	s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		at := indexed(path, i)
		if isNull(c) {
			d.fail(c, at, "has no value")
			continue
		}
		d.value(c, at, s.Index(i), depth+1, aliased)
	}
	v.Set(s)
}

func (d *decoder) str(n *yaml.Node, path string) (string, bool) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		return n.Value, true
	}
	hint := ""
	if n.Kind == yaml.ScalarNode {
		hint = "; quote it"
	}
	d.fail(n, path, "must be a string, is %s%s", describeNode(n), hint)
	return "", false
}

func (d *decoder) duration(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		d.fail(n, path, "must be a duration with a unit, such as \"750ms\" or \"24h\", is %s", describeNode(n))
		return
	}
	t, err := time.ParseDuration(n.Value)
	if err != nil {
		d.fail(n, path, "must be a duration with a unit (ns, us, ms, s, m, h), such as \"750ms\" or \"24h\", is %q", n.Value)
		return
	}
	v.SetInt(int64(t))
}

func (d *decoder) text(n *yaml.Node, path string, v reflect.Value) {
	s, ok := n.Value, true
	// A time without quotes is a string all the same.
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!timestamp" {
		s, ok = d.str(n, path)
	}
	if !ok {
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
		d.fail(n, path, "%q: %v", s, err)
	}
}

// leadingZero holds for 010, which readers of YAML disagree about (8 or 10).
func leadingZero(s string) bool {
	s = strings.TrimLeft(s, "+-")
	return len(s) > 1 && s[0] == '0' && s[1] >= '0' && s[1] <= '9'
}

func (d *decoder) number(n *yaml.Node, path string, v reflect.Value) {
	scalar := n.Kind == yaml.ScalarNode
	switch {
	case v.CanInt():
		bits := v.Type().Bits()
		low, high := int64(math.MinInt64)>>(64-bits), int64(math.MaxInt64)>>(64-bits)
		var i int64
		if !scalar || n.ShortTag() != "!!int" || leadingZero(n.Value) || n.Decode(&i) != nil || i < low || i > high {
			d.fail(n, path, "must be a whole number from %d to %d, is %s", low, high, describeNode(n))
			return
		}
		v.SetInt(i)
	case v.CanUint():
		high := uint64(math.MaxUint64) >> (64 - v.Type().Bits())
		var u uint64
		if !scalar || n.ShortTag() != "!!int" || leadingZero(n.Value) || n.Decode(&u) != nil || u > high {
			d.fail(n, path, "must be a whole number from 0 to %d, is %s", high, describeNode(n))
			return
		}
		v.SetUint(u)
	case v.CanFloat():
		var f float64
		if !scalar || n.ShortTag() != "!!int" && n.ShortTag() != "!!float" || n.Decode(&f) != nil {
			d.fail(n, path, "must be a number, is %s", describeNode(n))
			return
		}
		v.SetFloat(f)
	default:
		d.fail(n, path, "cannot be set in a file (Go type %s)", v.Type())
	}
}

func isNull(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// describeNode names what stands there, in a reader's words.
func describeNode(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
	default:
		return "nothing"
	}
	switch n.ShortTag() {
	case "!!str":
		return "the string " + strconv.Quote(shorten(n.Value))
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!bool":
		return "the boolean " + n.Value
	case "!!null":
		return "empty"
	case "!!timestamp":
		return "the date " + shorten(n.Value)
	}
	return fmt.Sprintf("%s (tag %s)", strconv.Quote(shorten(n.Value)), n.ShortTag())
}

// shorten keeps an error on its line.
func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
