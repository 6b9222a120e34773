package lab

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Fault is a rule in a switch that drops frames, until Clear.
type Fault struct {
	sw       *Switch
	from, to string // host names; empty: any
	permille uint32
}

// Drop drops a share of the frames that go from one host to another, in that
// direction only: permille of 1000 at random. An empty name means any host.
func (s *Switch) Drop(from, to string, permille uint32) (*Fault, error) {
	f := &Fault{sw: s, from: from, to: to, permille: permille}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
	return f, s.applyFaults()
}

// Clear removes the rule.
func (f *Fault) Clear() error {
	s := f.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.DeleteFunc(s.faults, func(o *Fault) bool { return o == f })
	return s.applyFaults()
}

// applyFaults replaces the switch's rules by those of all its faults, in one
// transaction. s.mu is held.
func (s *Switch) applyFaults() error {
	return s.ns.do(func() error {
		nft, err := nftables.New()
		if err != nil {
			return err
		}
		table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "lab"})
		chain := nft.AddChain(&nftables.Chain{
			Name: "faults", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		nft.FlushChain(chain)
		for _, f := range s.faults {
			nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: f.exprs()})
		}
		if err := nft.Flush(); err != nil {
			return fmt.Errorf("%s: set nftables rules: %w", s.name, err)
		}
		return nil
	})
}

func (f *Fault) exprs() []expr.Any {
	var e []expr.Any
	match := func(key expr.MetaKey, host string) {
		if host == "" {
			return
		}
		name := make([]byte, 16)
		copy(name, host)
		e = append(e, &expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name})
	}
	match(expr.MetaKeyIIFNAME, f.from)
	match(expr.MetaKeyOIFNAME, f.to)
	if f.permille < 1000 {
		e = append(e,
			&expr.Numgen{Register: 1, Modulus: 1000, Type: 1 /* NFT_NG_RANDOM */},
			// The register holds a number in host order; compare it as bytes.
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(f.permille)})
	}
	return append(e, &expr.Verdict{Kind: expr.VerdictDrop})
}
