package fsm_test

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// mutate puts an unknown field into one message after another, the given one
// and all in it, and calls try while it is there.
func mutate(m protoreflect.Message, try func(where string)) {
	m.SetUnknown(protoreflect.RawFields{0xf8, 0x07, 0x01}) // field 127, varint 1
	try(string(m.Descriptor().FullName()))
	m.SetUnknown(nil)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				mutate(v.List().Get(i).Message(), try)
			}
		case !fd.IsList() && !fd.IsMap() && fd.Message() != nil:
			mutate(v.Message(), try)
		}
		return true
	})
}

// fill gives every field of a message, and of all messages in it, a value that
// is not its zero; n makes values differ.
func fill(m protoreflect.Message, n *int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			*n++
			m.Mutable(fd).Map().Set(protoreflect.ValueOfString(fmt.Sprint("k", *n)).MapKey(), protoreflect.ValueOfString(fmt.Sprint("v", *n)))
		case fd.IsList():
			for range 2 {
				list := m.Mutable(fd).List()
				if fd.Message() != nil {
					fill(list.AppendMutable().Message(), n)
				} else {
					list.Append(value(fd, n))
				}
			}
		case fd.Message() != nil:
			fill(m.Mutable(fd).Message(), n)
		default:
			m.Set(fd, value(fd, n))
		}
	}
}

func value(fd protoreflect.FieldDescriptor, n *int) protoreflect.Value {
	*n++
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprint("s", *n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{1, 2, byte(*n)})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(*n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(*n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(*n))
	default:
		panic("no value of kind " + fd.Kind().String())
	}
}
