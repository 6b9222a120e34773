package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A snapshot is
//
//	magic (8 bytes), format version (4 bytes, big endian)
//	the header: a frame of number 0
//	every row: a frame of its type's number; types in the order of their
//	    numbers, rows sorted by key
//	the SHA-256 of all of that, which is also the state's digest
//
// where a frame is number, length and body, both numbers varints.

const snapshotMagic = "QLBstate"

// SnapshotFormat is the newest format that this program reads and writes.
const SnapshotFormat = 1

// maxRow bounds the memory that a damaged length can ask for. No row may be larger,
// or the snapshot could be written and not be read: it is more than any log entry.
const maxRow = 64 << 20

// Header tells which state a snapshot holds.
type Header struct {
	Format         uint32
	ClusterVersion uint32
	ClusterID      [16]byte
	Revision       uint64
	Chain          Hash
	// Time of the newest batch, nanoseconds since 1970 UTC.
	Time int64
	// Counts of rows by type: "service", "address", ...
	Counts Counts
}

// Counts are the numbers of rows in a state.
type Counts struct {
	Pools, Advertisements, Services, Addresses, Free, Nodes, Namespaces, Reservations int
}

// Counts counts the rows of s.
func (s *State) Counts() Counts {
	return Counts{len(s.Pools), len(s.Ads), len(s.Services), len(s.Addresses), len(s.Free), len(s.Nodes), len(s.Namespaces), len(s.Reservations)}
}

// Digest is the SHA-256 over all rows in the encoding of the cluster version.
// Two members with the same facts have the same digest.
func (s *State) Digest() [32]byte {
	w := newFrameWriter(io.Discard)
	if err := w.state(s); err != nil {
		panic("fsm: digest: " + err.Error()) // io.Discard never fails
	}
	return [32]byte(w.sum.Sum(nil))
}

// WriteSnapshot streams s to w. The same state gives the same bytes.
func WriteSnapshot(w io.Writer, s *State) error {
	fw := newFrameWriter(w)
	if err := fw.state(s); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if _, err := w.Write(fw.sum.Sum(nil)); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

type frameWriter struct {
	sum   hash.Hash
	w     *bufio.Writer
	row   encoder
	frame []byte
}

func newFrameWriter(w io.Writer) *frameWriter {
	sum := sha256.New()
	return &frameWriter{sum: sum, w: bufio.NewWriterSize(io.MultiWriter(sum, w), 1<<16)}
}

func (w *frameWriter) state(s *State) error {
	prefix := binary.BigEndian.AppendUint32([]byte(snapshotMagic), SnapshotFormat)
	if _, err := w.w.Write(prefix); err != nil {
		return err
	}
	if err := w.emit(0, func(e *encoder) { encodeHeader(e, s) }); err != nil {
		return err
	}
	for n, t := range rowTypes {
		if t.each == nil {
			continue
		}
		if err := t.each(s, func(body func(*encoder)) error { return w.emit(n, body) }); err != nil {
			return err
		}
	}
	return w.w.Flush()
}

func (w *frameWriter) emit(number int, body func(*encoder)) error {
	w.row.b = w.row.b[:0]
	body(&w.row)
	w.frame = binary.AppendUvarint(w.frame[:0], uint64(number))
	w.frame = binary.AppendUvarint(w.frame, uint64(len(w.row.b)))
	if _, err := w.w.Write(w.frame); err != nil {
		return err
	}
	_, err := w.w.Write(w.row.b)
	return err
}

func encodeHeader(e *encoder, s *State) {
	e.uint(uint64(s.ClusterVersion))
	e.b = append(e.b, s.ClusterID[:]...)
	e.uint(s.Revision)
	e.b = append(e.b, s.Chain[:]...)
	e.int(s.Time)
	for _, t := range rowTypes {
		if t.count != nil {
			e.uint(uint64(t.count(s)))
		}
	}
}

// InspectSnapshot reads a snapshot to its end and checks it, without keeping more than a row.
func InspectSnapshot(r io.Reader) (Header, error) {
	fr := newFrameReader(r)
	h, err := fr.header()
	if err != nil {
		return h, fmt.Errorf("read snapshot: %w", err)
	}
	for {
		switch _, _, err := fr.next(); {
		case errors.Is(err, io.EOF):
			return h, nil
		case err != nil:
			return h, fmt.Errorf("read snapshot: %w", err)
		}
	}
}

// ReadSnapshot restores the state that WriteSnapshot wrote. A damaged or
// truncated snapshot is an ErrCorrupt; one with a format, record or value that
// this program does not know an ErrUnknown.
func ReadSnapshot(r io.Reader) (*State, error) {
	s, err := readSnapshot(newFrameReader(r))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return s, nil
}

func readSnapshot(fr *frameReader) (*State, error) {
	h, err := fr.header()
	if err != nil {
		return nil, err
	}
	s := New()
	s.Revision, s.Chain, s.Time = h.Revision, h.Chain, h.Time
	s.ClusterID, s.ClusterVersion = h.ClusterID, h.ClusterVersion
	d := &decoder{names: map[string]string{}}
	for i := 0; ; i++ {
		number, body, err := fr.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		d.b = body
		rowTypes[number].decode(s, d)
		if d.err == nil && len(d.b) > 0 {
			d.fail("bytes left over")
		}
		if d.err != nil {
			return nil, fmt.Errorf("row %d, %s: %w", i, rowTypes[number].name, d.err)
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.rebuild()
	return s, nil
}

// frameReader reads and checks the frames of a snapshot.
type frameReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	row  bytes.Buffer
	left [len(rowTypes)]uint64
	at   int // the type that is being read
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 1<<16), sum: sha256.New(), at: 1}
}

func (fr *frameReader) header() (h Header, err error) {
	var prefix [len(snapshotMagic) + 4]byte
	if _, err := io.ReadFull(fr.r, prefix[:]); err != nil {
		return h, truncated(err)
	}
	fr.sum.Write(prefix[:])
	if string(prefix[:len(snapshotMagic)]) != snapshotMagic {
		return h, corruptf("not a snapshot")
	}
	h.Format = binary.BigEndian.Uint32(prefix[len(snapshotMagic):])
	if h.Format != SnapshotFormat {
		return h, unknownf("snapshot format %d; this program knows %d", h.Format, SnapshotFormat)
	}
	number, body, err := fr.frame()
	if err != nil {
		return h, err
	}
	if number != 0 {
		return h, corruptf("no header")
	}
	d := &decoder{b: body}
	h.ClusterVersion = d.uint32()
	if d.err == nil && h.ClusterVersion > MaxClusterVersion {
		return h, unknownf("cluster version %d; this program knows up to %d", h.ClusterVersion, MaxClusterVersion)
	}
	d.array(h.ClusterID[:])
	h.Revision = d.uint()
	d.array(h.Chain[:])
	h.Time = d.int()
	for n, t := range rowTypes {
		if t.count != nil {
			fr.left[n] = d.uint()
		}
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes left over")
	}
	if d.err != nil {
		return h, fmt.Errorf("header: %w", d.err)
	}
	n := func(i int) int { return int(min(fr.left[i], 1<<31)) }
	h.Counts = Counts{Pools: n(2), Advertisements: n(3), Services: n(4), Addresses: n(5), Free: n(6), Nodes: n(7), Namespaces: n(8), Reservations: n(9)}
	return h, nil
}

// next gives the next row. After the last, when the checksum is right, it
// gives io.EOF. The body is good until the next call.
func (fr *frameReader) next() (number int, body []byte, err error) {
	for fr.at < len(fr.left) && fr.left[fr.at] == 0 {
		fr.at++
	}
	if fr.at == len(fr.left) {
		return 0, nil, fr.end()
	}
	n, body, err := fr.frame()
	if err != nil {
		return 0, nil, err
	}
	if n >= uint64(len(rowTypes)) || rowTypes[n].decode == nil {
		return 0, nil, unknownf("record type %d", n)
	}
	if n != uint64(fr.at) {
		return 0, nil, corruptf("a %s row where a %s row belongs", rowTypes[n].name, rowTypes[fr.at].name)
	}
	fr.left[fr.at]--
	return fr.at, body, nil
}

func (fr *frameReader) end() error {
	var want [sha256.Size]byte
	if _, err := io.ReadFull(fr.r, want[:]); err != nil {
		return truncated(err)
	}
	if [sha256.Size]byte(fr.sum.Sum(nil)) != want {
		return corruptf("checksum differs")
	}
	if _, err := fr.r.ReadByte(); !errors.Is(err, io.EOF) {
		return corruptf("bytes after the checksum")
	}
	return io.EOF
}

func (fr *frameReader) frame() (number uint64, body []byte, err error) {
	if number, err = fr.uvarint(); err != nil {
		return 0, nil, err
	}
	length, err := fr.uvarint()
	if err != nil {
		return 0, nil, err
	}
	if length > maxRow {
		return 0, nil, corruptf("row of %d bytes", length)
	}
	fr.row.Reset()
	if _, err := io.CopyN(&fr.row, fr.r, int64(length)); err != nil {
		return 0, nil, truncated(err)
	}
	fr.sum.Write(fr.row.Bytes())
	return number, fr.row.Bytes(), nil
}

func (fr *frameReader) uvarint() (v uint64, err error) {
	for i := 0; ; i++ {
		b, err := fr.r.ReadByte()
		if err != nil {
			return 0, truncated(err)
		}
		fr.sum.Write([]byte{b})
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v, nil
		}
		if i == 8 {
			return 0, corruptf("number of more than 63 bits")
		}
	}
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corruptf("truncated")
	}
	return err
}
