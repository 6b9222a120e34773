package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
)

// ErrSilent says that no member answered, or none that knows as much as was known
// before: one that has just started reads its log again.
var ErrSilent = errors.New("no member answers")

// Look asks each running member once, and takes the most advanced one's own view
// of members, nodes and addresses. It is for eyes, not for proofs.
func (c *Cluster) Look(ctx context.Context) (best *adminv1.GetResponse, err error) {
	ctx, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range c.Members() {
		if !n.Member().Running() {
			continue
		}
		client, err := c.AdminAt(n)
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			resp, err := client.Get(ctx, &adminv1.GetRequest{Kinds: []string{"members", "nodes", "vips"}, Stale: true})
			c.mu.Lock()
			defer c.mu.Unlock()
			if err == nil && resp.GetRevision() >= c.looked {
				best, c.looked = resp, resp.GetRevision()
			}
		})
	}
	wg.Wait()
	if best == nil {
		return nil, ErrSilent
	}
	return best, nil
}

// WriteAt writes a script that runs a command on a host of the lab, with the
// project's programs in the path and the operator's certificate: "at client
// arping -I eth0 192.0.2.100", "at admin qlbctl status". It returns its path.
func (c *Cluster) WriteAt() (string, error) {
	enter := ""
	if pid, ok := lab.InUserns(); ok {
		enter = fmt.Sprintf("nsenter -t %d -U -m --preserve-credentials ", pid)
	}
	prefix := strings.TrimSuffix(c.Admin.Namespace(), "admin")
	script := fmt.Sprintf(`#!/bin/sh
# Runs a command on a host of the lab: at HOST COMMAND...
[ $# -ge 2 ] || { echo "usage: $0 n1..n%d|client|router|admin COMMAND..." >&2; exit 2; }
host=$1; shift
export %s
export PATH=%s:/usr/sbin:/sbin:$PATH
exec %snsenter --net=/run/netns/%s"$host" "$@"
`, len(c.Nodes), strings.Join(c.CtlEnv(), " "), c.bin, enter, prefix)
	path := filepath.Join(c.Dir(), "at")
	return path, os.WriteFile(path, []byte(script), 0o755)
}
