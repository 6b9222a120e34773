package fsm

import (
	"maps"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// LabelNamespaceName is a label that every namespace has: its own name, as in
// Kubernetes.
const LabelNamespaceName = "kubernetes.io/metadata.name"

// Namespace is a declared namespace. One need not be declared to have services.
type Namespace struct {
	Spec *logv1.Namespace
	// Labels are those of Spec and LabelNamespaceName.
	Labels    map[string]string
	DefinedAt uint64
}

func newNamespace(spec *logv1.Namespace, definedAt uint64) *Namespace {
	n := &Namespace{Spec: spec, DefinedAt: definedAt, Labels: make(map[string]string, len(spec.GetLabels())+1)}
	maps.Copy(n.Labels, spec.GetLabels())
	n.Labels[LabelNamespaceName] = spec.GetName()
	return n
}

// NamespaceLabels are the labels of a namespace, declared or not. Not to be changed.
func (s *State) NamespaceLabels(name string) map[string]string {
	if n := s.Namespaces[name]; n != nil {
		return n.Labels
	}
	return map[string]string{LabelNamespaceName: name}
}

func (f *folding) namespaceDefined(e *logv1.NamespaceDefined) error {
	spec := e.GetNamespace()
	if spec.GetName() == "" {
		return corruptf("NamespaceDefined without a name")
	}
	f.s.Namespaces[spec.GetName()] = newNamespace(spec, f.revision)
	return nil
}

func (f *folding) namespaceDeleted(e *logv1.NamespaceDeleted) error {
	if f.s.Namespaces[e.GetName()] == nil {
		return corruptf("NamespaceDeleted of unknown namespace %q", e.GetName())
	}
	delete(f.s.Namespaces, e.GetName())
	return nil
}

func namespacesOf(s *State) map[string]*Namespace { return s.Namespaces }

func encodeNamespace(e *encoder, n *Namespace) {
	e.str(n.Spec.GetName())
	e.labels(n.Spec.GetLabels())
	e.uint(n.DefinedAt)
}

func decodeNamespace(d *decoder) (string, *Namespace) {
	n := newNamespace(&logv1.Namespace{Name: d.name(), Labels: d.labels()}, d.uint())
	return n.Spec.GetName(), n
}

// ValidateNamespace tells what is wrong with a namespace.
func ValidateNamespace(n *logv1.Namespace) []FieldError {
	var f faults
	f.label("metadata.name", n.GetName())
	f.labels("metadata.labels", n.GetLabels())
	if own, set := n.GetLabels()[LabelNamespaceName]; set && own != n.GetName() {
		f.add("metadata.labels", "%s is always the namespace's own name, %q; remove it", LabelNamespaceName, n.GetName())
	}
	return f
}
