package lab

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// TrackConnections makes the host's kernel track its connections, as the rules of a
// firewall or of kube-proxy do.
func (h *Host) TrackConnections() error {
	return h.rule(&nftables.Chain{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "track"}, Name: "input",
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	}, &expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Verdict{Kind: expr.VerdictAccept})
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
