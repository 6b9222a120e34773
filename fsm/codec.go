package fsm

import (
	"encoding/binary"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
)

// The encoding of rows is our own and not protobuf's: a digest has to be the
// same in every release and build, which protobuf does not promise, and the
// same value must have one encoding only. Numbers are minimal varints, lists
// and strings have their length in front, maps are sorted by key.

// encoder appends values to a row.
type encoder struct{ b []byte }

func (e *encoder) uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)   { e.b = binary.AppendVarint(e.b, v) }

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) str(v string) {
	e.uint(uint64(len(v)))
	e.b = append(e.b, v...)
}

func (e *encoder) bytes(v []byte) {
	e.uint(uint64(len(v)))
	e.b = append(e.b, v...)
}

func (e *encoder) addr(a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		e.b = append(append(e.b, 4), b[:]...)
		return
	}
	b := a.As16()
	e.b = append(append(e.b, 16), b[:]...)
}

func (e *encoder) key(k ServiceKey) {
	e.str(k.Namespace)
	e.str(k.Name)
}

func (e *encoder) strs(v []string) { encodeList(e, v, (*encoder).str) }

func (e *encoder) labels(m map[string]string) {
	encodeMap(e, m, (*encoder).str)
}

func encodeMap[V any](e *encoder, m map[string]V, value func(*encoder, V)) {
	e.uint(uint64(len(m)))
	if len(m) == 0 {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e.str(k)
		value(e, m[k])
	}
}

func encodeList[T any](e *encoder, list []T, item func(*encoder, T)) {
	e.uint(uint64(len(list)))
	for _, v := range list {
		item(e, v)
	}
}

// decoder takes values from a row. The first damage sticks in err, and
// everything after it reads as zero.
type decoder struct {
	b   []byte
	err error
	// names holds the strings that come again and again: pools, nodes, namespaces.
	names map[string]string
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = corruptf("%s", what)
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && n != (bits.Len64(v)+6)/7 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	u := d.uint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) bool() bool {
	v := d.take(1)
	if v == nil {
		return false
	}
	if v[0] > 1 {
		d.fail("truth value")
	}
	return v[0] == 1
}

// take gives the next n bytes, nil when there are fewer.
func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail("length")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) str() string { return string(d.take(d.uint())) }

// name is a string that many rows have.
func (d *decoder) name() string {
	v := d.take(d.uint())
	if known, ok := d.names[string(v)]; ok {
		return known
	}
	s := string(v)
	if d.names != nil {
		d.names[s] = s
	}
	return s
}

func (d *decoder) bytes() []byte {
	if v := d.take(d.uint()); len(v) > 0 {
		return slices.Clone(v)
	}
	return nil
}

// array fills dst.
func (d *decoder) array(dst []byte) { copy(dst, d.take(uint64(len(dst)))) }

func (d *decoder) addr() netip.Addr {
	n := d.take(1)
	if n == nil {
		return netip.Addr{}
	}
	a, err := ToAddr(d.take(uint64(n[0])))
	if err != nil {
		d.fail("address")
	}
	return a
}

func (d *decoder) key() ServiceKey { return ServiceKey{Namespace: d.name(), Name: d.str()} }

func (d *decoder) strs() []string { return decodeList(d, (*decoder).str) }

func (d *decoder) labels() map[string]string { return decodeMap(d, (*decoder).name) }

// count reads a list's length. Every item takes a byte at least, so a larger
// number is damage, and no memory is set aside for it.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("count")
		return 0
	}
	return int(n)
}

func decodeMap[V any](d *decoder, value func(*decoder) V) map[string]V {
	n := d.count()
	if n == 0 {
		return nil
	}
	m := make(map[string]V, n)
	last := ""
	for i := range n {
		k := d.name()
		if i > 0 && k <= last {
			d.fail("order of keys")
		}
		last = k
		m[k] = value(d)
	}
	return m
}

func decodeList[T any](d *decoder, item func(*decoder) T) []T {
	n := d.count()
	if n == 0 {
		return nil
	}
	list := make([]T, 0, n)
	for range n {
		list = append(list, item(d))
	}
	return list
}

// decodeEnum reads a value that the enum's names must have.
func decodeEnum[E ~int32](d *decoder, names map[int32]string) E {
	v := d.uint()
	if _, ok := names[int32(v)]; !ok || v > 1<<30 {
		if d.err == nil {
			d.err = unknownf("value %d", v)
		}
		d.b = nil
		return 0
	}
	return E(v)
}
