package links

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// DefaultExclude are patterns of the devices of containers and overlays, which
// are not part of the network that an address is announced to.
func DefaultExclude() []string {
	return []string{
		"^docker.*", "^cbr.*", "^dummy.*", "^virbr.*", "^lxcbr.*", "^veth.*", "^lo$", "^cali.*", "^tunl.*",
		"^flannel.*", "^kube-ipvs.*", "^cni.*", "^nodelocaldns.*", "^lxc.*",
	}
}

// Link is a link that may announce.
type Link struct {
	Index int
	Name  string
	MAC   system.MAC
	// Up means administratively up and with carrier.
	Up bool
	// Path names the devices beneath that carry the link's frames, in words: a
	// bond's active slaves, a bridge's ports with carrier, those of a VLAN's parent. When
	// it changes, the link is at another place of the network under the same MAC.
	Path string
	// Prefixes are the link's addresses, each with its prefix length.
	Prefixes []netip.Prefix
	// Gateways are the next hops of default routes over the link.
	Gateways []netip.Addr
}

// Equal reports whether nothing differs.
func (l Link) Equal(o Link) bool {
	return l.Index == o.Index && l.Name == o.Name && l.MAC == o.MAC && l.Up == o.Up && l.Path == o.Path &&
		slices.Equal(l.Prefixes, o.Prefixes) && slices.Equal(l.Gateways, o.Gateways)
}

// Set is what is known of the links at one moment. It is never changed.
type Set struct {
	// Links are those that may announce, in order of their index.
	Links []Link
	// Own are the addresses of all devices of the host, announcing or not: what
	// they send is never a foreign claim.
	Own map[system.MAC]struct{}
}

// MACs returns the addresses of the links that may announce, sorted, each once.
func (s Set) MACs() []system.MAC {
	out := make([]system.MAC, 0, len(s.Links))
	for _, l := range s.Links {
		out = append(out, l.MAC)
	}
	slices.SortFunc(out, func(a, b system.MAC) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

// Selector holds the operator's choice of links.
type Selector struct {
	include []string
	exclude []*regexp.Regexp
}

// NewSelector takes names or shell patterns ("eth0", "en*") of the links to use,
// none for all, and regular expressions of names not to use. Both must agree to
// a link. An error names the list and the position of what is wrong.
func NewSelector(include, exclude []string) (*Selector, error) {
	s := &Selector{include: include}
	for i, pattern := range include {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return nil, fmt.Errorf("interfaces[%d]: %q is no name or shell pattern", i, pattern)
		}
	}
	for i, pattern := range exclude {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("excludeInterfaces[%d]: %w", i, err)
		}
		s.exclude = append(s.exclude, re)
	}
	return s, nil
}

// admits applies the operator's patterns to a name.
func (s *Selector) admits(name string) bool {
	included := len(s.include) == 0 || slices.ContainsFunc(s.include, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
	return included && !s.excludes(name)
}

func (s *Selector) excludes(name string) bool {
	return slices.ContainsFunc(s.exclude, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

// Select picks the links that may announce from all devices.
func (s *Selector) Select(devices []system.Device) Set {
	t := tree{all: make(map[int]system.Device, len(devices)), beneath: make(map[int][]system.Device)}
	for _, d := range devices {
		t.all[d.Index] = d
		if s.carries(d) {
			t.beneath[d.Master] = append(t.beneath[d.Master], d)
		}
	}
	set := Set{Own: make(map[system.MAC]struct{}, len(devices))}
	for _, d := range devices {
		if d.MAC.IsZero() {
			continue
		}
		set.Own[d.MAC] = struct{}{}
		// A VRF is the one master that leaves its members their frames.
		part := d.Master != 0 && !isVRF(t.all[d.Master])
		if !d.Ethernet || d.NoARP || part || !s.admits(d.Name) {
			continue
		}
		set.Links = append(set.Links, Link{
			Index: d.Index, Name: d.Name, MAC: d.MAC, Up: d.Up, Path: t.path(d, maxDepth),
			Prefixes: d.Prefixes, Gateways: d.Gateways,
		})
	}
	return set
}

func isVRF(d system.Device) bool { return strings.EqualFold(d.Kind, "vrf") }

// carries reports whether a device carries frames of the device that it is part
// of to others than this host's containers and virtual machines, which come and
// go and have no switch behind them that could have learned a place.
func (s *Selector) carries(d system.Device) bool {
	return d.Master != 0 && d.Up && !d.Backup && d.Kind != "tun" && !s.excludes(d.Name)
}

// maxDepth bounds how many devices lie on each other.
const maxDepth = 8

// tree is how devices lie on each other.
type tree struct {
	all     map[int]system.Device
	beneath map[int][]system.Device // by master, those that carry its frames
}

// path describes the devices beneath one, for example "bond0 (eth1)".
func (t tree) path(d system.Device, depth int) string {
	if parent, ok := t.all[d.Parent]; ok && depth > 0 {
		return t.path(parent, depth-1)
	}
	if isVRF(d) || depth == 0 {
		return ""
	}
	var parts []string
	for _, lower := range t.beneath[d.Index] {
		name := lower.Name
		if under := t.path(lower, depth-1); under != "" {
			name += " (" + under + ")"
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, " ")
}
