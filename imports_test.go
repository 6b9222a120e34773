package quorumlb_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/quorumlb/quorumlb/"

// forbidden lists, for each folder, import path prefixes that nothing in it
// may reach, directly or through others. Imports point one way:
// cmd -> {raftnode, speakers, kube} -> {fsm, allocator} -> proto.
var forbidden = map[string][]string{
	"proto/quorumlb/log/...": {module, "google.golang.org/grpc", "github.com/hashicorp/raft", "k8s.io"},
	"fsm/...": {
		module + "allocator", module + "raftnode", module + "speakers", module + "kube", module + "cmd", module + "internal",
		"google.golang.org/grpc", "github.com/hashicorp/raft", "k8s.io",
	},
	"allocator/...": {
		module + "raftnode", module + "speakers", module + "kube", module + "cmd", module + "internal",
		"google.golang.org/grpc", "github.com/hashicorp/raft", "k8s.io",
	},
	"raftnode/...": {module + "speakers", module + "kube", module + "cmd", module + "test"},
	"speakers/...": {module + "raftnode", module + "kube", module + "cmd", module + "test", "github.com/hashicorp/raft"},
	"cmd/...":      {module + "test"},
	"config/...":   {module + "raftnode", module + "speakers", module + "kube", module + "cmd"},
}

func TestImportsPointOneWay(t *testing.T) {
	for folder, bad := range forbidden {
		out, err := exec.Command("go", "list", "-f", "{{.ImportPath}}:{{join .Deps \" \"}}", "./"+folder).Output()
		if err != nil {
			t.Fatalf("go list ./%s: %v", folder, err)
		}
		for line := range strings.Lines(string(out)) {
			pkg, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
			for dep := range strings.FieldsSeq(deps) {
				for _, b := range bad {
					if strings.HasPrefix(dep, b) && !strings.HasPrefix(dep, module+"proto/quorumlb/log/") {
						t.Errorf("%s must not reach %s", pkg, dep)
					}
				}
			}
		}
	}
}
