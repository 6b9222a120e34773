package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v3"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// ErrUnknownResource is a resource, or a value in one, that this program does
// not know: the group is newer.
var ErrUnknownResource = errors.New("resource of a newer version")

// FromResource gives a resource as a document that can be applied again: Parse
// of what WriteYAML makes of it gives an equal resource.
func FromResource(r *adminv1.Resource) (*Object, error) {
	switch k := r.GetKind().(type) {
	case *adminv1.Resource_Pool:
		return FromPool(k.Pool), nil
	case *adminv1.Resource_L2Advertisement:
		return FromAdvertisement(k.L2Advertisement)
	case *adminv1.Resource_Service:
		return FromService(k.Service)
	case *adminv1.Resource_Namespace:
		return FromNamespace(k.Namespace), nil
	case *adminv1.Resource_Reservation:
		return FromReservation(k.Reservation), nil
	}
	return nil, fmt.Errorf("%w: kind %T", ErrUnknownResource, r.GetKind())
}

// FromPool is FromResource of a pool.
func FromPool(p *logv1.Pool) *Object {
	return &Object{
		APIVersion: APIVersion, Kind: KindIPAddressPool,
		Metadata: Metadata{Name: p.GetName(), Labels: p.GetLabels()},
		Spec: IPAddressPoolSpec{
			Addresses: p.GetAddresses(), AutoAssign: !p.GetManualOnly(), AvoidBuggyIPs: p.GetAvoidBuggyIps(),
			ServiceAllocation: fromAllocation(p.GetServiceAllocation()),
			Quota:             fromQuota(p.GetQuota()), Quarantine: Duration(p.GetQuarantineNanos()), Reallocate: p.GetReallocate(),
		},
	}
}

func fromQuota(q *logv1.Quota) *Quota {
	if q == nil {
		return nil
	}
	return &Quota{PerNamespace: q.GetPerNamespace(), Namespaces: q.GetNamespaces()}
}

// FromReservation is FromResource of a reservation.
func FromReservation(r *logv1.Reservation) *Object {
	spec := ReservationSpec{Addresses: r.GetAddresses()}
	if r.GetServiceName() != "" {
		spec.Service = &ServiceName{r.GetServiceNamespace(), r.GetServiceName()}
	}
	if r.GetUntilUnixNano() != 0 {
		until := time.Unix(0, r.GetUntilUnixNano()).UTC()
		spec.Until = &until
	}
	return &Object{APIVersion: APIVersion, Kind: KindReservation, Metadata: Metadata{Name: r.GetName(), Labels: r.GetLabels()}, Spec: spec}
}

func fromAllocation(a *logv1.ServiceAllocation) *ServiceAllocation {
	if a == nil {
		return nil
	}
	return &ServiceAllocation{
		Priority: a.GetPriority(), Namespaces: a.GetNamespaces(),
		NamespaceSelectors: fromSelectors(a.GetNamespaceSelectors()), ServiceSelectors: fromSelectors(a.GetServiceSelectors()),
	}
}

// FromNamespace is FromResource of a namespace.
func FromNamespace(n *logv1.Namespace) *Object {
	return &Object{APIVersion: APIVersion, Kind: KindNamespace, Metadata: Metadata{Name: n.GetName(), Labels: n.GetLabels()}}
}

// FromAdvertisement is FromResource of an advertisement.
func FromAdvertisement(a *logv1.L2Advertisement) (*Object, error) {
	var w words
	o := &Object{
		APIVersion: APIVersion, Kind: KindL2Advertisement,
		Metadata: Metadata{Name: a.GetName(), Labels: a.GetLabels()},
		Spec: L2AdvertisementSpec{
			IPAddressPools:         a.GetIpAddressPools(),
			IPAddressPoolSelectors: fromSelectors(a.GetIpAddressPoolSelectors()),
			NodeSelectors:          fromSelectors(a.GetNodeSelectors()),
			Interfaces:             a.GetInterfaces(),
			OnControlLoss:          wordOf(&w, "spec.onControlLoss", a.GetOnControlLoss(), controlLosses),
			Placement:              wordOf(&w, "spec.placement", a.GetPlacement(), placements),
			ServiceSelectors:       fromSelectors(a.GetServiceSelectors()),
			PreferredNodeSelectors: fromPreferred(a.GetPreferredNodeSelectors()),
			Rebalance:              wordOf(&w, "spec.rebalance", a.GetRebalance(), rebalances),
			RebalancePerMinute:     a.GetRebalancePerMinute(),
		},
	}
	return o, w.err(o)
}

// FromService is FromResource of a service.
func FromService(s *logv1.Service) (*Object, error) {
	var w words
	spec := VirtualServiceSpec{
		Addresses:             s.GetAddresses(),
		Pool:                  s.GetPool(),
		IPFamilyPolicy:        wordOf(&w, "spec.ipFamilyPolicy", s.GetIpFamilyPolicy(), familyPolicies),
		ExternalTrafficPolicy: wordOf(&w, "spec.externalTrafficPolicy", s.GetExternalTrafficPolicy(), trafficPolicies),
		SharingKey:            s.GetSharingKey(),
		Selector:              s.GetSelector(),
		NodeSelectors:         fromSelectors(s.GetNodeSelectors()),
		Delivery:              wordOf(&w, "spec.delivery", s.GetDelivery(), deliveries),
		AddressCount:          s.GetAddressCount(),
		PreferredNode:         s.GetPreferredNode(),
		HealthCheck:           fromHealthCheck(s.GetHealthCheck()),
	}
	for _, p := range s.GetPorts() {
		spec.Ports = append(spec.Ports, Port{Name: p.GetName(), Protocol: wordOf(&w, "spec.ports", p.GetProtocol(), protocols), Port: uint16(p.GetPort())})
	}
	for _, f := range s.GetIpFamilies() {
		spec.IPFamilies = append(spec.IPFamilies, wordOf(&w, "spec.ipFamilies", f, families))
	}
	o := &Object{
		APIVersion: APIVersion, Kind: KindVirtualService,
		Metadata: Metadata{Name: s.GetName(), Namespace: s.GetNamespace(), Labels: s.GetLabels()},
		Spec:     spec,
	}
	return o, w.err(o)
}

// words collects the first value that has no word.
type words struct{ unknown string }

func (w *words) err(o *Object) error {
	if w.unknown == "" {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrUnknownResource, objectName(o.Kind, o.Metadata.Namespace, o.Metadata.Name), w.unknown)
}

func wordOf[T ~int32](w *words, path string, v T, e enum[T]) string {
	s, ok := e.word(v)
	if !ok && w.unknown == "" {
		w.unknown = fmt.Sprintf("%s: unknown value %d", path, v)
	}
	return s
}

func fromSelectors(list []*logv1.LabelSelector) []LabelSelector {
	var out []LabelSelector
	for _, s := range list {
		l := LabelSelector{MatchLabels: s.GetMatchLabels()}
		for _, r := range s.GetMatchExpressions() {
			l.MatchExpressions = append(l.MatchExpressions, LabelRequirement{Key: r.GetKey(), Operator: r.GetOperator(), Values: r.GetValues()})
		}
		out = append(out, l)
	}
	return out
}

func fromHealthCheck(h *logv1.HealthCheck) *HealthCheck {
	if h == nil {
		return nil
	}
	out := &HealthCheck{
		Interval: Duration(h.GetIntervalNanos()), Timeout: Duration(h.GetTimeoutNanos()), Rise: h.GetRise(), Fall: h.GetFall(),
	}
	if c := h.GetHttp(); c != nil {
		out.HTTP = &HTTPCheck{Port: uint16(c.GetPort()), Path: c.GetPath(), Host: c.GetHost()}
	}
	if c := h.GetTcp(); c != nil {
		out.TCP = &TCPCheck{Port: uint16(c.GetPort())}
	}
	if c := h.GetExec(); c != nil {
		out.Exec = &ExecCheck{Script: c.GetScript()}
	}
	return out
}

func fromPreferred(list []*logv1.PreferredNodeSelector) []PreferredNodeSelector {
	var out []PreferredNodeSelector
	for _, p := range list {
		preference := fromSelectors([]*logv1.LabelSelector{p.GetPreference()})
		out = append(out, PreferredNodeSelector{Weight: p.GetWeight(), Preference: &preference[0]})
	}
	return out
}

// WriteYAML writes each value as one YAML document, with the field names, the
// order and the omissions of its json tags.
func WriteYAML(w io.Writer, values ...any) error {
	for i, v := range values {
		if i > 0 {
			if _, err := io.WriteString(w, "---\n"); err != nil {
				return err
			}
		}
		raw, err := marshalJSON(v)
		if err != nil {
			return err
		}
		// JSON is YAML: read it into nodes, which keep the order, and write those
		// in the plain style.
		var doc yaml.Node
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			return err
		}
		plain(&doc)
		enc := yaml.NewEncoder(w)
		enc.SetIndent(2)
		if err := errors.Join(enc.Encode(&doc), enc.Close()); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes a value, indented.
func WriteJSON(w io.Writer, v any) error {
	raw, err := marshalJSON(v)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return err
	}
	_, err = out.WriteTo(w)
	return err
}

// WriteJSONList writes values as the items of a List.
func WriteJSONList(w io.Writer, values ...any) error {
	return WriteJSON(w, struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Items      []any  `json:"items"`
	}{APIVersion, KindList, append([]any{}, values...)})
}

func marshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// plain takes the quotes and braces of JSON off; the encoder puts quotes back
// where a string would read as something else.
func plain(n *yaml.Node) {
	if n.Value != "<<" { // the encoder forgets this one
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}
