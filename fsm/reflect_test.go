package fsm_test

import (
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
