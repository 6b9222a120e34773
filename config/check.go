package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/quorumlb/quorumlb/fsm"
)

// checker turns decoded documents into resources and reports what one document
// alone can have wrong.
type checker struct {
	d    *decoder
	root *yaml.Node
}

func (c *checker) fail(path, format string, args ...any) {
	c.d.fail(lookup(c.root, path), path, format, args...)
}

// Names as Kubernetes has them: RFC 1123 labels and subdomains, and label keys
// and values.
var (
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelName    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
)

const (
	wantLabel     = "must be lower case letters, digits and '-', at most 63, beginning and ending with a letter or digit"
	wantSubdomain = "must be lower case letters, digits, '-' and '.', at most 253, beginning and ending with a letter or digit"
	wantLabelName = "must be letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit"
)

func isSubdomain(s string) bool { return len(s) <= 253 && dnsSubdomain.MatchString(s) }

// metadata checks names and labels, and fills in the namespace.
func (c *checker) metadata(m *Metadata, namespaced bool) {
	switch {
	case m.Name == "":
		c.fail("metadata.name", "is missing")
	case namespaced && !dnsLabel.MatchString(m.Name):
		c.fail("metadata.name", "%q %s", shorten(m.Name), wantLabel)
	case !namespaced && !isSubdomain(m.Name):
		c.fail("metadata.name", "%q %s", shorten(m.Name), wantSubdomain)
	}
	switch {
	case !namespaced && m.Namespace != "":
		c.fail("metadata.namespace", "this kind belongs to no namespace; remove the field")
	case namespaced && m.Namespace == "":
		m.Namespace = DefaultNamespace
	case namespaced && !dnsLabel.MatchString(m.Namespace):
		c.fail("metadata.namespace", "%q %s", shorten(m.Namespace), wantLabel)
	}
	c.labels("metadata.labels", m.Labels)
}

func (c *checker) labels(path string, labels map[string]string) {
	for _, k := range sortedKeys(labels) {
		at := joinField(path, k)
		c.labelKey(at, k)
		c.labelValue(at, labels[k])
	}
}

func (c *checker) labelKey(path, key string) {
	prefix, name, slash := strings.Cut(key, "/")
	if !slash {
		name = key
	} else if !isSubdomain(prefix) {
		c.fail(path, "label key %q: the part before / %s", shorten(key), wantSubdomain)
	}
	if !labelName.MatchString(name) {
		c.fail(path, "label key %q: the name %s", shorten(key), wantLabelName)
	}
}

func (c *checker) labelValue(path, value string) {
	if value != "" && !labelName.MatchString(value) {
		c.fail(path, "label value %q %s", shorten(value), wantLabelName)
	}
}

// selectors checks a list of label selectors, in which none may come twice.
func (c *checker) selectors(path string, list []LabelSelector) {
	seen := map[string]int{}
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.labels(at+".matchLabels", s.MatchLabels)
		for j, r := range s.MatchExpressions {
			c.requirement(fmt.Sprintf("%s.matchExpressions[%d]", at, j), r)
		}
		key := fmt.Sprintf("%v %q", s.MatchLabels, s.MatchExpressions)
		if first, dup := seen[key]; dup {
			c.fail(at, "is the same as %s[%d]", path, first)
			continue
		}
		seen[key] = i
	}
}

func (c *checker) requirement(path string, r LabelRequirement) {
	c.labelKey(path+".key", r.Key)
	switch r.Operator {
	case "In", "NotIn":
		if len(r.Values) == 0 {
			c.fail(path+".values", "operator %s needs at least one value", r.Operator)
		}
	case "Exists", "DoesNotExist":
		if len(r.Values) > 0 {
			c.fail(path+".values", "operator %s takes no values", r.Operator)
		}
	default:
		c.fail(path+".operator", "must be one of %s, is %q", strings.Join(operators, ", "), shorten(r.Operator))
	}
	for i, v := range r.Values {
		c.labelValue(fmt.Sprintf("%s.values[%d]", path, i), v)
	}
}

// unique refuses what comes twice in a list of names.
func (c *checker) unique(path string, list []string) {
	for i, s := range list {
		if first := slices.Index(list, s); first < i {
			c.fail(fmt.Sprintf("%s[%d]", path, i), "%q is already %s[%d]", shorten(s), path, first)
		}
		if s == "" {
			c.fail(fmt.Sprintf("%s[%d]", path, i), "is empty")
		}
	}
}

// ranges checks each range of a pool, and that none overlaps another.
func (c *checker) ranges(path string, list []string) {
	if len(list) == 0 {
		c.fail(path, "needs at least one CIDR or first-last range")
	}
	parsed := make([]fsm.Range, len(list))
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		r, err := fsm.ParseRange(s)
		if err != nil {
			c.fail(at, "%v", err)
			continue
		}
		for j, o := range parsed[:i] {
			if o.First.IsValid() && r.Overlaps(o) {
				c.fail(at, "%s overlaps %s of %s[%d]", s, list[j], path, j)
				break
			}
		}
		parsed[i] = r
	}
}

// addresses checks addresses asked for: at most one of each family.
func (c *checker) addresses(path string, list []string) []netip.Addr {
	var addrs []netip.Addr
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		a, err := fsm.ParseAddr(s)
		if err != nil {
			c.fail(at, "%v", err)
			continue
		}
		for _, o := range addrs {
			if o.Is4() == a.Is4() {
				c.fail(at, "%s is of the same family as %s; a service has at most one address of each", a, o)
			}
		}
		addrs = append(addrs, a)
	}
	return addrs
}

// word looks a field's word up; an empty one is the default.
func word[T ~int32](c *checker, path, s string, e enum[T]) T {
	if s == "" {
		return e.values[0]
	}
	v, ok := e.value(s)
	if !ok {
		c.fail(path, "must be %s, is %q", strings.Join(e.words, " or "), shorten(s))
	}
	return v
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
