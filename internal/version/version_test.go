package version

import (
	"runtime/debug"
	"testing"
)

func TestDescribe(t *testing.T) {
	setting := func(k, v string) debug.BuildSetting { return debug.BuildSetting{Key: k, Value: v} }
	for _, tt := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"module", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		{"checkout", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			setting("vcs.revision", "0123456789abcdef"), setting("vcs.modified", "false"),
		}}, "devel-0123456789ab"},
		{"dirty", debug.BuildInfo{Settings: []debug.BuildSetting{
			setting("vcs.revision", "0123"), setting("vcs.modified", "true"),
		}}, "devel-0123-dirty"},
		{"nothing", debug.BuildInfo{}, "devel"},
	} {
		if got := describe(&tt.info); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestStringPrefersTheLinkers(t *testing.T) {
	old := Version
	t.Cleanup(func() { Version = old })
	Version = "v9"
	if got := String(); got != "v9" {
		t.Errorf("%q, want v9", got)
	}
	Version = ""
	if String() == "" {
		t.Error("empty version")
	}
}
