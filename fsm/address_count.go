package fsm

import (
	"net/netip"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// MaxAddressCount is how many addresses of a family a service may ask for at most.
const MaxAddressCount = 16

// AddressCount is how many addresses of each family a service asks for: at least 1.
func AddressCount(spec *logv1.Service) int { return max(int(spec.GetAddressCount()), 1) }

// CountOf counts the addresses that the service has of the family of a.
func (s *Service) CountOf(a netip.Addr) (n int) {
	for _, has := range s.Addresses {
		if has.Is4() == a.Is4() {
			n++
		}
	}
	return n
}
