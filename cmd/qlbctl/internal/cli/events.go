package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/client"
	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/config"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// followPause is between two tries to follow events from another member.
const followPause = 500 * time.Millisecond

func (a *app) eventsCmd() *cobra.Command {
	var follow bool
	var from, address, service, node string
	cmd := command(&cobra.Command{
		Use:   "events",
		Short: "Print the facts of the log, and follow them as they happen",
		Long: `Print the facts of the log in their order: everything that some member still keeps, or
what came since a revision, a time span or a time. With --follow go on printing; a
member that goes away is replaced by another without a gap.

With -o json each fact is one line.`,
		Example: `  qlbctl events --follow                     # from now on
  qlbctl events --follow --since 10m         # the last ten minutes, then what comes
  qlbctl events --since 03:00 --node n1
  qlbctl events --since 1234 -o json | jq -r .message`,
		Args:              args(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, _ []string) error {
		req, err := a.eventsRequest(from, address, service, node)
		if err != nil {
			return err
		}
		if !follow {
			return a.listEvents(ctx, req, a.printEvent)
		}
		if from == "" {
			s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{Stale: true})
			if err != nil {
				return err
			}
			req.SinceRevision = s.GetRevision() + 1
		}
		return a.followEvents(ctx, req)
	})
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on printing what happens, until interrupted")
	f.StringVar(&from, "since", "", "begin at a revision, a time span ago or a time (see the examples)")
	f.StringVar(&address, "address", "", "only facts about this address")
	f.StringVar(&service, "service", "", "only facts about this service, NAMESPACE/NAME")
	f.StringVar(&node, "node", "", "only facts about this node")
	a.completeFlag(cmd, "address", "vips")
	a.completeFlag(cmd, "service", "services")
	a.completeFlag(cmd, "node", "nodes")
	return cmd
}

func (a *app) eventsRequest(from, address, service, node string) (*adminv1.EventsRequest, error) {
	since, err := parseInstant("since", from, a.env.Now())
	if err != nil {
		return nil, err
	}
	if address != "" {
		if address, err = parseAddress(address); err != nil {
			return nil, err
		}
	}
	if service != "" {
		k, _ := findKind("services", false)
		t, err := newTarget(k, service, "")
		if err != nil {
			return nil, err
		}
		service = t.full()
	}
	return &adminv1.EventsRequest{
		SinceRevision: since.revision, SinceUnixNano: since.unixNano,
		Address: address, Service: service, Node: node, Stale: a.flags.stale,
	}, nil
}

// listEvents passes on what is there, within the timeout.
func (a *app) listEvents(ctx context.Context, req *adminv1.EventsRequest, each func(*adminv1.EventsResponse) error) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	var last position
	return c.Call(ctx, func(ctx context.Context, api adminv1.AdminServiceClient) error {
		return last.read(ctx, api, req, each)
	})
}

// followEvents goes on for ever, from member to member.
func (a *app) followEvents(ctx context.Context, req *adminv1.EventsRequest) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	req.Follow = true
	var last position
	for {
		err := c.Stream(ctx, func(ctx context.Context, api adminv1.AdminServiceClient) error {
			return last.read(ctx, api, req, a.printEvent)
		})
		var unreachable *client.Unreachable
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: that is how following ends
		case err == nil, client.Broken(err):
			a.warnf("%s: the stream ended; going on with another member", a.member())
		case errors.As(err, &unreachable) && last.revision > 0:
			a.warnf("%v; trying again", err)
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}

// position is the newest fact that was passed on, so that no member's stream
// repeats one.
type position struct {
	revision uint64
	index    uint32
}

func (p *position) read(ctx context.Context, api adminv1.AdminServiceClient, req *adminv1.EventsRequest, each func(*adminv1.EventsResponse) error) error {
	if p.revision > 0 {
		req.SinceRevision, req.SinceUnixNano = p.revision, 0
	}
	stream, err := api.Events(ctx, req)
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.GetRevision() < p.revision || e.GetRevision() == p.revision && e.GetPosition() <= p.index {
			continue
		}
		p.revision, p.index = e.GetRevision(), e.GetPosition()
		if err := each(e); err != nil {
			return err
		}
	}
}

// printEvent prints one fact as it comes.
func (a *app) printEvent(e *adminv1.EventsResponse) error {
	w := a.env.Stdout
	switch a.flags.output {
	case "json":
		return writeJSONLine(w, newEventReport(e))
	case "yaml":
		fmt.Fprintln(w, "---")
		return config.WriteYAML(w, newEventReport(e))
	case "name":
		return usagef("this command has no output of the form name")
	}
	subject, sentence := words.Event(e.GetEvent())
	_, err := fmt.Fprintf(w, "%s  %-8s  %-16s  %s: %s\n",
		words.Time(e.GetTimeUnixNano()), fmt.Sprintf("%d.%d", e.GetRevision(), e.GetPosition()), words.OrNone(clean(e.GetActor())), clean(subject), clean(sentence))
	return err
}

func (a *app) historyCmd() *cobra.Command {
	var from, namespace string
	var most int
	cmd := command(&cobra.Command{
		Use:   "history (address|service|node) NAME",
		Short: "Tell what happened to an address, a service or a node",
		Long: `Tell what happened to an address, a service or a node, oldest first, as far back as a
member keeps the log. The history of a service includes what happened to its addresses.`,
		Example: `  qlbctl history address 192.0.2.10
  qlbctl history service shop/web --since 2d
  qlbctl history node n1 --tail 20`,
		Args:              args("KIND (address, service, node)", "NAME"),
		ValidArgsFunction: a.completeTargets(false),
	}, func(ctx context.Context, args []string) error {
		req, title, err := a.historyRequest(args[0], args[1], namespace, from)
		if err != nil {
			return err
		}
		events, err := a.tailEvents(ctx, req, most)
		if err != nil {
			return err
		}
		return a.printHistory(ctx, title, events)
	})
	cmd.Flags().StringVar(&from, "since", "", "begin at a revision, a time span ago or a time (as with events)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the service")
	cmd.Flags().IntVar(&most, "tail", 0, "only the newest so many facts; 0: all")
	return cmd
}

func (a *app) historyRequest(word, name, namespace, from string) (*adminv1.EventsRequest, string, error) {
	k, err := findKind(word, false)
	if err != nil {
		return nil, "", err
	}
	t, err := newTarget(k, name, namespace)
	if err != nil {
		return nil, "", err
	}
	var req *adminv1.EventsRequest
	switch k.plural {
	case "vips":
		req, err = a.eventsRequest(from, name, "", "")
	case "services":
		req, err = a.eventsRequest(from, "", t.full(), "")
	case "nodes":
		req, err = a.eventsRequest(from, "", "", name)
	default:
		err = usagef("there is history of an address, a service or a node, not of %s", k.plural)
	}
	return req, t.full(), err
}

// tailEvents gives the newest facts, at most so many of them; 0: all.
func (a *app) tailEvents(ctx context.Context, req *adminv1.EventsRequest, most int) ([]*adminv1.EventsResponse, error) {
	var events []*adminv1.EventsResponse
	err := a.listEvents(ctx, req, func(e *adminv1.EventsResponse) error {
		events = append(events, e)
		if most > 0 && len(events) >= 2*most+64 {
			events = append(events[:0], events[len(events)-most:]...)
		}
		return nil
	})
	if most > 0 && len(events) > most {
		events = events[len(events)-most:]
	}
	return events, err
}

func (a *app) printHistory(ctx context.Context, title string, events []*adminv1.EventsResponse) error {
	var objects []any
	for _, e := range events {
		objects = append(objects, newEventReport(e))
	}
	return a.print(objects, func(w io.Writer, _ bool) error {
		if len(events) > 0 {
			return a.eventTable(events).write(w, "")
		}
		where := ""
		if s, err := call(ctx, a, adminv1.AdminServiceClient.Status, &adminv1.StatusRequest{Stale: true}); err == nil {
			where = fmt.Sprintf(" (%s keeps facts from revision %d on)", s.GetAnsweredBy(), s.GetHistoryFrom())
		}
		_, err := fmt.Fprintf(w, "Nothing is known of %s%s.\n", title, where)
		return err
	})
}

func (a *app) eventTable(events []*adminv1.EventsResponse) *table {
	t := newTable("TIME", "AGO", "REVISION", "ACTOR", "ABOUT", "WHAT")
	for _, e := range events {
		subject, sentence := words.Event(e.GetEvent())
		t.row(words.Time(e.GetTimeUnixNano()), words.Age(a.env.Now(), e.GetTimeUnixNano()),
			fmt.Sprintf("%d.%d", e.GetRevision(), e.GetPosition()), e.GetActor(), subject, sentence)
	}
	return t
}

// historyLines is the end of describe: the newest facts, or why there are none.
func (a *app) historyLines(ctx context.Context, w io.Writer, req *adminv1.EventsRequest, most int) error {
	if most <= 0 {
		return nil
	}
	fmt.Fprintln(w, "\nHistory, newest last:")
	events, err := a.tailEvents(ctx, req, most)
	switch {
	case err != nil:
		_, err = fmt.Fprintln(w, "  not available: "+strings.TrimSpace(clean(status.Convert(err).Message())))
		return err
	case len(events) == 0:
		_, err = fmt.Fprintln(w, "  none is kept")
		return err
	}
	return a.eventTable(events).write(w, "  ")
}
