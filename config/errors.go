package config

import (
	"fmt"
	"strings"
)

// Error is one mistake in a file, and where it is.
type Error struct {
	// File as it was named by the caller; empty when it has no name.
	File string
	// Line and Column count from 1; 0 when unknown.
	Line, Column int
	// Document counts from 1 in a file of several documents; 0 in a file that
	// is one.
	Document int
	// Object is "Kind/name" or "Kind/namespace/name"; empty when unknown.
	Object string
	// Path of the field, for example "spec.addresses[1]"; empty when the
	// mistake is not that of a field.
	Path string
	// Problem says what is wrong and what is allowed.
	Problem string
}

// Error gives "file:line:column: document 2: Kind/name: path: problem" without
// the parts that are not known.
func (e *Error) Error() string {
	var parts []string
	switch {
	case e.File != "" && e.Line > 0:
		parts = append(parts, fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column))
	case e.File != "":
		parts = append(parts, e.File)
	case e.Line > 0:
		parts = append(parts, fmt.Sprintf("line %d", e.Line))
	}
	if e.Document > 0 {
		parts = append(parts, fmt.Sprintf("document %d", e.Document))
	}
	for _, s := range []string{e.Object, e.Path, e.Problem} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Errors are all mistakes that were found, in the order of the file.
type Errors []*Error

// Error gives one mistake a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find an *Error.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// err is es as an error: nil when there is none.
func (es Errors) err() error {
	if len(es) == 0 {
		return nil
	}
	return es
}
