package fsm

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// A member must not skip a fact, and protobuf skips what it does not know. So
// the raw bytes of a batch are walked against tables made once from the
// descriptors: every field must be known, of the right wire type, and a
// singular one (or one of a oneof) must come once.

// maxDepth bounds the nesting of messages; the log's have at most 6 levels.
const maxDepth = 16

var batchSchema = schemaOf(new(logv1.Batch).ProtoReflect().Descriptor(), map[protoreflect.FullName]*schema{})

type schema struct {
	name   string
	fields [64]field // by number
}

type field struct {
	known bool
	wire  protowire.Type
	// packed allows the length-delimited form of a repeated varint.
	packed bool
	// once is the bit that a field sets when it is seen; fields of one oneof
	// share theirs; 0 for repeated fields.
	once    uint64
	message *schema
	enum    protoreflect.EnumValueDescriptors
}

func schemaOf(d protoreflect.MessageDescriptor, done map[protoreflect.FullName]*schema) *schema {
	if s := done[d.FullName()]; s != nil {
		return s
	}
	s := &schema{name: string(d.FullName())}
	done[d.FullName()] = s
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := field{known: true, wire: wireType(fd.Kind())}
		switch {
		case fd.ContainingOneof() != nil:
			f.once = 1 << 63 >> fd.ContainingOneof().Index()
		case !fd.IsList() && !fd.IsMap():
			f.once = 1 << fd.Number()
		default:
			f.packed = fd.IsPacked()
		}
		if fd.Message() != nil {
			f.message = schemaOf(fd.Message(), done)
		}
		if fd.Enum() != nil {
			f.enum = fd.Enum().Values()
		}
		// A number of 64 or more does not fit: the table, and this line, must grow.
		s.fields[fd.Number()] = f
	}
	return s
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	default:
		return protowire.VarintType
	}
}

func (s *schema) check(b []byte, depth int) error {
	if depth > maxDepth {
		return corruptf("%s: nested too deep", s.name)
	}
	var seen uint64
	for len(b) > 0 {
		num, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return corruptf("%s: %v", s.name, protowire.ParseError(n))
		}
		b = b[n:]
		if num >= protowire.Number(len(s.fields)) || !s.fields[num].known {
			return unknownf("%s: field %d", s.name, num)
		}
		f := &s.fields[num]
		if seen&f.once != 0 {
			return corruptf("%s: field %d comes twice", s.name, num)
		}
		seen |= f.once
		n, err := f.check(s, num, wire, b, depth)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// check checks the field's value at the start of b and returns its length.
func (f *field) check(s *schema, num protowire.Number, wire protowire.Type, b []byte, depth int) (int, error) {
	switch {
	case wire == protowire.VarintType && f.wire == wire:
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return 0, corruptf("%s: field %d: %v", s.name, num, protowire.ParseError(n))
		}
		return n, f.checkEnum(s, num, v)
	case wire == protowire.BytesType && f.wire == wire:
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, corruptf("%s: field %d: %v", s.name, num, protowire.ParseError(n))
		}
		if f.message != nil {
			return n, f.message.check(v, depth+1)
		}
		return n, nil
	case wire == protowire.BytesType && f.packed:
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, corruptf("%s: field %d: %v", s.name, num, protowire.ParseError(n))
		}
		return n, f.checkPacked(s, num, v)
	case wire == f.wire:
		n := protowire.ConsumeFieldValue(num, wire, b)
		if n < 0 {
			return 0, corruptf("%s: field %d: %v", s.name, num, protowire.ParseError(n))
		}
		return n, nil
	default:
		return 0, unknownf("%s: field %d of wire type %d", s.name, num, wire)
	}
}

func (f *field) checkPacked(s *schema, num protowire.Number, b []byte) error {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return corruptf("%s: field %d: %v", s.name, num, protowire.ParseError(n))
		}
		if err := f.checkEnum(s, num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (f *field) checkEnum(s *schema, num protowire.Number, v uint64) error {
	if f.enum != nil && f.enum.ByNumber(protoreflect.EnumNumber(v)) == nil {
		return unknownf("%s: field %d: value %d", s.name, num, v)
	}
	return nil
}
