package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// DecodeStrict fills the struct that v points to from one YAML (or JSON)
// document: the form of the daemons' own configuration files.
//
// Field names come from `yaml` tags, or else `json` tags; a field without a tag
// cannot be set. What the document does not name, or leaves empty, keeps the
// value that v had: fill in defaults before. time.Duration is a string with a
// unit ("750ms"); a type that implements encoding.TextUnmarshaler
// (netip.AddrPort, slog.Level, ...) is a string of its form. Nothing else is
// converted: a number is no string and a string is no number.
//
// An unknown field, a wrong type, a number out of range, a key given twice and a
// second document are refused. The error is an Errors that holds every mistake
// found, each with its line and the field's path; v may then be half filled. When
// r has a name (*os.File), the error has it too. An empty document is no error.
func DecodeStrict(r io.Reader, v any) error {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || rv.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("config: DecodeStrict needs a pointer to a struct, not %T", v)
	}
	name := ""
	if named, ok := r.(interface{ Name() string }); ok {
		name = named.Name()
	}
	dec := yaml.NewDecoder(r)
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return Errors{syntaxError(err, name)}
	}
	var d decoder
	d.value(content(&doc), "", rv.Elem(), 0, false)
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.errs = append(d.errs, syntaxError(err, name))
	case !isNull(content(&second)):
		d.fail(content(&second), "", "a second document begins here; this file must be one")
	}
	for _, e := range d.errs {
		e.File = name
	}
	return d.errs.err()
}

// LoadStrict is DecodeStrict of the file at path.
func LoadStrict(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return DecodeStrict(f, v)
}

// content is the node inside a document node.
func content(doc *yaml.Node) *yaml.Node {
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		return doc.Content[0]
	}
	return doc
}

var syntaxLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// syntaxError turns what the YAML reader says into one of our errors; an error
// of the underlying reader stays readable in it.
func syntaxError(err error, file string) *Error {
	e := &Error{File: file, Problem: strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := syntaxLine.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Column = 1
		e.Problem = m[2]
	}
	e.Problem = "not valid YAML: " + e.Problem
	return e
}
