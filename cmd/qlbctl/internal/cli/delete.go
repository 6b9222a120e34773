package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/client"
	"github.com/quorumlb/quorumlb/config"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

func (a *app) deleteCmd() *cobra.Command {
	var files []string
	var namespace string
	var force, ignore, dryRun bool
	cmd := command(&cobra.Command{
		Use:   "delete KIND NAME... | delete KIND/NAME... | delete -f FILE|-|DIR",
		Short: "Take back what apply declared",
		Long: `Take back pools, l2advertisements, services, namespaces and reservations: all that are named, or none.

The address of a deleted service is kept for the same namespace and name for the
retention time (see "qlbctl retention"), so that a reinstall gets it again.
A namespace loses its labels, not its services. A pool that services use is not deleted
unless --force, which takes their addresses. --dry-run says what all of it would mean for
services; "qlbctl plan --delete" says nothing else.`,
		Example: `  qlbctl delete service web -n shop
  qlbctl delete pool/public l2advertisement/public
  qlbctl delete -f first.yaml`,
		ValidArgsFunction: a.completeTargets(true),
	}, func(ctx context.Context, args []string) error {
		targets, err := a.deleteTargets(args, files, namespace)
		if err != nil {
			return err
		}
		return a.delete(ctx, targets, force, ignore, dryRun)
	})
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input, whose documents are deleted")
	f.StringVarP(&namespace, "namespace", "n", "", "namespace of the services")
	f.BoolVar(&force, "force", false, "delete a pool although services use it")
	f.BoolVar(&dryRun, "dry-run", false, "let the group decide and answer, and change nothing; needs no --force, and says whether it would")
	f.BoolVar(&ignore, "ignore-not-found", false, "what does not exist is no error")
	return cmd
}

func (a *app) deleteTargets(args, files []string, namespace string) ([]target, error) {
	if len(files) > 0 {
		if len(args) > 0 {
			return nil, usagef("give either -f or KIND and NAME, not both")
		}
		docs, err := a.readDocuments(files)
		if err != nil {
			return nil, err
		}
		var targets []target
		for _, d := range docs {
			k, err := findKind(d.Kind, true)
			if err != nil {
				return nil, err
			}
			targets = append(targets, target{kind: k, namespace: d.Namespace, name: d.Name})
		}
		return targets, nil
	}
	if len(args) == 0 {
		return nil, usagef("KIND and NAME are missing")
	}
	targets, err := parseTargets(args, namespace, true)
	if err != nil {
		return nil, err
	}
	if targets[0].name == "" {
		return nil, usagef("NAME is missing; there is no way to delete all %s at once", targets[0].kind.plural)
	}
	return targets, nil
}

func (a *app) delete(ctx context.Context, targets []target, force, ignore, dryRun bool) error {
	req := &adminv1.DeleteRequest{Force: force, DryRun: dryRun}
	resp, err := a.callDelete(ctx, req, targets)
	if err != nil {
		return err
	}
	var objects []any
	missing := notFound(targets, resp)
	for i, t := range targets {
		result := "deleted"
		if !existed(resp, i) {
			result = "not found"
		}
		objects = append(objects, applyResult{Kind: t.kind.doc, Name: t.full(), Result: result})
	}
	err = a.print(a.withEffects(objects, resp), func(w io.Writer, _ bool) error {
		for _, o := range objects {
			r := o.(applyResult)
			suffix := ""
			if dryRun {
				suffix = " (dry run)"
			}
			fmt.Fprintln(w, r.id()+" "+r.Result+suffix)
		}
		a.printTouched(w, resp)
		return nil
	})
	a.warnLeftOut(resp)
	a.warnForce(resp)
	if err == nil && len(missing) > 0 && !ignore {
		return fmt.Errorf("not found: %s", strings.Join(missing, ", "))
	}
	return err
}

// callDelete deletes the targets, or tries to.
func (a *app) callDelete(ctx context.Context, req *adminv1.DeleteRequest, targets []target) (*adminv1.DeleteResponse, error) {
	for _, t := range targets {
		req.Names = append(req.Names, &adminv1.ResourceName{Kind: t.kind.doc, Namespace: t.namespace, Name: t.name})
	}
	resp, err := call(ctx, a, adminv1.AdminServiceClient.Delete, req)
	if err != nil {
		return nil, placeNames(err, targets)
	}
	return resp, nil
}

// existed tells whether the i-th target was there to be deleted.
func existed(resp *adminv1.DeleteResponse, i int) bool {
	return i >= len(resp.GetExisted()) || resp.GetExisted()[i]
}

// notFound names the targets that were not there to be deleted.
func notFound(targets []target, resp *adminv1.DeleteResponse) (missing []string) {
	for i, t := range targets {
		if !existed(resp, i) {
			missing = append(missing, t.id())
		}
	}
	return missing
}

// warnForce says after a dry run what would be refused without --force.
func (a *app) warnForce(resp *adminv1.DeleteResponse) {
	for _, why := range resp.GetNeedsForce() {
		a.warnf("it takes --force: %s", clean(why))
	}
}

// placeNames says which of the targets the group refused to delete.
func placeNames(err error, targets []target) error {
	violations := client.Violations(err)
	if len(violations) == 0 {
		return err
	}
	var faults config.Errors
	for _, v := range violations {
		fault := &config.Error{Path: v.GetField(), Problem: v.GetDescription()}
		for i, t := range targets {
			if v.GetField() == fmt.Sprintf("names[%d]", i) {
				fault = &config.Error{Object: t.id(), Problem: v.GetDescription()}
			}
		}
		faults = append(faults, fault)
	}
	return refused(err, faults)
}
