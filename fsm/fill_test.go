package fsm

import (
	"fmt"
	"net/netip"
	"reflect"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func keyOf4(last byte) netip.Addr { return netip.AddrFrom4([4]byte{0, 0, 0, last}) }

// fillMessage gives every field of a message, and of all messages in it, a
// value that is not its zero; n makes values differ.
func fillMessage(m protoreflect.Message, n *int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			for range 2 {
				*n++
				k := protoreflect.ValueOfString(fmt.Sprint("k", *n)).MapKey()
				m.Mutable(fd).Map().Set(k, protoreflect.ValueOfString(fmt.Sprint("v", *n)))
			}
		case fd.IsList():
			for range 2 {
				list := m.Mutable(fd).List()
				if fd.Message() != nil {
					fillMessage(list.AppendMutable().Message(), n)
				} else {
					list.Append(fillScalar(fd, n))
				}
			}
		case fd.Message() != nil:
			fillMessage(m.Mutable(fd).Message(), n)
		default:
			m.Set(fd, fillScalar(fd, n))
		}
	}
}

func fillScalar(fd protoreflect.FieldDescriptor, n *int) protoreflect.Value {
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

// fillRecord does the same to a record of State.
func fillRecord(v reflect.Value, n *int) {
	*n++
	switch p := v.Addr().Interface().(type) {
	case *netip.Addr:
		*p = keyOf4(byte(*n))
		return
	case proto.Message:
		fillMessage(p.ProtoReflect(), n)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillRecord(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fillRecord(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fillRecord(v.Index(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fillRecord(v.Index(i), n)
		}
	case reflect.Map:
		key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillRecord(key, n)
		fillRecord(val, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, val)
	case reflect.String:
		v.SetString(fmt.Sprint("s", *n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n%2 + 1)) // within every enum
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int, reflect.Int64:
		v.SetInt(int64(*n%2 + 1))
	default:
		panic("no value of kind " + v.Kind().String())
	}
}

// equalRecords compares records of which some fields are messages.
func equalRecords(a, b any) bool {
	return equalValues(reflect.ValueOf(a), reflect.ValueOf(b))
}

func equalValues(a, b reflect.Value) bool {
	if m, ok := a.Interface().(proto.Message); ok {
		return proto.Equal(m, b.Interface().(proto.Message))
	}
	switch a.Kind() {
	case reflect.Pointer:
		return equalValues(a.Elem(), b.Elem())
	case reflect.Struct:
		if a.Type() == reflect.TypeFor[netip.Addr]() {
			return a.Interface() == b.Interface()
		}
		for i := range a.NumField() {
			if !equalValues(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !equalValues(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	default:
		return reflect.DeepEqual(a.Interface(), b.Interface())
	}
}
