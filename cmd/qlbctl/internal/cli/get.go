package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func (a *app) getCmd() *cobra.Command {
	var namespace, at, selector string
	var problems bool
	cmd := command(&cobra.Command{
		Use:   "get KIND[,KIND...] [NAME...] | get KIND/NAME...",
		Short: "List pools, services, vips, nodes, members, l2advertisements, namespaces, reservations, quarantine",
		Long: `List what is declared and what is found.

Kinds: pools, l2advertisements, services, namespaces, reservations (declared); vips, nodes, members,
quarantine (found); "all" for every one. Singular and Kubernetes-like names are understood too.

In the table of vips, OWNER is what the group wants and ANNOUNCED what each speaker
says that it really does:
  Proven       answers, and a neighbour was seen to reach the address there
  Unproven     answers; nobody was asked, or nobody answered yet
  Unconfirmed  answers without confirmation, cut off from the group (onControlLoss Hold)
  Released     silent, cut off from the group (onControlLoss Release)
  Yielded      silent, because another station claimed the address
  Failed       cannot announce; the reason is beside it
  Soft         no longer the owner; answers only clients that know it (drain --grace)

With --at, everything is shown as it was then: at a revision, a time span ago or a
time. What speakers say is not in the log, so nothing is announced in the past.

Services of all namespaces are listed unless -n says otherwise. With -o yaml or json
what is declared can be applied again.`,
		Example: `  qlbctl get vips
  qlbctl get vips --problems
  qlbctl get nodes -o wide
  qlbctl get nodes -l rack=a
  qlbctl get service web -n shop
  qlbctl get vip/192.0.2.10 -o json
  qlbctl get vips --at 03:00                 # who owned what at three o'clock
  qlbctl get services --at 1234              # what was declared at revision 1234
  qlbctl get namespaces,pools,reservations,l2advertisements,services -o yaml > backup.yaml`,
		Args:              atLeastKind,
		ValidArgsFunction: a.completeTargets(false),
	}, func(ctx context.Context, args []string) error {
		targets, err := parseTargets(args, namespace, false)
		if err != nil {
			return err
		}
		then, err := parseInstant("at", at, a.env.Now())
		if err != nil {
			return err
		}
		labels, err := parseLabels(selector)
		if err != nil {
			return err
		}
		if labels != nil {
			if err := checkLabelled(targets); err != nil {
				return err
			}
		}
		return a.get(ctx, targets, then, labels, problems)
	})
	cmd.Flags().StringVar(&at, "at", "", "as it was at a revision, a time span ago or a time (see the examples)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only services of this namespace")
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "only what has these labels: KEY=VALUE, KEY!=VALUE, KEY, !KEY, with commas between them")
	cmd.Flags().BoolVar(&problems, "problems", false, "only what has a problem (vips, nodes, members, services)")
	cmd.Flags().BoolP("all-namespaces", "A", false, "services of all namespaces: the default")
	_ = cmd.Flags().MarkHidden("all-namespaces")
	return cmd
}

// atLeastKind demands the first argument of get and describe.
func atLeastKind(_ *cobra.Command, given []string) error {
	if len(given) == 0 {
		return usagef("KIND is missing; allowed: %s", strings.Join(kindNames(false), ", "))
	}
	return nil
}

func (a *app) get(ctx context.Context, targets []target, at instant, labels *logv1.LabelSelector, problems bool) error {
	var sections []*section
	for _, t := range targets {
		got, err := call(ctx, a, adminv1.AdminServiceClient.Get, &adminv1.GetRequest{
			Kinds: []string{t.kind.plural}, Name: t.full(), Stale: a.flags.stale,
			AtRevision: at.revision, AtUnixNano: at.unixNano,
		})
		if err != nil {
			return err
		}
		keepLabelled(got, labels)
		s, err := a.section(t, got, problems)
		if err != nil {
			return err
		}
		if t.name != "" && s.found == 0 {
			return fmt.Errorf("%s does not exist", t.id())
		}
		if n := len(sections); n > 0 && sections[n-1].kind == t.kind.plural {
			sections[n-1].join(s)
			continue
		}
		sections = append(sections, s)
	}
	var objects []any
	for _, s := range sections {
		objects = append(objects, s.objects...)
	}
	human := func(w io.Writer, wide bool) error { return a.writeSections(w, sections, wide) }
	if len(targets) == 1 && targets[0].name != "" && len(objects) == 1 {
		return a.printOne(objects[0], human)
	}
	return a.print(objects, human)
}

func (a *app) writeSections(w io.Writer, sections []*section, wide bool) error {
	for i, s := range sections {
		if i > 0 {
			fmt.Fprintln(w)
		}
		switch {
		case len(s.rows) > 0:
			if err := s.table(wide).write(w, ""); err != nil {
				return err
			}
		case s.found > 0:
			fmt.Fprintf(w, "No problems in %d %s.\n", s.found, s.kind)
		default:
			fmt.Fprintf(w, "No %s.\n", s.kind)
		}
	}
	return nil
}

// section is what Get found of one kind.
type section struct {
	kind    string
	objects []any
	rows    []func(t *table, wide bool)
	header  func(wide bool) []string
	// found counts what there was before --problems.
	found int
}

func (s *section) add(o any, row func(t *table, wide bool)) {
	s.objects = append(s.objects, o)
	s.addRow(row)
}

// addRow adds what is in the table only.
func (s *section) addRow(row func(t *table, wide bool)) { s.rows = append(s.rows, row) }

func (s *section) join(o *section) {
	s.objects = append(s.objects, o.objects...)
	s.rows = append(s.rows, o.rows...)
	s.found += o.found
}

func (s *section) table(wide bool) *table {
	t := newTable(s.header(wide)...)
	for _, row := range s.rows {
		row(t, wide)
	}
	return t
}

// section sorts what was found and makes its objects and rows. A namespace that
// is given without a name filters services.
func (a *app) section(t target, got *adminv1.GetResponse, problems bool) (*section, error) {
	s := &section{kind: t.kind.plural}
	switch s.kind {
	case "pools":
		a.poolRows(s, got.GetPools())
	case "l2advertisements":
		return s, a.advertisementRows(s, got.GetL2Advertisements())
	case "services":
		services := slices.DeleteFunc(got.GetServices(), func(sv *adminv1.ServiceStatus) bool {
			return t.name == "" && t.namespace != "" && sv.GetService().GetNamespace() != t.namespace
		})
		return s, a.serviceRows(s, services, problems)
	case "namespaces":
		a.namespaceRows(s, got.GetNamespaces())
	case "reservations":
		a.reservationRows(s, got.GetReservations())
	case "vips":
		a.vipRows(s, got.GetVips(), problems)
	case "nodes":
		a.nodeRows(s, got.GetNodes(), problems)
	case "members":
		a.memberRows(s, got.GetMembers(), problems)
	case "quarantine":
		a.quarantineRows(s, got.GetQuarantine())
	}
	return s, nil
}

// byAddress orders texts of addresses as numbers, IPv4 first.
func byAddress(a, b string) int {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	return x.Compare(y)
}

// byName orders names with numbers in them as people do: n2 before n10.
func byName(a, b string) int {
	for a != "" && b != "" {
		i, j := digits(a), digits(b)
		if i > 0 && j > 0 {
			x, y := strings.TrimLeft(a[:i], "0"), strings.TrimLeft(b[:j], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits counts the digits that s begins with.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}
