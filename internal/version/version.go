// Package version says which build of QuorumLB a program is.
package version

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// Version is set by the linker in a release:
//
//	go build -ldflags "-X github.com/quorumlb/quorumlb/internal/version.Version=v1.2.3"
//
// Read it with String, which knows what to say when it is empty.
var Version string

// String gives the version for logs and for the wire: the linker's, or else
// what the Go tool recorded of the module or its revision, or else "devel".
func String() string {
	if Version != "" {
		return Version
	}
	return fromBuildInfo()
}

// Go gives the version of the Go release that built the program.
func Go() string { return runtime.Version() }

var fromBuildInfo = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return describe(info)
})

// describe prefers the module's version ("go install module@v1.2.3"), then the
// revision of the checkout.
func describe(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var revision, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + dirty
}
