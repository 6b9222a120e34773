package fsm

import (
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// clusterFounded is the first event of a log, and once more when a backup
// becomes a new cluster. Epochs count by cluster, so the id must be new.
func (f *folding) clusterFounded(e *logv1.ClusterFounded) error {
	id := e.GetClusterId()
	switch {
	case f.events != 0:
		return corruptf("ClusterFounded is not the first event of its batch")
	case len(id) != 16 || [16]byte(id) == [16]byte{}:
		return corruptf("cluster id of %d bytes", len(id))
	case [16]byte(id) == f.s.ClusterID:
		return corruptf("cluster %x founded twice", id)
	}
	if err := checkVersion(e.GetClusterVersion()); err != nil {
		return err
	}
	f.s.ClusterID = [16]byte(id)
	f.s.ClusterVersion = max(f.s.ClusterVersion, e.GetClusterVersion())
	f.changes.All = true
	return nil
}

func checkVersion(v uint32) error {
	switch {
	case v == 0:
		return corruptf("cluster version 0")
	case v > MaxClusterVersion:
		return unknownf("cluster version %d; this program knows up to %d", v, MaxClusterVersion)
	}
	return nil
}

func (f *folding) clusterVersionRaised(e *logv1.ClusterVersionRaised) error {
	if err := checkVersion(e.GetClusterVersion()); err != nil {
		return err
	}
	if e.GetClusterVersion() <= f.s.ClusterVersion {
		return corruptf("cluster version raised from %d to %d", f.s.ClusterVersion, e.GetClusterVersion())
	}
	f.s.ClusterVersion = e.GetClusterVersion()
	f.changes.All = true
	return nil
}

func (f *folding) leaseTimesSet(e *logv1.LeaseTimesSet) error {
	if e.GetTimes() == nil {
		return corruptf("LeaseTimesSet without times")
	}
	t := LeaseTimes{
		Detection: time.Duration(e.GetTimes().GetDetectionNanos()),
		Heartbeat: time.Duration(e.GetTimes().GetHeartbeatNanos()),
		Settle:    time.Duration(e.GetTimes().GetSettleNanos()),
	}
	if t.Heartbeat <= 0 || t.Detection <= t.Heartbeat || t.Settle < 0 {
		return corruptf("lease times D %s, h %s, settle %s", t.Detection, t.Heartbeat, t.Settle)
	}
	if t != f.s.Lease {
		f.s.PriorLease, f.s.Lease = f.s.Lease, t
	}
	f.changes.All = true
	return nil
}

func (f *folding) retentionSet(e *logv1.RetentionSet) error {
	if e.GetRetentionNanos() < 0 {
		return corruptf("retention of %d ns", e.GetRetentionNanos())
	}
	f.s.Retention = time.Duration(e.GetRetentionNanos())
	f.changes.All = true
	return nil
}

// restoreBegun changes nothing: it names the events that follow.
func (f *folding) restoreBegun(e *logv1.RestoreBegun) error {
	if n := len(e.GetFromClusterId()); n != 16 {
		return corruptf("RestoreBegun from a cluster id of %d bytes", n)
	}
	f.changes.All = true
	return nil
}
