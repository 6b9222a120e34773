package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
)

// ErrSilent says that no member answered.
var ErrSilent = errors.New("no member answers")

// Look asks each running member once, and takes the first one's own view of
// members, nodes and addresses. It is for eyes, not for proofs.
func (c *Cluster) Look(ctx context.Context) (*adminv1.GetResponse, error) {
	for _, n := range c.Members() {
		if !n.Member().Running() {
			continue
		}
		client, err := c.AdminAt(n)
		if err != nil {
			return nil, err
		}
		try, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		resp, err := client.Get(try, &adminv1.GetRequest{Kinds: []string{"members", "nodes", "vips"}, Stale: true})
		cancel()
		if err == nil {
			return resp, nil
		}
	}
	return nil, ErrSilent
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
