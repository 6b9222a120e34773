package decider

import (
	"bytes"
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// SetLeaseTimes sets detection D, heartbeat h and settle time. One change has to
// take effect everywhere before the next: a member that restarts knows the times in
// force and those before. Errors: *InvalidError (fsm.ValidateLeaseTimes has the
// ranges), *PreconditionError soon after another change.
type SetLeaseTimes struct {
	Times fsm.LeaseTimes
	Actor string
}

func (c *SetLeaseTimes) kind() string  { return "SetLeaseTimes" }
func (c *SetLeaseTimes) actor() string { return c.Actor }

func (c *SetLeaseTimes) decide(t *tx) (answer, error) {
	if err := checkLeaseTimes(c.Times); err != nil {
		return nil, err
	}
	if t.s.Lease == c.Times {
		return nil, nil
	}
	return nil, t.setLeaseTimes(c.Times)
}

// setLeaseTimes changes the lease times, unless an earlier change is still taking effect.
func (t *tx) setLeaseTimes(times fsm.LeaseTimes) error {
	if left := t.changing(); left > 0 || t.leaseSet {
		return &PreconditionError{Reason: fmt.Sprintf(
			"the lease times have just been changed, which takes a while to be in force everywhere; try again in %v",
			max(left, time.Second).Round(100*time.Millisecond))}
	}
	t.emit(leaseTimesSet(times))
	t.whenDecided(func() { t.leaseSet = true })
	return nil
}

func checkLeaseTimes(t fsm.LeaseTimes) error {
	var f faults
	f.under("times", fsm.ValidateLeaseTimes(t))
	return f.err()
}

// SetRetention sets how long the address of a deleted service is kept for its
// name, 0 to fsm.MaxRetention. Errors: *InvalidError.
type SetRetention struct {
	Retention time.Duration
	Actor     string
}

func (c *SetRetention) kind() string  { return "SetRetention" }
func (c *SetRetention) actor() string { return c.Actor }

func (c *SetRetention) decide(t *tx) (answer, error) {
	if bad := fsm.ValidateRetention(c.Retention); bad != nil {
		var f faults
		f.under("settings", bad)
		return nil, f.err()
	}
	if t.s.Retention != c.Retention {
		t.emit(retentionSet(c.Retention))
	}
	return nil, nil
}

func retentionSet(d time.Duration) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_RetentionSet{RetentionSet: &logv1.RetentionSet{RetentionNanos: int64(d)}}}
}

// Found writes the first event of a cluster. In a cluster that exists it
// changes nothing.
type Found struct {
	// ClusterID is random; the caller made it, for the decider knows no randomness.
	ClusterID [16]byte
	// Version is the cluster version to start with, at least 1.
	Version uint32
	// Times to start with; zero: DefaultLeaseTimes.
	Times fsm.LeaseTimes
}

func (c *Found) kind() string  { return "Found" }
func (c *Found) actor() string { return "" }
func (c *Found) observed()     {}
func (c *Found) founding()     {}

func (c *Found) decide(t *tx) (answer, error) {
	if t.s.ClusterID != [16]byte{} {
		return nil, nil
	}
	var f faults
	if c.ClusterID == [16]byte{} {
		f.add("cluster_id", "must be random, not zero")
	}
	if c.Version == 0 {
		f.add("cluster_version", "must be at least 1")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if c.Times != (fsm.LeaseTimes{}) {
		if err := checkLeaseTimes(c.Times); err != nil {
			return nil, err
		}
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{
		ClusterId: bytes.Clone(c.ClusterID[:]), ClusterVersion: c.Version,
	}}})
	if c.Times != (fsm.LeaseTimes{}) && c.Times != t.s.Lease {
		t.emit(leaseTimesSet(c.Times))
	}
	return nil, nil
}
