package speakers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/layer2"
	"github.com/quorumlb/quorumlb/speakers/links"
)

// DefaultLeaveTimeout is how long a speaker that is told to stop waits until it
// owns nothing.
const DefaultLeaveTimeout = 10 * time.Second

// Config is what a speaker is told at its start.
type Config struct {
	// Node is the node's name, the same as in the certificate's role.
	Node string
	// Members are addresses (host:port) of members to begin with.
	Members []string
	// TLS is the client's configuration; nil for none, which only tests use.
	TLS *tls.Config
	// StateDir holds the member list, what was added to the loopback device, and the
	// MACs that were announced: without them a restart announces everything anew.
	StateDir string
	Labels   map[string]string
	Version  string

	// Interfaces are names or shell patterns of the links to announce on; none means
	// all that ExcludeInterfaces leaves.
	Interfaces []string
	// ExcludeInterfaces are regular expressions of names not to announce on. Nil
	// means links.DefaultExclude if Interfaces is empty, and none otherwise: a link that was
	// named is meant.
	ExcludeInterfaces []string
	// Gateways are asked to prove a takeover, beside those of the default routes.
	Gateways []netip.Addr
	// GratuitousRate is the most unsolicited frames per second on one link; 0 means
	// layer2.DefaultRate.
	GratuitousRate int
	// LeaveTimeout bounds the planned move at the end; 0 means DefaultLeaveTimeout.
	LeaveTimeout time.Duration
	// CheckDir holds the scripts that health checks may run; empty: none.
	CheckDir string

	// Clock is clock.Boottime if nil.
	Clock    clock.Clock
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// check fills in defaults and reports all mistakes.
func (c *Config) check() (*links.Selector, error) {
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("node: must be set"))
	}
	if c.StateDir == "" {
		errs = append(errs, errors.New("state-dir: must be set"))
	}
	if c.GratuitousRate == 0 {
		c.GratuitousRate = layer2.DefaultRate
	}
	if c.GratuitousRate < 0 {
		errs = append(errs, fmt.Errorf("gratuitous-rate: %d is not a number of frames per second", c.GratuitousRate))
	}
	if c.LeaveTimeout == 0 {
		c.LeaveTimeout = DefaultLeaveTimeout
	}
	if c.Clock == nil {
		c.Clock = clock.Boottime
	}
	if c.ExcludeInterfaces == nil && len(c.Interfaces) == 0 {
		c.ExcludeInterfaces = links.DefaultExclude()
	}
	selector, err := links.NewSelector(c.Interfaces, c.ExcludeInterfaces)
	return selector, errors.Join(append(errs, err)...)
}
