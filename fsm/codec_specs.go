package fsm

import (
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// The declared resources inside rows. A test fills every field of every message
// and fails when one does not come back.

func (e *encoder) pool(p *logv1.Pool) {
	e.str(p.GetName())
	e.labels(p.GetLabels())
	e.strs(p.GetAddresses())
	e.bool(p.GetManualOnly())
	e.bool(p.GetAvoidBuggyIps())
	e.serviceAllocation(p.GetServiceAllocation())
	e.quota(p.GetQuota())
	e.int(p.GetQuarantineNanos())
	e.bool(p.GetReallocate())
}

func (d *decoder) pool() *logv1.Pool {
	return &logv1.Pool{
		Name:          d.name(),
		Labels:        d.labels(),
		Addresses:     d.strs(),
		ManualOnly:    d.bool(),
		AvoidBuggyIps: d.bool(),

		ServiceAllocation: d.serviceAllocation(),
		Quota:             d.quota(),
		QuarantineNanos:   d.int(),
		Reallocate:        d.bool(),
	}
}

func (e *encoder) advertisement(a *logv1.L2Advertisement) {
	e.str(a.GetName())
	e.labels(a.GetLabels())
	e.strs(a.GetIpAddressPools())
	encodeList(e, a.GetIpAddressPoolSelectors(), (*encoder).selector)
	encodeList(e, a.GetNodeSelectors(), (*encoder).selector)
	e.strs(a.GetInterfaces())
	e.uint(uint64(a.GetOnControlLoss()))
	e.uint(uint64(a.GetPlacement()))
	encodeList(e, a.GetServiceSelectors(), (*encoder).selector)
	encodeList(e, a.GetPreferredNodeSelectors(), func(e *encoder, p *logv1.PreferredNodeSelector) {
		e.uint(uint64(p.GetWeight()))
		e.selector(p.GetPreference())
	})
	e.uint(uint64(a.GetRebalance()))
	e.uint(uint64(a.GetRebalancePerMinute()))
}

func (d *decoder) advertisement() *logv1.L2Advertisement {
	return &logv1.L2Advertisement{
		Name:                   d.name(),
		Labels:                 d.labels(),
		IpAddressPools:         d.strs(),
		IpAddressPoolSelectors: decodeList(d, (*decoder).selector),
		NodeSelectors:          decodeList(d, (*decoder).selector),
		Interfaces:             d.strs(),
		OnControlLoss:          decodeEnum[logv1.ControlLoss](d, logv1.ControlLoss_name),
		Placement:              decodeEnum[logv1.Placement](d, logv1.Placement_name),
		ServiceSelectors:       decodeList(d, (*decoder).selector),
		PreferredNodeSelectors: decodeList(d, func(d *decoder) *logv1.PreferredNodeSelector {
			return &logv1.PreferredNodeSelector{Weight: d.uint32(), Preference: d.selector()}
		}),
		Rebalance:          decodeEnum[logv1.Rebalance](d, logv1.Rebalance_name),
		RebalancePerMinute: d.uint32(),
	}
}

func (e *encoder) selector(s *logv1.LabelSelector) {
	e.labels(s.GetMatchLabels())
	encodeList(e, s.GetMatchExpressions(), func(e *encoder, r *logv1.LabelRequirement) {
		e.str(r.GetKey())
		e.str(r.GetOperator())
		e.strs(r.GetValues())
	})
}

func (d *decoder) selector() *logv1.LabelSelector {
	return &logv1.LabelSelector{
		MatchLabels: d.labels(),
		MatchExpressions: decodeList(d, func(d *decoder) *logv1.LabelRequirement {
			return &logv1.LabelRequirement{Key: d.name(), Operator: d.name(), Values: d.strs()}
		}),
	}
}

func (e *encoder) service(s *logv1.Service) {
	e.str(s.GetNamespace())
	e.str(s.GetName())
	e.labels(s.GetLabels())
	encodeList(e, s.GetPorts(), func(e *encoder, p *logv1.Port) {
		e.str(p.GetName())
		e.uint(uint64(p.GetProtocol()))
		e.uint(uint64(p.GetPort()))
	})
	e.strs(s.GetAddresses())
	e.str(s.GetPool())
	e.uint(uint64(s.GetIpFamilyPolicy()))
	encodeList(e, s.GetIpFamilies(), func(e *encoder, f logv1.IPFamily) { e.uint(uint64(f)) })
	e.uint(uint64(s.GetExternalTrafficPolicy()))
	e.str(s.GetSharingKey())
	encodeList(e, s.GetNodeSelectors(), (*encoder).selector)
	e.uint(uint64(s.GetDelivery()))
	e.str(s.GetPreferredNode())
	e.healthCheck(s.GetHealthCheck())
	e.labels(s.GetSelector())
	e.uint(uint64(s.GetAddressCount()))
}

func (d *decoder) service() *logv1.Service {
	return &logv1.Service{
		Namespace: d.name(),
		Name:      d.str(),
		Labels:    d.labels(),
		Ports: decodeList(d, func(d *decoder) *logv1.Port {
			return &logv1.Port{
				Name:     d.name(),
				Protocol: decodeEnum[logv1.Protocol](d, logv1.Protocol_name),
				Port:     d.uint32(),
			}
		}),
		Addresses:      d.strs(),
		Pool:           d.name(),
		IpFamilyPolicy: decodeEnum[logv1.IPFamilyPolicy](d, logv1.IPFamilyPolicy_name),
		IpFamilies: decodeList(d, func(d *decoder) logv1.IPFamily {
			return decodeEnum[logv1.IPFamily](d, logv1.IPFamily_name)
		}),
		ExternalTrafficPolicy: decodeEnum[logv1.ExternalTrafficPolicy](d, logv1.ExternalTrafficPolicy_name),
		SharingKey:            d.name(),
		NodeSelectors:         decodeList(d, (*decoder).selector),
		Delivery:              decodeEnum[logv1.Delivery](d, logv1.Delivery_name),
		PreferredNode:         d.name(),
		HealthCheck:           d.healthCheck(),
		Selector:              d.labels(),
		AddressCount:          d.uint32(),
	}
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	if v > 1<<32-1 {
		d.fail("number of 32 bits")
	}
	return uint32(v)
}

func (e *encoder) link(l *logv1.Link) {
	e.str(l.GetName())
	e.bytes(l.GetMac())
	e.bool(l.GetUp())
	e.strs(l.GetPrefixes())
}

func (d *decoder) link() *logv1.Link {
	return &logv1.Link{Name: d.name(), Mac: d.bytes(), Up: d.bool(), Prefixes: d.strs()}
}
