package layer2

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	descReceived = prometheus.NewDesc("quorumlb_speaker_frames_received_total",
		"ARP and NDP frames received, by what became of them.", []string{"protocol", "verdict"}, nil)
	descSent = prometheus.NewDesc("quorumlb_speaker_frames_sent_total",
		"ARP and NDP frames sent, by what they are for.", []string{"kind"}, nil)
	descLost = prometheus.NewDesc("quorumlb_speaker_frames_lost_total",
		"Frames that the kernel dropped because the speaker was too slow.", []string{"protocol"}, nil)
	descFull = prometheus.NewDesc("quorumlb_speaker_announcements_dropped_total",
		"Announcements that a full send queue swallowed; the next round repeats them.", nil, nil)
	descVips = prometheus.NewDesc("quorumlb_speaker_vips",
		"Addresses that the node owns, by what it does about them.", []string{"state"}, nil)
	descRemaining = prometheus.NewDesc("quorumlb_speaker_confirmation_seconds",
		"How long the node's confirmation still lasts; negative since it ran out, 0 before the first.", nil, nil)
)

// Describe tells Prometheus which metrics there are.
func (l *Layer2) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReceived, descSent, descLost, descFull, descVips, descRemaining} {
		ch <- d
	}
}

// Collect tells Prometheus their values.
func (l *Layer2) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, e := range l.responder.ears {
		for v := Verdict(1); v < verdicts; v++ {
			counter(descReceived, e.received[v].Load(), e.name, v.String())
		}
		if n, err := e.conn.Lost(); err == nil {
			// The kernel counts from zero each time that it is asked.
			counter(descLost, e.lost.Add(uint64(n)), e.name)
		}
	}
	for k := Kind(1); k < kinds; k++ {
		counter(descSent, l.responder.sent[k].Load(), k.String())
	}
	counter(descFull, l.responder.full.Load())
	count := make(map[State]int)
	l.mu.Lock()
	for _, v := range l.vips {
		count[v.status.State]++
	}
	l.mu.Unlock()
	for _, s := range States() {
		ch <- prometheus.MustNewConstMetric(descVips, prometheus.GaugeValue, float64(count[s]), s.String())
	}
	remaining := 0.0
	if l.until() != 0 {
		remaining = l.Confirmed().Seconds()
	}
	ch <- prometheus.MustNewConstMetric(descRemaining, prometheus.GaugeValue, remaining)
}
