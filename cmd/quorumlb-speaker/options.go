package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"github.com/quorumlb/quorumlb/config"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/version"
	"github.com/quorumlb/quorumlb/speakers"
	"github.com/quorumlb/quorumlb/speakers/layer2"
)

// options are the flags, and by the same names the fields of the configuration
// file. A flag that is given overrides the file.
type options struct {
	Config string `yaml:"-"`

	Node              string            `yaml:"node"`
	Members           []string          `yaml:"members"`
	TLSCA             string            `yaml:"tls-ca"`
	TLSCert           string            `yaml:"tls-cert"`
	TLSKey            string            `yaml:"tls-key"`
	StateDir          string            `yaml:"state-dir"`
	HTTP              string            `yaml:"http"`
	Pprof             bool              `yaml:"pprof"`
	Interfaces        []string          `yaml:"interfaces"`
	ExcludeInterfaces []string          `yaml:"exclude-interfaces"`
	Labels            map[string]string `yaml:"labels"`
	Gateways          []string          `yaml:"gateways"`
	GratuitousRate    int               `yaml:"gratuitous-rate"`
	CheckDir          string            `yaml:"check-dir"`
	LogLevel          string            `yaml:"log-level"`
	LogFormat         string            `yaml:"log-format"`
}

func newOptions() *options {
	return &options{
		StateDir: "/var/lib/quorumlb/speaker", HTTP: "127.0.0.1:7403",
		GratuitousRate: layer2.DefaultRate, LogLevel: "info", LogFormat: "text",
	}
}

// loadOptions fills in the configuration file that the command line names, if
// any: what stands there takes the place of the flags' defaults.
func loadOptions(args []string) (*options, error) {
	o := newOptions()
	first := pflag.NewFlagSet("", pflag.ContinueOnError)
	first.ParseErrorsAllowlist.UnknownFlags = true
	first.SetOutput(io.Discard)
	first.Usage = func() {}
	path := first.String("config", "", "")
	if first.Parse(args) != nil || *path == "" {
		return o, nil // the real flags will say what is wrong
	}
	if err := config.LoadStrict(*path, o); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return o, nil
}

// bind makes flags of the options.
func (o *options) bind(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.StringVar(&o.Config, "config", "", "YAML `file` whose fields are named like these flags; a flag overrides it")
	flags.StringVar(&o.Node, "node", o.Node, "`name` of this node: one DNS label, the same as in the certificate's role")
	flags.StringSliceVar(&o.Members, "members", o.Members, "members to begin with: `host:port,...`; one that answers is enough, it tells the others")
	flags.StringVar(&o.TLSCA, "tls-ca", o.TLSCA, "`file` of the group's CA certificate (qlbctl pki init)")
	flags.StringVar(&o.TLSCert, "tls-cert", o.TLSCert, "`file` of this speaker's certificate, role speaker/NODE (qlbctl pki issue); read again when it changes")
	flags.StringVar(&o.TLSKey, "tls-key", o.TLSKey, "`file` of its key")
	flags.StringVar(&o.StateDir, "state-dir", o.StateDir, "`directory` for the member list, the announced MACs and what was put on the loopback interface")
	flags.StringVar(&o.HTTP, "http", o.HTTP, "`host:port` of /metrics, /livez and /readyz; empty: none")
	flags.BoolVar(&o.Pprof, "pprof", o.Pprof, "serve Go profiles below /debug/pprof/ of --http as well")
	flags.StringSliceVar(&o.Interfaces, "interfaces", o.Interfaces, "links to answer on: `name,...`, shell patterns allowed (default: all but --exclude-interfaces)")
	flags.StringArrayVar(&o.ExcludeInterfaces, "exclude-interfaces", o.ExcludeInterfaces,
		"`regexp` of links not to answer on; may be repeated (default: those of containers and overlays, unless --interfaces is given)")
	flags.StringToStringVar(&o.Labels, "labels", o.Labels, "the node's labels, for node selectors: `key=value,...`")
	flags.StringSliceVar(&o.Gateways, "gateways", o.Gateways, "routers to ask after a takeover, beside those of the default routes: `address,...`")
	flags.IntVar(&o.GratuitousRate, "gratuitous-rate", o.GratuitousRate, "most unsolicited `frames` per second on one link; lower it where switches shut ports")
	flags.StringVar(&o.CheckDir, "check-dir", o.CheckDir, "`directory` of the scripts that health checks of kind exec may run, by name and without arguments; empty: none")
	flags.StringVar(&o.LogLevel, "log-level", o.LogLevel, "`level`: debug, info, warn or error")
	flags.StringVar(&o.LogFormat, "log-format", o.LogFormat, "`format`: text or json")
}

// speaker checks the options and turns them into a speaker's configuration. All
// mistakes are reported at once.
func (o *options) speaker(log *slog.Logger) (speakers.Config, error) {
	conf := speakers.Config{
		Node: o.Node, Members: o.Members, StateDir: o.StateDir, Labels: o.Labels, Version: version.String(),
		Interfaces: o.Interfaces, ExcludeInterfaces: o.ExcludeInterfaces, GratuitousRate: o.GratuitousRate, CheckDir: o.CheckDir, Log: log,
	}
	var errs []error
	for _, f := range []struct{ flag, value string }{
		{"node", o.Node}, {"members", strings.Join(o.Members, "")}, {"state-dir", o.StateDir},
		{"tls-ca", o.TLSCA}, {"tls-cert", o.TLSCert}, {"tls-key", o.TLSKey},
	} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s: must be set", f.flag))
		}
	}
	if o.GratuitousRate < 1 {
		errs = append(errs, fmt.Errorf("gratuitous-rate: %d; at least 1 frame per second is needed", o.GratuitousRate))
	}
	for i, text := range o.Gateways {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			errs = append(errs, fmt.Errorf("gateways[%d]: %q is not an address", i, text))
			continue
		}
		conf.Gateways = append(conf.Gateways, addr.Unmap())
	}
	if err := errors.Join(errs...); err != nil {
		return speakers.Config{}, err
	}
	reloader, err := pki.NewReloader(pki.Files{CA: o.TLSCA, Cert: o.TLSCert, Key: o.TLSKey}, log)
	if err != nil {
		return speakers.Config{}, err
	}
	if want := (pki.Role{Kind: pki.KindSpeaker, Name: o.Node}); reloader.Role() != want {
		return speakers.Config{}, fmt.Errorf("tls-cert: the role is %v, and node %q needs %v", reloader.Role(), o.Node, want)
	}
	conf.TLS = reloader.ClientTLS(pki.KindMember, "h2")
	return conf, nil
}
