package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// kinds that can be applied, as an error lists them.
var kinds = []string{KindIPAddressPool, KindL2Advertisement, KindVirtualService, KindNamespace, KindReservation}

// metallbKinds are documents that a user of MetalLB may have and that have no
// meaning here yet.
var metallbKinds = []string{"BGPAdvertisement", "BGPPeer", "BFDProfile", "Community", "AddressPool"}

// Document is one valid document of a file.
type Document struct {
	// File as Parse was given it, and where the document begins in it.
	File string
	Line int
	// Number counts the documents of the file from 1; 0 when it is the only one.
	Number int
	// Kind, Namespace and Name are those of the object; Namespace only of a
	// VirtualService.
	Kind, Namespace, Name string
	// Resource is the object with every default filled in.
	Resource *adminv1.Resource

	root *yaml.Node
}

// Object gives "Kind/name" or "Kind/namespace/name".
func (d *Document) Object() string { return objectName(d.Kind, d.Namespace, d.Name) }

// Fault makes an Error of a problem that somebody else found in the field at
// path, with its place in the file. A path that the document does not have gets
// the place of what is nearest around it.
func (d *Document) Fault(path, problem string) *Error {
	n := lookup(d.root, path)
	return &Error{File: d.File, Line: n.Line, Column: n.Column, Document: d.Number, Object: d.Object(), Path: path, Problem: problem}
}

func objectName(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSuffix(kind+"/"+name, "/")
}

// Parse reads every document of one file, YAML or JSON. file names it in errors
// and is not opened. Either all documents are valid, or the error is an Errors
// that holds every mistake and no document is returned. A file without any
// document gives none.
//
// Fields that are left out get their defaults; an object's status is ignored.
// Two documents of one kind and name are refused: see CheckDuplicates for those
// of several files.
func Parse(file string, r io.Reader) ([]*Document, error) {
	p := parser{file: file}
	dec := yaml.NewDecoder(r)
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		p.number++
		if err != nil {
			e := syntaxError(err, file)
			e.Document = p.number
			p.errs = append(p.errs, e)
			break // the reader has lost its place
		}
		if root := content(&doc); !isNull(root) {
			p.document(root)
		}
		if len(p.errs) >= maxErrors {
			break
		}
	}
	if p.number == 1 {
		for _, d := range p.docs {
			d.Number = 0
		}
		for _, e := range p.errs {
			e.Document = 0
		}
	}
	if len(p.errs) == 0 {
		p.errs = duplicates(p.docs)
	}
	if err := p.errs.err(); err != nil {
		return nil, err
	}
	return p.docs, nil
}

// CheckDuplicates refuses two documents of one kind and name.
func CheckDuplicates(docs []*Document) error { return duplicates(docs).err() }

func duplicates(docs []*Document) Errors {
	var errs Errors
	first := make(map[string]*Document, len(docs))
	for _, d := range docs {
		f, dup := first[d.Object()]
		if !dup {
			first[d.Object()] = d
			continue
		}
		at := fmt.Sprintf("line %d", f.Line)
		if f.File != d.File {
			at = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		errs = append(errs, d.Fault("metadata.name", "this object is declared twice, first in "+at))
	}
	return errs
}

type parser struct {
	file   string
	number int
	docs   []*Document
	errs   Errors
}

// header is what every document has; what is in spec depends on the kind.
type header struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Metadata   yaml.Node `json:"metadata"`
	Spec       yaml.Node `json:"spec"`
	Status     yaml.Node `json:"status"`
}

type listHeader struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Metadata   yaml.Node   `json:"metadata"`
	Items      []yaml.Node `json:"items"`
}

// document reads one document, or all that a List holds.
func (p *parser) document(root *yaml.Node) {
	if peek(root, "kind") != KindList {
		p.object(root)
		return
	}
	var d decoder
	var list listHeader
	d.value(root, "", reflect.ValueOf(&list).Elem(), 0, false)
	p.take(d.errs, KindList)
	if len(d.errs) > 0 {
		return
	}
	for i := range list.Items {
		p.object(resolve(&list.Items[i]))
	}
}

func (p *parser) take(errs Errors, object string) {
	for _, e := range errs {
		e.File, e.Document, e.Object = p.file, p.number, object
		p.errs = append(p.errs, e)
	}
}

// object reads one object: header, then metadata, then spec.
func (p *parser) object(root *yaml.Node) {
	doc := &Document{File: p.file, Line: root.Line, Number: p.number, root: root}
	meta := resolve(child(root, "metadata"))
	doc.Kind, doc.Namespace, doc.Name = peek(root, "kind"), peek(meta, "namespace"), peek(meta, "name")

	var d decoder
	var h header
	d.value(root, "", reflect.ValueOf(&h).Elem(), 0, false)
	if len(d.errs) == 0 {
		checkType(&d, root, &h)
	}
	if len(d.errs) == 0 {
		d.object(doc, &h)
	}
	if len(d.errs) > 0 {
		p.take(d.errs, doc.Object())
		return
	}
	p.docs = append(p.docs, doc)
}

// checkType refuses documents of another API or of a kind that is not known.
func checkType(d *decoder, root *yaml.Node, h *header) {
	fail := func(field, format string, args ...any) { d.fail(lookup(root, field), field, format, args...) }
	switch {
	case h.Kind == "":
		fail("kind", "is missing; allowed: %s", strings.Join(kinds, ", "))
	case slices.Contains(metallbKinds, h.Kind):
		fail("kind", "%s is a kind of MetalLB that QuorumLB does not support yet; allowed: %s", h.Kind, strings.Join(kinds, ", "))
	case h.Kind == "Service" && h.APIVersion == "v1":
		fail("kind", "a Kubernetes Service cannot be applied here; without Kubernetes write a VirtualService")
	case !slices.Contains(kinds, h.Kind):
		hint := ""
		if near := nearest(h.Kind, kinds); near != "" {
			hint = "did you mean " + near + "? "
		}
		fail("kind", "unknown kind %q; %sallowed: %s", h.Kind, hint, strings.Join(kinds, ", "))
	case h.APIVersion == "":
		fail("apiVersion", "is missing; write apiVersion: %s", APIVersion)
	case h.APIVersion != APIVersion:
		fail("apiVersion", "must be %s, is %q", APIVersion, shorten(h.APIVersion))
	}
}

// object decodes metadata and spec into doc.
func (d *decoder) object(doc *Document, h *header) {
	c := checker{d: d, doc: doc}
	d.value(&h.Metadata, "metadata", reflect.ValueOf(&c.meta).Elem(), 1, false)
	decode := func(spec any) {
		d.value(&h.Spec, "spec", reflect.ValueOf(spec).Elem(), 1, false)
	}
	c.namespace(h.Kind == KindVirtualService)
	switch h.Kind {
	case KindIPAddressPool:
		s := IPAddressPoolSpec{AutoAssign: true}
		decode(&s)
		c.finish(c.pool(&s))
	case KindL2Advertisement:
		var s L2AdvertisementSpec
		decode(&s)
		c.finish(c.advertisement(&s))
	case KindVirtualService:
		var s VirtualServiceSpec
		decode(&s)
		c.finish(c.service(&s))
	case KindNamespace:
		var s NamespaceSpec
		decode(&s)
		c.finish(c.declaredNamespace())
	case KindReservation:
		var s ReservationSpec
		decode(&s)
		c.finish(c.reservation(&s))
	}
}

// resolve follows an alias; a missing node becomes an empty one.
func resolve(n *yaml.Node) *yaml.Node {
	switch {
	case n == nil:
		return &yaml.Node{}
	case n.Kind == yaml.AliasNode:
		return n.Alias
	}
	return n
}

// child finds a key's value in a mapping; nil when there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// peek reads a string from a mapping that may be anything.
func peek(n *yaml.Node, key string) string {
	if v := resolve(child(n, key)); v.Kind == yaml.ScalarNode && v.ShortTag() == "!!str" {
		return shorten(v.Value)
	}
	return ""
}
