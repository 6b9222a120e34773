package service

import (
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func leaseMessage(t fsm.LeaseTimes) *logv1.LeaseTimes {
	return &logv1.LeaseTimes{
		DetectionNanos: int64(t.Detection), HeartbeatNanos: int64(t.Heartbeat), SettleNanos: int64(t.Settle),
	}
}
