package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/client"
	"github.com/quorumlb/quorumlb/config"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// applyResult is what became of one document, for programs.
type applyResult struct {
	Kind      string          `json:"kind"`
	Name      string          `json:"name"`
	Result    string          `json:"result"`
	Addresses []string        `json:"addresses,omitempty"`
	Pending   string          `json:"pending,omitempty"`
	Refusals  []refusalStatus `json:"refusals,omitempty"`
}

func (r applyResult) id() string { return strings.ToLower(r.Kind) + "/" + r.Name }

func (a *app) applyCmd() *cobra.Command {
	var files []string
	var dryRun, force bool
	cmd := command(&cobra.Command{
		Use:   "apply -f FILE|-|DIR",
		Short: "Declare pools, l2advertisements, services, namespaces and reservations from files",
		Long: `Declare what is in YAML or JSON files: all of it, or nothing when anything is wrong.

A directory means its files *.yaml, *.yml and *.json. Documents have
apiVersion: quorumlb.io/v1, a kind, metadata and spec:

  kind: IPAddressPool       metadata: name, labels
    addresses               CIDRs and first-last ranges, IPv4 and IPv6 (required)
    autoAssign              false: only for services that name it (default true)
    avoidBuggyIPs           skip .0 and .255 (default false)
    serviceAllocation       {priority, namespaces, namespaceSelectors, serviceSelectors}:
                            only for these services, and for them before other pools
    quota                   {perNamespace, namespaces: {NAME: N}}: addresses that each may have
    reallocate              replace addresses that the pool no longer has (default false: they
                            stay with their services)
    quarantine              how long nobody else gets an address that was given up (default 0s)

  kind: L2Advertisement     metadata: name, labels
    ipAddressPools, ipAddressPoolSelectors   which pools (default all)
    nodeSelectors           which nodes may own (default all)
    interfaces              on which interfaces (default all)
    onControlLoss           Hold (default) | Release
    placement               Sticky (default) | Ideal
    serviceSelectors        for addresses of which services (default all)
    preferredNodeSelectors  [{weight: 1-100, preference: selector}]; weights are summed
    rebalance               Never (default) | Gradual: spread evenly while nodes stay
    rebalancePerMinute      most moves with Gradual (default 6)

  kind: VirtualService      metadata: name, namespace (default "default"), labels
    ports                   [{name, protocol: TCP|UDP|SCTP, port}]; protocol TCP by default
    addresses, pool         what to get (default: any free address)
    addressCount            how many of each family, on distinct nodes (default 1, most 16)
    ipFamilyPolicy          SingleStack (default) | PreferDualStack | RequireDualStack
    ipFamilies              [IPv4, IPv6] in order of preference
    externalTrafficPolicy   Cluster (default) | Local (only nodes with an endpoint, as far
                            as endpoints are known)
    sharingKey              services with one key may share an address
    selector                labels of the backends; with Local, only services with the same share
    nodeSelectors           which nodes may own (default all)
    delivery                None (default) | Host
    preferredNode           the node to prefer before all others
    healthCheck             {http: {port, path, host} | tcp: {port} | exec: {script},
                            interval: 2s, timeout: 1s, rise: 2, fall: 3}; run by every
                            node that may own, against itself

  kind: Namespace           metadata: name, labels (for namespaceSelectors; every namespace
                            has the label kubernetes.io/metadata.name by itself)

  kind: Reservation         metadata: name, labels
    addresses               addresses, CIDRs and ranges (required)
    service                 {namespace, name}: who may have them (default: nobody)
    until                   until when, such as 2027-01-31T12:00:00Z (default: for ever)

What "get -o yaml" prints can be applied; a status in it is ignored.

Addresses in use that a pool no longer has stay with their services, unless it says
reallocate, or --force takes them. --dry-run says whom a change touches, and how;
"qlbctl plan" says nothing else.`,
		Example: `  qlbctl apply -f first.yaml
  qlbctl apply -f config/ --dry-run
  generate-services | qlbctl apply -f -`,
		Args: args(),
	}, func(ctx context.Context, _ []string) error {
		docs, err := a.readDocuments(files)
		if err != nil {
			return err
		}
		return a.apply(ctx, docs, dryRun, force)
	})
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be given several times (required)")
	f.BoolVar(&dryRun, "dry-run", false, "let the group decide and answer, and change nothing")
	f.BoolVar(&force, "force", false, "take addresses that a pool no longer has from their services")
	return cmd
}

func (a *app) planCmd() *cobra.Command {
	var files []string
	var namespace string
	var force, del bool
	cmd := command(&cobra.Command{
		Use:   "plan -f FILE|-|DIR | plan --delete KIND NAME... | plan --delete -f FILE|-|DIR",
		Short: "Tell which services a change would touch, and how",
		Long: `Tell what the services that are there would notice if the files were applied or, with
--delete, what is named were deleted: which addresses they lose, get or keep, and which
another node would announce, or none any more. Nothing is changed: it is what
"qlbctl apply --dry-run" and "qlbctl delete --dry-run" say about services, of all of them.

Which node an address goes to is told as things are now; what a rebalance would move
afterwards is not in it.`,
		Example: `  qlbctl plan -f pools.yaml
  qlbctl plan -f pools.yaml --force
  qlbctl plan --delete l2advertisement public
  qlbctl plan --delete -f old.yaml`,
		ValidArgsFunction: a.completeTargets(true),
	}, func(ctx context.Context, args []string) error {
		if del {
			targets, err := a.deleteTargets(args, files, namespace)
			if err != nil {
				return err
			}
			return a.planDelete(ctx, targets)
		}
		if len(args) > 0 {
			return usagef("too many arguments: %s; KIND and NAME go with --delete", strings.Join(args, " "))
		}
		docs, err := a.readDocuments(files)
		if err != nil {
			return err
		}
		return a.plan(ctx, docs, force)
	})
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be given several times")
	f.BoolVar(&force, "force", false, "as if addresses that a pool no longer has were taken from their services")
	f.BoolVar(&del, "delete", false, "as if what is named, or is in the files, were deleted")
	f.StringVarP(&namespace, "namespace", "n", "", "namespace of the services to delete")
	return cmd
}

func (a *app) plan(ctx context.Context, docs []*config.Document, force bool) error {
	req := &adminv1.ApplyRequest{DryRun: true, Force: force, Source: "apply"}
	for _, d := range docs {
		req.Resources = append(req.Resources, d.Resource)
	}
	resp, err := call(ctx, a, adminv1.AdminServiceClient.Apply, req)
	if err != nil {
		return place(err, docs)
	}
	return a.printPlan(resp)
}

// planDelete is plan for a deletion.
func (a *app) planDelete(ctx context.Context, targets []target) error {
	resp, err := a.callDelete(ctx, &adminv1.DeleteRequest{DryRun: true}, targets)
	if err != nil {
		return err
	}
	missing := notFound(targets, resp)
	if len(missing) > 0 {
		return fmt.Errorf("not found: %s", strings.Join(missing, ", "))
	}
	if err := a.printPlan(resp); err != nil {
		return err
	}
	a.warnForce(resp)
	return nil
}

// planned is what both answers of a dry run have.
type planned interface {
	GetEffects() []*adminv1.Effect
	GetEffectsLeftOut() uint64
}

func (a *app) printPlan(p planned) error {
	err := a.print(effectObjects(p.GetEffects()), func(w io.Writer, _ bool) error {
		if len(p.GetEffects()) == 0 {
			fmt.Fprintln(w, "No service that is there would be touched.")
		}
		a.writeEffects(w, p.GetEffects())
		return nil
	})
	a.warnLeftOut(p)
	return err
}

// printTouched writes the effects after the results of a dry run.
func (a *app) printTouched(w io.Writer, p planned) {
	if len(p.GetEffects()) > 0 {
		fmt.Fprintln(w, "\nServices that it would touch:")
		a.writeEffects(w, p.GetEffects())
	}
}

// warnLeftOut says how many services an answer had no room for.
func (a *app) warnLeftOut(p planned) {
	if n := p.GetEffectsLeftOut(); n > 0 {
		a.warnf("and %d more services, which do not fit into one answer; ask about a part of the change", n)
	}
}

// withEffects gives programs the effects after the results of a dry run.
func (a *app) withEffects(results []any, p planned) []any {
	if a.flags.output == "name" {
		return results // of which the services are no part
	}
	return append(results[:len(results):len(results)], effectObjects(p.GetEffects())...)
}

// effect is what a change does to a service, for programs.
type effect struct {
	Kind       string        `json:"kind"`
	Service    string        `json:"service"`
	Deleted    bool          `json:"deleted,omitempty"`
	Taken      []string      `json:"taken,omitempty"`
	Given      []string      `json:"given,omitempty"`
	Leaving    []string      `json:"leaving,omitempty"`
	Unselected []string      `json:"unselected,omitempty"`
	Owners     []ownerEffect `json:"owners,omitempty"`
	Pending    string        `json:"pending,omitempty"`
}

// ownerEffect is what becomes of the announcement of an address.
type ownerEffect struct {
	Address string `json:"address"`
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
	Why     string `json:"why"`
}

func (e effect) id() string { return strings.ToLower(config.KindVirtualService) + "/" + e.Service }

func effectObjects(list []*adminv1.Effect) []any {
	out := []any{}
	for _, e := range list {
		one := effect{
			Kind: "Effect", Service: e.GetService(), Deleted: e.GetDeleted(), Taken: e.GetTaken(), Given: e.GetGiven(),
			Leaving: e.GetLeaving(), Unselected: e.GetUnselected(), Pending: e.GetPending(),
		}
		for _, o := range e.GetOwners() {
			one.Owners = append(one.Owners, ownerEffect{o.GetAddress(), o.GetFromNode(), o.GetToNode(), o.GetWhy()})
		}
		out = append(out, one)
	}
	return out
}

// writeEffects gives a line for each service.
func (a *app) writeEffects(w io.Writer, list []*adminv1.Effect) {
	for _, e := range list {
		var parts []string
		if e.GetDeleted() {
			parts = append(parts, "is deleted")
		}
		if len(e.GetTaken()) > 0 {
			parts = append(parts, "loses "+strings.Join(e.GetTaken(), ", "))
		}
		if len(e.GetGiven()) > 0 {
			parts = append(parts, "gets "+strings.Join(e.GetGiven(), ", "))
		}
		if len(e.GetLeaving()) > 0 {
			parts = append(parts, "keeps "+strings.Join(e.GetLeaving(), ", ")+", which its pool no longer has")
		}
		if len(e.GetUnselected()) > 0 {
			parts = append(parts, "keeps "+strings.Join(e.GetUnselected(), ", ")+", whose pool is no longer for it")
		}
		for _, o := range e.GetOwners() {
			parts = append(parts, a.ownerEffect(o))
		}
		if e.GetPending() != "" {
			parts = append(parts, a.problem("pending: "+clean(e.GetPending())))
		}
		if len(parts) == 0 {
			parts = []string{"has all that it asks for"}
		}
		fmt.Fprintf(w, "virtualservice/%s: %s\n", e.GetService(), strings.Join(parts, "; "))
	}
}

// ownerEffect says what becomes of the announcement of an address.
func (a *app) ownerEffect(o *adminv1.OwnerEffect) string {
	from, to := o.GetFromNode(), o.GetToNode()
	switch addr, why := o.GetAddress(), clean(o.GetWhy()); {
	case to == "" && from == "":
		return a.problem("nobody would announce " + addr + " (" + why + ")")
	case to == "":
		return a.problem("nobody would announce " + addr + " any more (" + why + ")")
	case from == "":
		return to + " would announce " + addr + ", which nobody does now"
	case from == to:
		return to + " announces " + addr + " " + why
	default:
		return addr + " moves from " + from + " to " + to + " (" + why + ")"
	}
}

func (a *app) apply(ctx context.Context, docs []*config.Document, dryRun, force bool) error {
	req := &adminv1.ApplyRequest{DryRun: dryRun, Force: force, Source: "apply"}
	for _, d := range docs {
		req.Resources = append(req.Resources, d.Resource)
	}
	resp, err := call(ctx, a, adminv1.AdminServiceClient.Apply, req)
	if err != nil {
		return place(err, docs)
	}
	var objects []any
	for _, r := range resp.GetResults() {
		objects = append(objects, applyResult{r.GetKind(), r.GetName(), r.GetResult(), r.GetAddresses(), r.GetPending(), refusalsOf(r.GetRefusals())})
	}
	err = a.print(a.withEffects(objects, resp), func(w io.Writer, _ bool) error {
		suffix := ""
		if dryRun {
			suffix = " (dry run)"
		}
		for _, r := range resp.GetResults() {
			line := strings.ToLower(r.GetKind()) + "/" + r.GetName() + " " + r.GetResult() + suffix
			if len(r.GetAddresses()) > 0 {
				line += ": " + strings.Join(r.GetAddresses(), ", ")
			}
			if r.GetPending() != "" {
				line += a.problem(" (pending: " + clean(r.GetPending()) + ")")
			}
			fmt.Fprintln(w, line)
		}
		a.printTouched(w, resp)
		return nil
	})
	a.warnLeftOut(resp)
	return err
}

// place finds the lines of the fields that the group refused.
func place(err error, docs []*config.Document) error {
	violations := client.Violations(err)
	if len(violations) == 0 {
		return err
	}
	var faults config.Errors
	for _, v := range violations {
		i, path, ok := resourcePath(v.GetField())
		if !ok || i >= len(docs) {
			faults = append(faults, &config.Error{Path: v.GetField(), Problem: v.GetDescription()})
			continue
		}
		faults = append(faults, docs[i].Fault(path, v.GetDescription()))
	}
	return refused(err, faults)
}

// refused gives the faults, and what would make the group do it all the same.
func refused(err error, faults config.Errors) error {
	if status.Code(err) == codes.FailedPrecondition {
		summary, _, _ := strings.Cut(status.Convert(err).Message(), ":")
		return &refusal{summary: summary, faults: faults}
	}
	return faults
}

// refusal is faults of the state, not of the request: --force may help.
type refusal struct {
	summary string
	faults  config.Errors
}

func (r *refusal) Error() string {
	return r.summary + ":\n  " + strings.ReplaceAll(r.faults.Error(), "\n", "\n  ")
}

// readDocuments reads all files; no two documents in them may name one object.
func (a *app) readDocuments(names []string) ([]*config.Document, error) {
	if len(names) == 0 {
		return nil, usagef("-f is missing")
	}
	var docs []*config.Document
	var faults config.Errors
	for _, name := range names {
		files, err := expand(name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			more, err := a.readFile(file)
			var bad config.Errors
			if err != nil && !errors.As(err, &bad) {
				return nil, err
			}
			faults = append(faults, bad...)
			docs = append(docs, more...)
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("there is no document in %s", strings.Join(names, ", "))
	}
	return docs, config.CheckDuplicates(docs)
}

func (a *app) readFile(name string) ([]*config.Document, error) {
	if name == "-" {
		return config.Parse("standard input", a.env.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return config.Parse(name, f)
}

// expand lists the documents' files of a directory, in order of their names.
func expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if e.Type()&fs.ModeDir == 0 && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no file *.yaml, *.yml or *.json in %s", name)
	}
	return files, nil
}
