package fsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// name demands what Kubernetes demands of most object names (RFC 1123
// subdomain): lower case letters, digits, '-' and '.', at most 253.
func (f *faults) name(path, v string) {
	switch {
	case v == "":
		f.add(path, "is required")
	case len(v) > 253:
		f.add(path, "is longer than 253 characters")
	case !subdomain(v):
		f.add(path, "%q is not a name of lower case letters, digits, '-' and '.' that starts and ends with a letter or digit", v)
	}
}

// label demands an RFC 1123 label, as Kubernetes does of namespaces.
func (f *faults) label(path, v string) {
	switch {
	case v == "":
		f.add(path, "is required")
	case len(v) > 63 || strings.Contains(v, ".") || !subdomain(v):
		f.add(path, "%q is not a name of at most 63 lower case letters, digits and '-' that starts and ends with a letter or digit", v)
	}
}

func subdomain(v string) bool {
	for part := range strings.SplitSeq(v, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, c := range []byte(part) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

// text allows anything that can be printed.
func (f *faults) text(path, v string, most int) {
	if len(v) > most {
		f.add(path, "is longer than %d bytes", most)
	}
	if strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		f.add(path, "holds characters that cannot be printed")
	}
}

func (f *faults) labels(path string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		f.labelKey(path, k)
		f.text(fmt.Sprintf("%s[%s]", path, k), labels[k], 63)
	}
}

func (f *faults) labelKey(path, k string) {
	prefix, name, ok := strings.Cut(k, "/")
	if !ok {
		prefix, name = "", k
	}
	bad := ok && !subdomain(prefix) || name == "" || len(name) > 63 || len(prefix) > 253
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		inner := i > 0 && i < len(name)-1 && strings.IndexByte("-_.", c) >= 0
		bad = bad || !alnum && !inner
	}
	if bad {
		f.add(path, "%q is not a label key", k)
	}
}

// distinct demands names that are there, not too long, and all different.
func (f *faults) distinct(path string, list []string, most int) {
	for i, v := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if v == "" {
			f.add(at, "is empty")
		}
		f.text(at, v, most)
		if slices.Index(list, v) < i {
			f.add(at, "%q comes twice", v)
		}
	}
}

func (f *faults) selectors(path string, list []*logv1.LabelSelector) {
	for i, sel := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if first := slices.IndexFunc(list, func(o *logv1.LabelSelector) bool { return proto.Equal(o, sel) }); first < i {
			f.add(at, "is the same as %s[%d]", path, first)
		}
		f.labels(at+".matchLabels", sel.GetMatchLabels())
		for j, req := range sel.GetMatchExpressions() {
			f.requirement(fmt.Sprintf("%s.matchExpressions[%d]", at, j), req)
		}
	}
}

func (f *faults) requirement(path string, req *logv1.LabelRequirement) {
	f.labelKey(path+".key", req.GetKey())
	for i, v := range req.GetValues() {
		f.text(fmt.Sprintf("%s.values[%d]", path, i), v, 63)
	}
	switch req.GetOperator() {
	case OpIn, OpNotIn:
		if len(req.GetValues()) == 0 {
			f.add(path+".values", "at least one is required with %s", req.GetOperator())
		}
	case OpExists, OpDoesNotExist:
		if len(req.GetValues()) > 0 {
			f.add(path+".values", "must be empty with %s", req.GetOperator())
		}
	default:
		f.add(path+".operator", "%q is none of %s, %s, %s, %s", req.GetOperator(), OpIn, OpNotIn, OpExists, OpDoesNotExist)
	}
}

// known refuses numbers that the enum does not have.
func known[E ~int32](f *faults, path string, v E, names map[int32]string) {
	if _, ok := names[int32(v)]; !ok {
		f.add(path, "unknown value %d", v)
	}
}
