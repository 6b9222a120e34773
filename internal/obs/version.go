package obs

import (
	"runtime/debug"
	"sync"
)

// version is set by the build:
// -ldflags "-X github.com/quorumlb/quorumlb/internal/obs.version=v0.1.0".
var version string

// Version of the program: what the build says, else the module's version or the
// commit that it was built from, else "devel".
var Version = sync.OnceValue(func() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
})
