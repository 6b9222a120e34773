package decider

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// MaxResource bounds the encoded size of a resource, in bytes. It is in the log, in
// every snapshot, and in what speakers are told as a whole.
const MaxResource = 1 << 20

// checkResource looks at a resource by itself. Paths are those of its YAML
// document behind path.
func checkResource(f *faults, path string, res *adminv1.Resource) {
	if size := proto.Size(res); size > MaxResource {
		f.add(path, "%s %q has %d bytes, more than %d", resourceKind(res), resourceName(res), size, MaxResource)
		return
	}
	switch {
	case res.GetPool() != nil:
		checkKnown(f, path, res.GetPool())
		f.under(path, fsm.ValidatePool(res.GetPool()))
	case res.GetL2Advertisement() != nil:
		checkKnown(f, path, res.GetL2Advertisement())
		f.under(path, fsm.ValidateAdvertisement(res.GetL2Advertisement()))
	case res.GetService() != nil:
		checkKnown(f, path, res.GetService())
		f.under(path, fsm.ValidateService(res.GetService()))
	case res.GetNamespace() != nil:
		checkKnown(f, path, res.GetNamespace())
		f.under(path, fsm.ValidateNamespace(res.GetNamespace()))
	case res.GetReservation() != nil:
		checkKnown(f, path, res.GetReservation())
		f.under(path, fsm.ValidateReservation(res.GetReservation()))
	default:
		f.add(path, "is empty, or of a kind that this version does not know")
	}
}

// checkKnown refuses what a message holds beyond what this program knows, at any
// depth: fields, values of enums, and text that is not UTF-8. In the log any of
// them would stop every member.
func checkKnown(f *faults, path string, m proto.Message) {
	known(f, path, m.ProtoReflect(), 0)
}

// knownDepth bounds the nesting; resources have at most four levels.
const knownDepth = 10

func known(f *faults, path string, m protoreflect.Message, depth int) {
	if len(m.GetUnknown()) > 0 {
		f.add(path, "has a field that this version does not know")
	}
	if depth > knownDepth {
		f.add(path, "is nested too deep")
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := path + "." + fd.JSONName()
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				knownValue(f, at, fd.MapKey(), k.Value(), depth)
				knownValue(f, at, fd.MapValue(), v, depth)
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				knownValue(f, fmt.Sprintf("%s[%d]", at, i), fd, v.List().Get(i), depth)
			}
		default:
			knownValue(f, at, fd, v, depth)
		}
		return true
	})
}

func knownValue(f *faults, path string, fd protoreflect.FieldDescriptor, v protoreflect.Value, depth int) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		known(f, path, v.Message(), depth+1)
	case protoreflect.EnumKind:
		if fd.Enum().Values().ByNumber(v.Enum()) == nil {
			f.add(path, "unknown value %d", v.Enum())
		}
	case protoreflect.StringKind:
		if !utf8.ValidString(v.String()) {
			f.add(path, "is not UTF-8")
		}
	}
}

// under adds the faults of a part whose path is path.
func (f *faults) under(path string, part []fsm.FieldError) {
	for _, e := range part {
		f.add(path+"."+e.Path, "%s", e.Message)
	}
}

// checkNodeName demands a name that can stand in a certificate, a log and a label.
func checkNodeName(f *faults, path, name string) {
	ok := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
	}
	switch {
	case name == "":
		f.add(path, "is required")
	case len(name) > 253:
		f.add(path, "is longer than 253 characters")
	case strings.ContainsFunc(name, func(c rune) bool { return !ok(c) }):
		f.add(path, "%q holds other characters than letters, digits, '-', '.' and '_'", name)
	}
}

// maxLinks bounds the links that a speaker reports.
const maxLinks = 1024

func checkLinks(f *faults, links []*logv1.Link) {
	if len(links) > maxLinks {
		f.add("links", "%d of them, more than %d", len(links), maxLinks)
		return
	}
	for i, l := range links {
		path := fmt.Sprintf("links[%d]", i)
		checkKnown(f, path, l)
		if l.GetName() == "" {
			f.add(path+".name", "is required")
		}
	}
}

// checkText refuses what the log could not hold.
func checkText(f *faults, path, text string) {
	if !utf8.ValidString(text) {
		f.add(path, "is not UTF-8")
	}
}
