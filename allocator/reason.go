package allocator

import logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"

// Reason says why a node may or may not own an address.
type Reason uint8

// Reasons, in the order in which they are looked for. OK is not the zero value.
const (
	// ReasonInvalid is the zero value.
	ReasonInvalid Reason = iota
	// OK: the node may own the address.
	OK
	// NotInUse: no service has the address.
	NotInUse
	// UnknownNode: no speaker of that name was ever seen.
	UnknownNode
	// NoSession: the node's session is closed or expired.
	NoSession
	// Drained by an administrator.
	Drained
	// Leaving: the speaker shuts down.
	Leaving
	// ExcludedLabel: the node carries LabelExclude.
	ExcludedLabel
	// NoAdvertisement: no L2Advertisement is for the address's pool.
	NoAdvertisement
	// NodeSelector: no L2Advertisement for the pool admits the node.
	NodeSelector
	// ServiceNodeSelector: a service that has the address does not admit the node.
	ServiceNodeSelector
	// LinkDown: none of the interfaces to announce on is up.
	LinkDown
	// AnnounceFailed: the node could not announce the address and is tried again later.
	AnnounceFailed
	// ServiceUnselected: L2Advertisements are for the address's pool, but none of them
	// selects all of the services that have it. Looked for with NoAdvertisement.
	ServiceUnselected
	// NoEndpoint: a service with externalTrafficPolicy Local has no endpoint there.
	// This and the next two are looked for after ServiceNodeSelector.
	NoEndpoint
	// OnlyTerminating: all its endpoints there are on their way out, and another node
	// that may have the address has a ready one.
	OnlyTerminating
	// Unhealthy: the health check of a service fails there.
	Unhealthy
)

// LabelExclude on a node, with any value, keeps load balancer addresses away
// from it, as everywhere in Kubernetes.
const LabelExclude = "node.kubernetes.io/exclude-from-external-load-balancers"

var reasonTexts = [...]string{
	ReasonInvalid:       "invalid",
	OK:                  "eligible",
	NotInUse:            "no service has the address",
	UnknownNode:         "node is unknown",
	NoSession:           "node has no open session",
	Drained:             "node is drained",
	Leaving:             "speaker is shutting down",
	ExcludedLabel:       "node is labelled " + LabelExclude,
	NoAdvertisement:     "no L2Advertisement selects the pool",
	NodeSelector:        "node is not selected by any L2Advertisement of the pool",
	ServiceNodeSelector: "node is not selected by the service",
	LinkDown:            "no interface to announce on is up",
	AnnounceFailed:      "announcing failed there; it is tried again later",
	ServiceUnselected:   "no L2Advertisement of the pool selects every service that has the address",
	NoEndpoint:          "no endpoint of the service is there (externalTrafficPolicy Local)",
	OnlyTerminating:     "all endpoints there are terminating, and another node has a ready one",
	Unhealthy:           "the service's health check fails there",
}

// String explains the reason to an operator.
func (r Reason) String() string {
	if int(r) < len(reasonTexts) {
		return reasonTexts[r]
	}
	return reasonTexts[ReasonInvalid]
}

// OwnerReason is the reason to record when an owner is taken an address for r.
func (r Reason) OwnerReason() logv1.OwnerReason {
	switch r {
	case NotInUse:
		return logv1.OwnerReason_OWNER_REASON_ADDRESS_DELETED
	case UnknownNode, NoSession:
		return logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED
	case Drained:
		return logv1.OwnerReason_OWNER_REASON_DRAIN
	case Leaving:
		return logv1.OwnerReason_OWNER_REASON_LEAVE
	case LinkDown:
		return logv1.OwnerReason_OWNER_REASON_LINK_DOWN
	case AnnounceFailed:
		return logv1.OwnerReason_OWNER_REASON_ANNOUNCE_FAILED
	case NoEndpoint, OnlyTerminating, Unhealthy:
		return logv1.OwnerReason_OWNER_REASON_NOT_SERVING
	default:
		return logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE
	}
}

// forbids tells whether the reason is a rule of the operator's: then the
// address leaves the node even when no other can take it. The others tell of
// a node that does badly, and badly is better than not at all.
func (r Reason) forbids() bool {
	switch r {
	case NotInUse, ExcludedLabel, NoAdvertisement, NodeSelector, ServiceNodeSelector, ServiceUnselected:
		return true
	default:
		return false
	}
}
