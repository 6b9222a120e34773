package session

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counters count what a session does.
type counters struct {
	opened, beats, acks, refused, watches atomic.Uint64
}

var (
	descOpened  = prometheus.NewDesc("quorumlb_speaker_sessions_opened_total", "Sessions opened with the members.", nil, nil)
	descBeats   = prometheus.NewDesc("quorumlb_speaker_heartbeats_total", "Heartbeats made; each goes to all members.", nil, nil)
	descAcks    = prometheus.NewDesc("quorumlb_speaker_heartbeat_acks_total", "Acks that confirmed the node for longer.", nil, nil)
	descRefused = prometheus.NewDesc("quorumlb_speaker_heartbeat_refusals_total", "Refusals of heartbeats, by any member.", nil, nil)
	descWatches = prometheus.NewDesc("quorumlb_speaker_watch_ends_total", "Watches that ended and were begun at another member.", nil, nil)
	descSeen    = prometheus.NewDesc("quorumlb_speaker_revision", "Revision of the view that is in force.", nil, nil)
	descSession = prometheus.NewDesc("quorumlb_speaker_session", "Revision that opened the session; 0 if none is open.", nil, nil)
	descMembers = prometheus.NewDesc("quorumlb_speaker_members", "Members that the speaker knows.", nil, nil)
)

// Describe tells Prometheus which metrics there are.
func (s *Session) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descOpened, descBeats, descAcks, descRefused, descWatches, descSeen, descSession, descMembers} {
		ch <- d
	}
}

// Collect tells Prometheus their values.
func (s *Session) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v *atomic.Uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v.Load()))
	}
	counter(descOpened, &s.counters.opened)
	counter(descBeats, &s.counters.beats)
	counter(descAcks, &s.counters.acks)
	counter(descRefused, &s.counters.refused)
	counter(descWatches, &s.counters.watches)
	st := s.State()
	members, _ := s.roster.get()
	ch <- prometheus.MustNewConstMetric(descSeen, prometheus.GaugeValue, float64(st.Seen))
	ch <- prometheus.MustNewConstMetric(descSession, prometheus.GaugeValue, float64(st.Session))
	ch <- prometheus.MustNewConstMetric(descMembers, prometheus.GaugeValue, float64(len(members)))
}
