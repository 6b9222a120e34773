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
	// Prefixes are the link's addresses, each with its prefix length.
	Prefixes []netip.Prefix
	// Gateways are the next hops of default routes over the link.
	Gateways []netip.Addr
}

// Equal reports whether nothing differs.
func (l Link) Equal(o Link) bool {
	return l.Index == o.Index && l.Name == o.Name && l.MAC == o.MAC && l.Up == o.Up &&
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
	return included && !slices.ContainsFunc(s.exclude, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

// Select picks the links that may announce from all devices.
func (s *Selector) Select(devices []system.Device) Set {
	kinds := make(map[int]string, len(devices))
	for _, d := range devices {
		kinds[d.Index] = d.Kind
	}
	set := Set{Own: make(map[system.MAC]struct{}, len(devices))}
	for _, d := range devices {
		if d.MAC.IsZero() {
			continue
		}
		set.Own[d.MAC] = struct{}{}
		// A VRF is the one master that leaves its members their frames.
		part := d.Master != 0 && !strings.EqualFold(kinds[d.Master], "vrf")
		if !d.Ethernet || d.NoARP || part || !s.admits(d.Name) {
			continue
		}
		set.Links = append(set.Links, Link{
			Index: d.Index, Name: d.Name, MAC: d.MAC, Up: d.Up, Prefixes: d.Prefixes, Gateways: d.Gateways,
		})
	}
	return set
}
