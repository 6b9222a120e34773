package pulse

import (
	"time"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// Refusals have the same numbers here and on the wire.
var _ = [1]struct{}{}[lease.Predecessor-lease.Refusal(speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_PREDECESSOR)]

func ackTo(a lease.Ack) *memberv1.SpeakerAck {
	return &memberv1.SpeakerAck{
		Node: a.Node, Session: a.Session, AckedSeq: a.Seq, FenceNanos: int64(a.Fence), DetectionNanos: int64(a.Detection),
		Refusal: int32(a.Refusal), NeedRevision: a.Need,
	}
}

func ackFrom(a *memberv1.SpeakerAck) lease.Ack {
	return lease.Ack{
		Node: a.GetNode(), Session: a.GetSession(), Seq: a.GetAckedSeq(),
		Fence: time.Duration(a.GetFenceNanos()), Detection: time.Duration(a.GetDetectionNanos()),
		Refusal: lease.Refusal(a.GetRefusal()), Need: a.GetNeedRevision(),
	}
}

func reportTo(r lease.Report) *memberv1.PulseResponse {
	resp := &memberv1.PulseResponse{
		Poll: r.Poll, CurrentTerm: r.Term, UpNanos: int64(r.Up), StallNanos: int64(r.Stall),
		Heard:    make([]*memberv1.Heard, 0, len(r.Heard)),
		Silences: make([]*memberv1.Silence, 0, len(r.Silences)),
	}
	for _, hb := range r.Heard {
		resp.Heard = append(resp.Heard, &memberv1.Heard{Node: hb.Node, Session: hb.Session, Seq: hb.Seq, Seen: hb.Seen})
	}
	for _, s := range r.Silences {
		resp.Silences = append(resp.Silences, &memberv1.Silence{Node: s.Node, Session: s.Session, UnheardNanos: int64(s.Unheard)})
	}
	return resp
}

func reportFrom(resp *memberv1.PulseResponse) lease.Report {
	r := lease.Report{
		Poll: resp.GetPoll(), Term: resp.GetCurrentTerm(),
		Up: time.Duration(resp.GetUpNanos()), Stall: time.Duration(resp.GetStallNanos()),
	}
	for _, hb := range resp.GetHeard() {
		r.Heard = append(r.Heard, lease.Heartbeat{Node: hb.GetNode(), Session: hb.GetSession(), Seq: hb.GetSeq(), Seen: hb.GetSeen()})
	}
	for _, s := range resp.GetSilences() {
		r.Silences = append(r.Silences, lease.Silence{
			Node: s.GetNode(), Session: s.GetSession(), Unheard: max(0, time.Duration(s.GetUnheardNanos())),
		})
	}
	return r
}
