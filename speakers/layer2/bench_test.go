package layer2

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// replies makes a function that has one question answered by a responder whose
// wire leads nowhere.
func replies(t testing.TB, question []byte) func() Verdict {
	r := newPacketResponder(clock.Boottime, discard{}, discard{})
	table := fuzzTable()
	table.wanted = nil
	table.entries[vip4].Mode = Release // so that the clock is asked
	r.Install(table)
	r.Confirm(int64(clock.Boottime.Now()+time.Hour), 0)
	e := r.ears[0]
	if binary.BigEndian.Uint16(question[ethType:]) == 0x86dd {
		e = r.ears[1]
	}
	buf := make([]byte, 512)
	return func() Verdict {
		return r.handle(e, system.Frame{Data: buf[:copy(buf, question)], Link: 1, Type: system.ToAll, Time: time.Now().UnixNano()})
	}
}

// discard is a wire that nothing comes out of.
type discard struct{ conn }

func (discard) Send(int, []byte) error { return nil }

func questions(t testing.TB) map[string][]byte {
	return map[string][]byte{"arp": requestFrame(t, macB, client4, vip4), "ndp": solicitFrame(t, macB, client6, vip6)}
}

func TestReplyAllocatesNothing(t *testing.T) {
	for name, question := range questions(t) {
		answer := replies(t, question)
		if n := testing.AllocsPerRun(1000, func() {
			if v := answer(); v != Replied {
				t.Fatalf("%s: %v", name, v)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per reply", name, n)
		}
	}
}

func BenchmarkReply(b *testing.B) {
	for name, question := range questions(b) {
		b.Run(name, func(b *testing.B) {
			answer := replies(b, question)
			b.ReportAllocs()
			for b.Loop() {
				if v := answer(); v != Replied {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkWire counts replies over a veth to an asker who keeps 64 requests in
// flight, of this responder and of the kernel's own. Allocations are those of
// responder and asker together; the asker makes none.
func BenchmarkWire(b *testing.B) {
	for _, who := range []string{"kernel", "responder"} {
		b.Run(who, func(b *testing.B) {
			seg := nettest.NewSegment(b)
			asker := seg.NewHost("192.0.2.2/24")
			owner := seg.NewHost("192.0.2.11/24")
			if who == "kernel" {
				owner.IP("addr", "add", vip4.String()+"/32", "dev", "eth0")
			} else {
				n := startNode(b, owner, Config{})
				n.confirmFor(time.Hour)
				v := release4
				v.Inherited = true
				n.Apply(View{Cluster: "c", Vips: []Vip{v}})
				nettest.Eventually(b, "announced", n.quiet)
			}
			flood(b, asker)
		})
	}
}

func flood(b *testing.B, asker *nettest.Host) {
	var fd int
	asker.Do(func() (err error) {
		const etherType = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherType, Ifindex: ifi.Index})
	})
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		b.Fatal(err)
	}
	ask := requestFrame(b, system.MAC(asker.MAC), client4, vip4)
	buf := make([]byte, 128)
	b.ReportAllocs()
	inFlight := 0
	for b.Loop() {
		for ; inFlight < 64; inFlight++ {
			if _, err := unix.Write(fd, ask); err != nil {
				b.Fatal(err)
			}
		}
		for {
			n, err := unix.Read(fd, buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				b.Fatalf("lost an answer: %v", err)
			}
			if n >= arpEnd && buf[arpOp+1] == arpReply && buf[0]&1 == 0 {
				inFlight--
				break
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "replies/s")
}
