package fsm

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Every field of every declared resource comes back: one that is added to the
// contract and forgotten in the encoding fails here.
func TestEveryFieldOfASpecSurvives(t *testing.T) {
	specs := []struct {
		in     proto.Message
		encode func(*encoder, proto.Message)
		decode func(*decoder) proto.Message
	}{
		{&logv1.Pool{}, func(e *encoder, m proto.Message) { e.pool(m.(*logv1.Pool)) }, func(d *decoder) proto.Message { return d.pool() }},
		{&logv1.L2Advertisement{}, func(e *encoder, m proto.Message) { e.advertisement(m.(*logv1.L2Advertisement)) }, func(d *decoder) proto.Message { return d.advertisement() }},
		{&logv1.Service{}, func(e *encoder, m proto.Message) { e.service(m.(*logv1.Service)) }, func(d *decoder) proto.Message { return d.service() }},
		{&logv1.Reservation{}, func(e *encoder, m proto.Message) { e.reservation(m.(*logv1.Reservation)) }, func(d *decoder) proto.Message { return d.reservation() }},
		{&logv1.Link{}, func(e *encoder, m proto.Message) { e.link(m.(*logv1.Link)) }, func(d *decoder) proto.Message { return d.link() }},
	}
	for _, s := range specs {
		n := 0
		for range 2 { // empty, then full
			var e encoder
			s.encode(&e, s.in)
			d := decoder{b: e.b, names: map[string]string{}}
			out := s.decode(&d)
			if d.err != nil || len(d.b) > 0 || !proto.Equal(s.in, out) {
				t.Errorf("%v came back as %v (%v, %d bytes left)", s.in, out, d.err, len(d.b))
			}
			fillMessage(s.in.ProtoReflect(), &n)
		}
	}
}

// Every field of every record comes back.
func TestEveryFieldOfARecordSurvives(t *testing.T) {
	pool := &Pool{Ranges: []Range{{keyOf4(1), keyOf4(9)}}}
	for name, c := range map[string]struct {
		record any
		round  func(any) (any, error)
	}{
		"pool":          {pool, roundOf(encodePool, decodePool)},
		"advertisement": {&Advertisement{}, roundOf(encodeAdvertisement, decodeAdvertisement)},
		"service":       {&Service{}, roundOf(encodeService, decodeService)},
		"address":       {&Address{}, roundOf(encodeAddress, decodeAddress)},
		"free":          {&Free{}, roundOf(encodeFree, decodeFree)},
		"node":          {&Node{}, roundOf(encodeNode, decodeNode)},
		"reservation":   {&Reservation{}, roundOf(encodeReservation, decodeReservation)},
		"namespace":     {&Namespace{}, roundOf(encodeNamespace, decodeNamespace)},
	} {
		n := 0
		fillRecord(reflect.ValueOf(c.record).Elem(), &n)
		switch r := c.record.(type) { // what is derived from the spec
		case *Pool:
			r.Ranges, r.Spec.Addresses = []Range{{keyOf4(1), keyOf4(9)}}, []string{"0.0.0.1-0.0.0.9"}
		case *Reservation:
			r.Ranges, r.Spec.Addresses = []Range{{keyOf4(1), keyOf4(9)}}, []string{"0.0.0.1-0.0.0.9"}
		case *Namespace:
			*r = *newNamespace(r.Spec, r.DefinedAt)
		case *Service:
			r.Key = KeyOf(r.Spec.Namespace, r.Spec.Name)
		}
		out, err := c.round(c.record)
		if err != nil || !equalRecords(c.record, out) {
			t.Errorf("%s: %+v came back as %+v, %v", name, c.record, out, err)
		}
	}
}

func roundOf[K comparable, V any](encode func(*encoder, *V), decode func(*decoder) (K, *V)) func(any) (any, error) {
	return func(in any) (any, error) {
		var e encoder
		encode(&e, in.(*V))
		d := decoder{b: e.b, names: map[string]string{}}
		_, out := decode(&d)
		if d.err == nil && len(d.b) > 0 {
			return out, fmt.Errorf("%d bytes left", len(d.b))
		}
		return out, d.err
	}
}

func TestDamagedValues(t *testing.T) {
	for name, c := range map[string]struct {
		raw  []byte
		read func(*decoder)
		want error
	}{
		"number that is longer than it need be": {[]byte{0x80, 0x00}, func(d *decoder) { d.uint() }, ErrCorrupt},
		"number without an end":                 {[]byte{0x80}, func(d *decoder) { d.uint() }, ErrCorrupt},
		"string longer than the row":            {[]byte{5, 'a'}, func(d *decoder) { d.str() }, ErrCorrupt},
		"list longer than the row":              {[]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, func(d *decoder) { d.strs() }, ErrCorrupt},
		"truth of 2":                            {[]byte{2}, func(d *decoder) { d.bool() }, ErrCorrupt},
		"address of 5 bytes":                    {[]byte{5, 1, 2, 3, 4, 5}, func(d *decoder) { d.addr() }, ErrCorrupt},
		"keys out of order":                     {[]byte{2, 1, 'b', 0, 1, 'a', 0}, func(d *decoder) { d.labels() }, ErrCorrupt},
		"one key twice":                         {[]byte{2, 1, 'a', 0, 1, 'a', 0}, func(d *decoder) { d.labels() }, ErrCorrupt},
		"value without a name":                  {[]byte{9}, func(d *decoder) { decodeEnum[logv1.Placement](d, logv1.Placement_name) }, ErrUnknown},
		"value of 33 bits":                      {[]byte{0x80, 0x80, 0x80, 0x80, 0x10}, func(d *decoder) { decodeEnum[logv1.Placement](d, logv1.Placement_name) }, ErrUnknown},
		"nothing":                               {nil, func(d *decoder) { d.addr() }, ErrCorrupt},
		"more than 32 bits":                     {[]byte{0x80, 0x80, 0x80, 0x80, 0x10}, func(d *decoder) { d.uint32() }, ErrCorrupt},
	} {
		d := &decoder{b: c.raw}
		c.read(d)
		if !errors.Is(d.err, c.want) {
			t.Errorf("%s: %v", name, d.err)
		}
	}
	for _, v := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64} {
		var e encoder
		e.int(v)
		if got := (&decoder{b: e.b}).int(); got != v {
			t.Errorf("%d came back as %d", v, got)
		}
	}
}
