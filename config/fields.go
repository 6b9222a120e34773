package config

import (
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// fieldSet maps the names of a struct's fields to where they are.
type fieldSet struct {
	index map[string][]int
	order []string
}

var fieldSets sync.Map // reflect.Type -> *fieldSet

func fieldSetOf(t reflect.Type) *fieldSet {
	if s, ok := fieldSets.Load(t); ok {
		return s.(*fieldSet)
	}
	s := &fieldSet{index: map[string][]int{}}
	s.add(t, nil)
	fieldSets.Store(t, s)
	return s
}

// add takes a field's name from its yaml tag, or else from its json tag. A
// field without either, or named "-", cannot be set from a file; the fields of
// an embedded struct without a name, or with ",inline", belong to the outer one.
func (s *fieldSet) add(t reflect.Type, prefix []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), prefix...), i)
		tag, ok := f.Tag.Lookup("yaml")
		if !ok {
			tag = f.Tag.Get("json")
		}
		name, options, _ := strings.Cut(tag, ",")
		inline := f.Anonymous && name == "" || strings.Contains(options, "inline")
		switch {
		case name == "-":
		case inline && f.Type.Kind() == reflect.Struct:
			s.add(f.Type, index)
		case f.IsExported() && name != "":
			s.index[name] = index
			s.order = append(s.order, name)
		}
	}
}

func fieldsOf(t reflect.Type) map[string][]int { return fieldSetOf(t).index }

// fieldNames are in the order of the struct.
func fieldNames(t reflect.Type) []string { return fieldSetOf(t).order }

// unknownField says why a struct does not take a name, and which it takes.
func unknownField(v reflect.Value, key string) string {
	names := fieldNames(v.Type())
	allowed := "allowed: " + strings.Join(names, ", ")
	if noter, ok := v.Interface().(fieldNoter); ok {
		if note := noter.fieldNote(key); note != "" {
			return note + "; " + allowed
		}
	}
	if near := nearest(key, names); near != "" {
		return "unknown field; did you mean " + near + "? " + allowed
	}
	return "unknown field; " + allowed
}

// nearest finds the one name that key is probably a slip of, or "".
func nearest(key string, names []string) string {
	best, bestDistance := "", 3
	for _, n := range names {
		if strings.EqualFold(n, key) {
			return n
		}
		if d := distance(strings.ToLower(key), strings.ToLower(n)); d < bestDistance && d*2 <= len(n) {
			best, bestDistance = n, d
		}
	}
	return best
}

// distance counts the letters to insert, drop or change (Levenshtein) between
// two short names; far for long ones.
func distance(a, b string) int {
	const far = 1 << 10
	if len(a) > 64 || len(b) > 64 {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

func joinField(path, name string) string {
	if !plainName.MatchString(name) {
		return joinKey(path, name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func joinKey(path, key string) string { return path + "[" + strconv.Quote(shorten(key)) + "]" }

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
