package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/pflag"

	"github.com/quorumlb/quorumlb/config"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/raftnode"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// options are the flags, and by the same names the fields of the configuration
// file. A flag that is given overrides the file.
type options struct {
	Config string `yaml:"-"`

	Name      string   `yaml:"name"`
	DataDir   string   `yaml:"data-dir"`
	Listen    string   `yaml:"listen"`
	Advertise string   `yaml:"advertise"`
	Members   []string `yaml:"members"`
	Profile   string   `yaml:"profile"`
	TLSCA     string   `yaml:"tls-ca"`
	TLSCert   string   `yaml:"tls-cert"`
	TLSKey    string   `yaml:"tls-key"`
	HTTP      string   `yaml:"http"`
	Pprof     bool     `yaml:"pprof"`
	LogLevel  string   `yaml:"log-level"`
	LogFormat string   `yaml:"log-format"`
}

func newOptions() *options {
	return &options{
		DataDir: "/var/lib/quorumlb/node", Listen: ":7400", Profile: consensus.ProfileDefault,
		HTTP: "127.0.0.1:7402", LogLevel: "info", LogFormat: "text",
	}
}

// bind makes flags of the options.
func (o *options) bind(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.StringVar(&o.Config, "config", o.Config, "YAML `file` whose fields are named like these flags; a flag overrides it")
	flags.StringVar(&o.Name, "name", o.Name, "`name` of this member in --members: one DNS label")
	flags.StringVar(&o.DataDir, "data-dir", o.DataDir, "`directory` of the log; it is the member's identity: never copy it, and a lost one makes a new member")
	flags.StringVar(&o.Listen, "listen", o.Listen, "`host:port` to accept members, speakers and operators at")
	flags.StringVar(&o.Advertise, "advertise", o.Advertise, "`host:port` that others reach this member by (default: that of --members, or --listen)")
	flags.StringSliceVar(&o.Members, "members", o.Members, "the group, the same on every member: `name=host:port,...`; three or five")
	flags.StringVar(&o.Profile, "profile", o.Profile, "timing: `default`, fast (lease times of a new group are shorter) or patient (all times are longer)")
	flags.StringVar(&o.TLSCA, "tls-ca", o.TLSCA, "`file` of the group's CA certificate (qlbctl pki init)")
	flags.StringVar(&o.TLSCert, "tls-cert", o.TLSCert, "`file` of this member's certificate, role member/NAME (qlbctl pki issue); read again when it changes")
	flags.StringVar(&o.TLSKey, "tls-key", o.TLSKey, "`file` of its key")
	flags.StringVar(&o.HTTP, "http", o.HTTP, "`host:port` of /metrics, /livez, /readyz and /readyz?caughtup; empty: none")
	flags.BoolVar(&o.Pprof, "pprof", o.Pprof, "serve Go profiles below /debug/pprof/ of --http as well")
	flags.StringVar(&o.LogLevel, "log-level", o.LogLevel, "`level`: debug, info, warn or error")
	flags.StringVar(&o.LogFormat, "log-format", o.LogFormat, "`format`: text or json")
}

// load reads the configuration file, if one is named, under the flags that were
// given.
func (o *options) load(flags *pflag.FlagSet) error {
	if o.Config == "" {
		return nil
	}
	restore := givenFlags(flags)
	path := o.Config
	*o = *newOptions()
	if err := config.LoadStrict(path, o); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return restore()
}

// givenFlags remembers the flags of the command line; the function that it
// returns sets them again.
func givenFlags(flags *pflag.FlagSet) (restore func() error) {
	var sets []func() error
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value := list.GetSlice()
			sets = append(sets, func() error { return list.Replace(value) })
			return
		}
		value := f.Value.String()
		sets = append(sets, func() error { return f.Value.Set(value) })
	})
	return func() error {
		var errs []error
		for _, set := range sets {
			errs = append(errs, set())
		}
		return errors.Join(errs...)
	}
}

// member checks the options and turns them into a member's configuration. All
// mistakes are reported at once.
func (o *options) member() (raftnode.Config, error) {
	conf := raftnode.Config{
		Name: o.Name, DataDir: o.DataDir, Listen: o.Listen, Advertise: o.Advertise, Profile: o.Profile,
		TLS: pki.Files{CA: o.TLSCA, Cert: o.TLSCert, Key: o.TLSKey},
	}
	var errs []error
	for _, f := range []struct{ flag, value string }{
		{"name", o.Name}, {"data-dir", o.DataDir}, {"listen", o.Listen}, {"tls-ca", o.TLSCA}, {"tls-cert", o.TLSCert}, {"tls-key", o.TLSKey},
	} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s: must be set", f.flag))
		}
	}
	members, err := parseMembers(o.Members)
	conf.Members = members
	errs = append(errs, err)
	if _, named := members[o.Name]; err == nil && o.Name != "" && !named {
		errs = append(errs, fmt.Errorf("members: does not name %q, this member", o.Name))
	}
	if conf.Advertise == "" {
		conf.Advertise = members[o.Name]
	}
	if err := errors.Join(errs...); err != nil {
		return raftnode.Config{}, err
	}
	return conf, nil
}

// parseMembers reads "name=host:port" entries.
func parseMembers(entries []string) (map[string]string, error) {
	if len(entries) == 0 {
		return nil, errors.New("members: must be set")
	}
	members := make(map[string]string, len(entries))
	var errs []error
	for i, entry := range entries {
		name, addr, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok {
			errs = append(errs, fmt.Errorf("members[%d]: %q is not name=host:port", i, entry))
			continue
		}
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("members[%d]: %q is not host:port", i, addr))
		}
		if _, twice := members[name]; twice {
			errs = append(errs, fmt.Errorf("members[%d]: %q is named twice", i, name))
		}
		members[name] = addr
	}
	return members, errors.Join(errs...)
}
