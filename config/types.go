package config

import (
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// APIVersion is that of every document.
const APIVersion = "quorumlb.io/v1"

// Kinds of documents that can be applied. A List holds others in "items".
const (
	KindIPAddressPool   = "IPAddressPool"
	KindL2Advertisement = "L2Advertisement"
	KindVirtualService  = "VirtualService"
	KindNamespace       = "Namespace"
	KindReservation     = "Reservation"
	KindList            = "List"
)

// DefaultNamespace is that of a VirtualService which names none.
const DefaultNamespace = "default"

// Object is a document as it is written. Spec and Status are of the types below
// when they come from FromResource.
type Object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       any      `json:"spec,omitempty"`
	// Status is what the group found; it is ignored when the document is applied.
	Status any `json:"status,omitempty"`
}

// Metadata names an object.
type Metadata struct {
	Name string `json:"name"`
	// Namespace is for VirtualService alone; "default" when not given.
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// IPAddressPoolSpec is addresses to give to services.
type IPAddressPoolSpec struct {
	// Addresses are CIDRs and "first-last" ranges of either family.
	Addresses []string `json:"addresses"`
	// AutoAssign (default true): false leaves the pool to services that name it
	// or one of its addresses.
	AutoAssign bool `json:"autoAssign"`
	// AvoidBuggyIPs (default false) skips IPv4 addresses that end in .0 or .255.
	AvoidBuggyIPs bool `json:"avoidBuggyIPs"`
	// ServiceAllocation says for which services the pool is; not given: for all,
	// after the pools that are for certain ones.
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
	// Quota bounds how many addresses each namespace may have.
	Quota *Quota `json:"quota,omitempty"`
	// Quarantine (default none) is how long an address that was given up is given
	// to no other service, not even on request.
	Quarantine Duration `json:"quarantine,omitempty"`
	// Reallocate (default false) replaces addresses in use that the pool no longer
	// has, or whose service it is no longer for; else they stay with their services.
	Reallocate bool `json:"reallocate,omitempty"`
}

// Quota bounds the addresses of a pool that the services of a namespace have.
type Quota struct {
	// PerNamespace is for namespaces that are not named; 0 (default): no bound.
	PerNamespace uint32 `json:"perNamespace,omitempty"`
	// Namespaces have their own bound; 0: none at all.
	Namespaces map[string]uint32 `json:"namespaces,omitempty"`
}

// ReservationSpec promises addresses to a service, or holds them back.
type ReservationSpec struct {
	// Addresses are addresses, CIDRs and "first-last" ranges.
	Addresses []string `json:"addresses"`
	// Service that may have them; not given: nobody.
	Service *ServiceName `json:"service,omitempty"`
	// Until when ("2027-01-31T12:00:00Z"); not given: for ever.
	Until *time.Time `json:"until,omitempty"`
}

// ServiceName names a service.
type ServiceName struct {
	// Namespace is "default" when not given.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// ServiceAllocation chooses the services that a pool is for: those of the
// namespaces (all when neither names nor selectors are given) that one of the
// service selectors matches (all when there is none).
type ServiceAllocation struct {
	// Priority: pools of a lower number are tried first; 0 (default) comes last.
	Priority uint32 `json:"priority,omitempty"`
	// Namespaces and NamespaceSelectors choose namespaces, by name or by label.
	Namespaces         []string        `json:"namespaces,omitempty"`
	NamespaceSelectors []LabelSelector `json:"namespaceSelectors,omitempty"`
	// ServiceSelectors choose services by label.
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`
}

// NamespaceSpec is empty: a Namespace is its name and labels.
type NamespaceSpec struct{}

// L2AdvertisementSpec says for which pools, from which nodes and on which
// interfaces addresses are announced in layer 2.
type L2AdvertisementSpec struct {
	// IPAddressPools and IPAddressPoolSelectors choose pools, by name or by
	// label; both empty: all pools.
	IPAddressPools         []string        `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	// NodeSelectors admit nodes, any of them; empty: all nodes.
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`
	// Interfaces to announce on; empty: all.
	Interfaces []string `json:"interfaces,omitempty"`
	// OnControlLoss is Hold (default) or Release.
	OnControlLoss string `json:"onControlLoss"`
	// Placement is Sticky (default) or Ideal.
	Placement string `json:"placement"`
	// ServiceSelectors choose services, any of them; empty: all services. An address
	// that services share is announced only if each of them is chosen.
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`
	// PreferredNodeSelectors prefer nodes. The weights of all that match a node are
	// summed, over all advertisements for the address.
	PreferredNodeSelectors []PreferredNodeSelector `json:"preferredNodeSelectors,omitempty"`
	// Rebalance is Never (default) or Gradual.
	Rebalance string `json:"rebalance"`
	// RebalancePerMinute (default 6) is for Gradual alone: the most moves per minute.
	RebalancePerMinute uint32 `json:"rebalancePerMinute,omitempty"`
}

// PreferredNodeSelector prefers the nodes that match.
type PreferredNodeSelector struct {
	// Weight is 1 to 100.
	Weight uint32 `json:"weight"`
	// Preference selects nodes.
	Preference *LabelSelector `json:"preference"`
}

// VirtualServiceSpec is what a Kubernetes Service says, for use without Kubernetes.
type VirtualServiceSpec struct {
	Ports []Port `json:"ports"`
	// Addresses asked for, at most addressCount of each family; empty: any.
	Addresses []string `json:"addresses,omitempty"`
	// AddressCount (default 1) is how many addresses of each family the service is to have,
	// 1 to 16, on distinct nodes where there are so many.
	AddressCount uint32 `json:"addressCount,omitempty"`
	// Pool asked for; empty: any that assigns by itself.
	Pool string `json:"pool,omitempty"`
	// IPFamilyPolicy is SingleStack (default), PreferDualStack or RequireDualStack.
	IPFamilyPolicy string `json:"ipFamilyPolicy"`
	// IPFamilies are IPv4 and IPv6 in the order of preference; empty: that of
	// the addresses, or else what the pools have, IPv4 first.
	IPFamilies []string `json:"ipFamilies,omitempty"`
	// ExternalTrafficPolicy is Cluster (default) or Local.
	ExternalTrafficPolicy string `json:"externalTrafficPolicy"`
	// SharingKey lets services of the same key share an address when their
	// ports differ.
	SharingKey string `json:"sharingKey,omitempty"`
	// Selector are the labels of the backends: with externalTrafficPolicy Local,
	// services share an address only when theirs are the same.
	Selector map[string]string `json:"selector,omitempty"`
	// NodeSelectors admit nodes, any of them; empty: all nodes.
	NodeSelectors []LabelSelector `json:"nodeSelectors,omitempty"`
	// Delivery is None (default: something else accepts the packets) or Host (the
	// speaker puts the address on the loopback interface of every eligible node).
	Delivery string `json:"delivery"`
	// PreferredNode is preferred before all others; it need not exist.
	PreferredNode string `json:"preferredNode,omitempty"`
	// HealthCheck is run by the speaker of every node that may own the service's
	// addresses; those where it fails do not own them while others can.
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
}

// HealthCheck has exactly one of HTTP, TCP and Exec.
type HealthCheck struct {
	HTTP *HTTPCheck `json:"http,omitempty"`
	TCP  *TCPCheck  `json:"tcp,omitempty"`
	Exec *ExecCheck `json:"exec,omitempty"`
	// Interval (default 2s) is 100ms to 1h.
	Interval Duration `json:"interval"`
	// Timeout (default 1s, or the interval if that is less) is at most the interval.
	Timeout Duration `json:"timeout"`
	// Rise (default 2) successes in a row make a node able to serve, Fall (default 3)
	// failures unable.
	Rise uint32 `json:"rise"`
	Fall uint32 `json:"fall"`
}

// HTTPCheck succeeds with a status from 200 to 399.
type HTTPCheck struct {
	// Port (default: the service's first TCP port).
	Port uint16 `json:"port,omitempty"`
	// Path (default "/").
	Path string `json:"path"`
	// Host header (default: localhost).
	Host string `json:"host,omitempty"`
}

// TCPCheck succeeds when a connection is accepted.
type TCPCheck struct {
	// Port (default: the service's first TCP port).
	Port uint16 `json:"port,omitempty"`
}

// ExecCheck succeeds when a script of the speaker's check directory does.
type ExecCheck struct {
	// Script is its bare name.
	Script string `json:"script"`
}

// Port of a service.
type Port struct {
	Name string `json:"name,omitempty"`
	// Protocol is TCP (default), UDP or SCTP.
	Protocol string `json:"protocol"`
	// Port is 1 to 65535.
	Port uint16 `json:"port"`
}

// LabelSelector has Kubernetes' meaning: all parts must match; empty matches all.
type LabelSelector struct {
	MatchLabels      map[string]string  `json:"matchLabels,omitempty"`
	MatchExpressions []LabelRequirement `json:"matchExpressions,omitempty"`
}

// LabelRequirement is one expression of a selector.
type LabelRequirement struct {
	Key string `json:"key"`
	// Operator is In, NotIn, Exists or DoesNotExist.
	Operator string   `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

func (NamespaceSpec) fieldNote(string) string {
	return "a Namespace has metadata only: its name and labels"
}

func (VirtualServiceSpec) fieldNote(name string) string {
	switch name {
	case "loadBalancerIP", "loadBalancerIPs":
		return "is named addresses here"
	}
	return ""
}

func (Metadata) fieldNote(name string) string {
	if name == "annotations" {
		return "is not kept; what MetalLB reads from annotations has fields in spec"
	}
	return ""
}

// enum is the words of a field for the values of the log; the first is the default.
type enum[T ~int32] struct {
	words  []string
	values []T
}

func (e enum[T]) value(word string) (T, bool) {
	for i, w := range e.words {
		if w == word {
			return e.values[i], true
		}
	}
	return 0, false
}

// word of an unset value is the default's; ok is false for a value that this
// program does not know.
func (e enum[T]) word(v T) (string, bool) {
	if v == 0 {
		return e.words[0], true
	}
	for i, known := range e.values {
		if v == known {
			return e.words[i], true
		}
	}
	return "", false
}

var (
	controlLosses = enum[logv1.ControlLoss]{
		[]string{"Hold", "Release"},
		[]logv1.ControlLoss{logv1.ControlLoss_CONTROL_LOSS_HOLD, logv1.ControlLoss_CONTROL_LOSS_RELEASE},
	}
	placements = enum[logv1.Placement]{
		[]string{"Sticky", "Ideal"},
		[]logv1.Placement{logv1.Placement_PLACEMENT_STICKY, logv1.Placement_PLACEMENT_IDEAL},
	}
	rebalances = enum[logv1.Rebalance]{
		[]string{"Never", "Gradual"},
		[]logv1.Rebalance{logv1.Rebalance_REBALANCE_NEVER, logv1.Rebalance_REBALANCE_GRADUAL},
	}
	protocols = enum[logv1.Protocol]{
		[]string{"TCP", "UDP", "SCTP"},
		[]logv1.Protocol{logv1.Protocol_PROTOCOL_TCP, logv1.Protocol_PROTOCOL_UDP, logv1.Protocol_PROTOCOL_SCTP},
	}
	families = enum[logv1.IPFamily]{
		[]string{"IPv4", "IPv6"},
		[]logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4, logv1.IPFamily_IP_FAMILY_IPV6},
	}
	familyPolicies = enum[logv1.IPFamilyPolicy]{
		[]string{"SingleStack", "PreferDualStack", "RequireDualStack"},
		[]logv1.IPFamilyPolicy{
			logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK,
			logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK,
			logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK,
		},
	}
	trafficPolicies = enum[logv1.ExternalTrafficPolicy]{
		[]string{"Cluster", "Local"},
		[]logv1.ExternalTrafficPolicy{
			logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_CLUSTER,
			logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL,
		},
	}
	deliveries = enum[logv1.Delivery]{
		[]string{"None", "Host"},
		[]logv1.Delivery{logv1.Delivery_DELIVERY_NONE, logv1.Delivery_DELIVERY_HOST},
	}
)
