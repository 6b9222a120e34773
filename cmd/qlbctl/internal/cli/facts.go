package cli

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// eventReport is a fact for programs.
type eventReport struct {
	Revision uint64 `json:"revision"`
	Position uint32 `json:"position"`
	Time     string `json:"time"`
	Actor    string `json:"actor"`
	// Type is the event's name in the log, for example "OwnerAssigned".
	Type    string `json:"type"`
	About   string `json:"about"`
	Message string `json:"message"`
	// Fact is the event's own fields.
	Fact any `json:"fact"`
}

func newEventReport(e *adminv1.EventsResponse) eventReport {
	subject, sentence := words.Event(e.GetEvent())
	r := eventReport{
		Revision: e.GetRevision(), Position: e.GetPosition(), Time: moment(e.GetTimeUnixNano()), Actor: e.GetActor(),
		About: subject, Message: sentence,
	}
	r.Type, r.Fact = factOf(e.GetEvent())
	return r
}

// factOf finds the one fact of an event.
func factOf(ev *logv1.Event) (name string, fields map[string]any) {
	m := ev.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("fact"))
	if fd == nil {
		return "Unknown", map[string]any{}
	}
	return string(fd.Message().Name()), messageFields(m.Get(fd).Message())
}

// messageFields is a message as JSON has it, but bytes are what they stand for:
// addresses, hardware addresses, or else hexadecimal; not base64.
func messageFields(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			entries := map[string]any{}
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				entries[k.String()] = fieldValue(fd.MapValue(), e)
				return true
			})
			out[fd.JSONName()] = entries
		case fd.IsList():
			var items []any
			for i := range v.List().Len() {
				items = append(items, fieldValue(fd, v.List().Get(i)))
			}
			out[fd.JSONName()] = items
		default:
			out[fd.JSONName()] = fieldValue(fd, v)
		}
		return true
	})
	return out
}

func fieldValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return messageFields(v.Message())
	case protoreflect.EnumKind:
		if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
			return string(ev.Name())
		}
		return int32(v.Enum())
	case protoreflect.BytesKind:
		switch name := string(fd.Name()); {
		case strings.HasSuffix(name, "mac"), strings.HasSuffix(name, "macs"):
			return words.MAC(v.Bytes())
		case strings.HasPrefix(name, "address"):
			return words.Addr(v.Bytes())
		}
		return hex.EncodeToString(v.Bytes())
	}
	return v.Interface()
}

// writeJSONLine writes one value on one line.
func writeJSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
