package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/quorumlb/quorumlb/test/scenario"
)

// table prints what each row expected and what the client saw.
func table(out io.Writer, outcomes []scenario.Outcome) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nEVENT\tEXPECTED\tDATAGRAMS LOST\tNEW CONNECTIONS FAILED\tLONGEST GAP\tWHO ANSWERED ARP\t")
	for _, o := range outcomes {
		verdict := "ok"
		if len(o.Misses) > 0 {
			verdict = "MISSED"
		}
		answered := o.Answered
		if o.Overlap > 0 {
			answered += fmt.Sprintf(" (both for %v)", round(o.Overlap))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%v\t%s\t%s\n", o.Event.Name, o.Event.Expected, o.Lost, o.Failed, round(o.Gap), answered, verdict)
	}
	_ = w.Flush()
	var noise time.Duration
	for _, o := range outcomes {
		noise = max(noise, o.Noise)
	}
	fmt.Fprintf(out, "\nA gap is the longest time between two answers to the client, which asks each address every 10 ms.\n"+
		"A probe that no event touches saw gaps of up to %v: so much is this machine.\n", round(noise))
	for _, o := range outcomes {
		for _, m := range o.Misses {
			fmt.Fprintf(out, "MISSED %s: %s\n", o.Event.Name, m)
		}
	}
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
