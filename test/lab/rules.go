package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Sysctl sets a value of the host's network: "ipv4/conf/eth0/arp_ignore".
func (h *Host) Sysctl(key, value string) error {
	return h.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0) })
}

// TrackConnections makes the host's kernel track its connections, as the rules of a
// firewall or of kube-proxy do.
func (h *Host) TrackConnections() error {
	return h.rule(&nftables.Chain{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "track"}, Name: "input",
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	}, &expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Verdict{Kind: expr.VerdictAccept})
}

// IgnoreClaims makes the host's kernel ignore gratuitous ARP frames and unsolicited
// neighbour advertisements that come in at a link.
func (h *Host) IgnoreClaims(ifname string) error {
	if err := h.Sysctl("ipv4/conf/"+ifname+"/drop_gratuitous_arp", "1"); err != nil {
		return err
	}
	return h.Sysctl("ipv6/conf/"+ifname+"/drop_unsolicited_na", "1")
}

// IgnoreQuestionsOf makes the host's kernel ignore what the address asks, and so
// what the question says of where the address is.
func (h *Host) IgnoreQuestionsOf(addr netip.Addr) error {
	if addr.Is4() {
		return h.rule(&nftables.Chain{
			Table: &nftables.Table{Family: nftables.TableFamilyARP, Name: "deaf"}, Name: "input",
			Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookRef(0 /* NF_ARP_IN */), Priority: nftables.ChainPriorityFilter,
		}, append(packetHas(6, 0, 1), append(packetHas(14, addr.AsSlice()...), &expr.Verdict{Kind: expr.VerdictDrop})...)...)
	}
	return h.rule(&nftables.Chain{
		Table: &nftables.Table{Family: nftables.TableFamilyIPv6, Name: "deaf"}, Name: "input",
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	}, append(packetHas(6, icmpv6), append(packetHas(8, addr.AsSlice()...), append(packetHas(ipv6Len, typeNS), &expr.Verdict{Kind: expr.VerdictDrop})...)...)...)
}

// packetHas matches packets that have the bytes so far behind the start of ARP or IP.
func packetHas(offset uint32, want ...byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(want))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}

// rule adds a rule to a chain of the host, and makes that with its table if need be.
func (h *Host) rule(chain *nftables.Chain, exprs ...expr.Any) error {
	return h.Do(func() error {
		nft, err := nftables.New()
		if err != nil {
			return err
		}
		chain.Table = nft.AddTable(chain.Table)
		nft.AddRule(&nftables.Rule{Table: chain.Table, Chain: nft.AddChain(chain), Exprs: exprs})
		if err := nft.Flush(); err != nil {
			return fmt.Errorf("%s: set nftables rules: %w", h.name, err)
		}
		return nil
	})
}
