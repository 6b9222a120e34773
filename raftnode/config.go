package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// Config of a Member. Name, DataDir, Listen, Members and TLS are required.
type Config struct {
	// Name of this member in Members: one DNS label.
	Name string
	// DataDir is the directory that is the member's identity.
	DataDir string
	// Listen is the address to bind, host:port; Advertise is what others are told,
	// empty for the address in Members.
	Listen, Advertise string
	// Members are the addresses (host:port) of the group by name, the same on
	// every member.
	Members map[string]string
	// TLS names the files of the member's certificate, role member/<name>.
	TLS pki.Files
	// Profile of the timing: "default", "fast" or "patient".
	Profile string

	// Registry takes the metrics; nil means that there are none.
	Registry prometheus.Registerer
	// Logger; nil discards.
	Logger *slog.Logger

	// The rest is for tests; zero values mean what a real member has.

	// Lease are the lease times that a new group begins with.
	Lease fsm.LeaseTimes
	// Fault interferes with the member's Raft messages.
	Fault transport.Fault
	// DialOptions change the member's gRPC connections to other members.
	DialOptions []grpc.DialOption
	// DigestInterval is how often digests are compared.
	DigestInterval time.Duration
	// Change changes Raft's configuration.
	Change func(*consensus.Config)
}

// leaseTimes are those that a new group begins with in each profile.
var leaseTimes = map[string]fsm.LeaseTimes{
	consensus.ProfileDefault: fsm.DefaultLeaseTimes,
	consensus.ProfileFast:    {Detection: 250 * time.Millisecond, Heartbeat: 50 * time.Millisecond, Settle: fsm.DefaultLeaseTimes.Settle},
	consensus.ProfilePatient: {Detection: 3 * time.Second, Heartbeat: 600 * time.Millisecond, Settle: fsm.DefaultLeaseTimes.Settle},
}

func (c *Config) setDefaults() error {
	var errs []error
	errs = append(errs, storage.ValidateName(c.Name))
	if c.DataDir == "" || c.Listen == "" || len(c.Members) == 0 {
		errs = append(errs, errors.New("a data directory, an address to listen at and a list of members are needed"))
	}
	if c.Profile == "" {
		c.Profile = consensus.ProfileDefault
	}
	times, ok := leaseTimes[c.Profile]
	if !ok {
		errs = append(errs, fmt.Errorf("profile: %q is none of default, fast, patient", c.Profile))
	}
	if c.Lease == (fsm.LeaseTimes{}) {
		c.Lease = times
	}
	if c.Advertise == "" {
		c.Advertise = c.Members[c.Name]
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.DigestInterval <= 0 {
		c.DigestInterval = digestInterval
	}
	return errors.Join(errs...)
}
