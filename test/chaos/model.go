package chaos

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// known is what the model knows of one name. An empty Addrs is not known yet.
type known struct {
	Is bool
	Entry
}

// model is one name: a service, or whether a node is drained.
//
// An operation of unknown outcome never returns, so that it may take its place at any
// later time; and as nothing follows from its answer, its place may be after everything,
// which is that it never happened.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return known{} },
		Step: func(state, input, output any) (bool, any) {
			return step(state.(known), input.(Op))
		},
		DescribeOperation: func(input, _ any) string { return describe(input.(Op)) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
}

func step(s known, op Op) (bool, known) {
	switch op.Verb {
	case Declare:
		next := known{true, Entry{Value: op.Value}}
		if s.Is {
			next.Addrs = s.Addrs // a change takes no address
		}
		if op.Unknown {
			return true, next
		}
		if op.Found.Addrs == "" {
			return op.Was == s.Is, next // a later command of the same batch has deleted it
		}
		ok, addrs := same(next.Addrs, op.Found.Addrs)
		next.Addrs = addrs
		return ok && op.Was == s.Is, next
	case Remove:
		return op.Unknown || op.Was == s.Is, known{}
	case Restore:
		e, is := op.All[op.Name]
		return true, known{is, e}
	case Drain:
		return true, known{Is: true}
	case Undrain:
		return true, known{}
	default:
		if !op.Was || !s.Is {
			return op.Was == s.Is, s
		}
		ok, addrs := same(s.Addrs, op.Found.Addrs)
		next := s
		next.Addrs = addrs
		return ok && s.Value == op.Found.Value, next
	}
}

// same compares addresses with those known, and gives what is known afterwards.
func same(known, found string) (bool, string) {
	if known == "" || known == found {
		return true, found
	}
	return false, known
}

func describe(op Op) string {
	end := ""
	if op.Unknown {
		end = " (unknown)"
	}
	switch op.Verb {
	case Declare:
		return fmt.Sprintf("declare %d via %s: existed %v, %s%s", op.Value, op.Via, op.Was, op.Found.Addrs, end)
	case Read:
		return fmt.Sprintf("read via %s: %v %d %s", op.Via, op.Was, op.Found.Value, op.Found.Addrs)
	case Restore:
		e, is := op.All[op.Name]
		return fmt.Sprintf("restore via %s: %v %d %s%s", op.Via, is, e.Value, e.Addrs, end)
	}
	return fmt.Sprintf("%s via %s: existed %v%s", op.Verb, op.Via, op.Was, end)
}

// partition gives each name the operations that touch it, those on many names included.
func partition(ops []Op) map[string][]porcupine.Operation {
	parts := map[string][]porcupine.Operation{}
	for _, op := range ops {
		if op.Name != "" {
			parts[op.Name] = append(parts[op.Name], operation(op))
		}
	}
	for _, op := range ops {
		if op.Name != "" {
			continue
		}
		for name := range parts {
			if !strings.HasPrefix(name, op.Scope) {
				continue
			}
			one := op
			one.Name = name
			if op.Verb == Read {
				one.Found, one.Was = op.All[name], false
				_, one.Was = op.All[name]
			}
			parts[name] = append(parts[name], operation(one))
		}
	}
	return parts
}

func operation(op Op) porcupine.Operation {
	end := op.Return
	if op.Unknown {
		end = math.MaxInt64
	}
	return porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Output: op.Found, Return: end}
}

// Linearizable is the verdict on a history.
type Linearizable struct {
	Result  string   `json:"result"` // Ok, Illegal or Unknown
	Names   int      `json:"names"`
	Illegal []string `json:"illegal,omitempty"`
	Unknown []string `json:"unknown,omitempty"` // the search took too long
}

// check searches an order of the operations on each name, for at most so long each.
// What cannot be ordered is drawn into files of dir.
func check(ops []Op, each time.Duration, draw func(name string, info porcupine.LinearizationInfo)) Linearizable {
	out := Linearizable{Result: string(porcupine.Ok)}
	parts := partition(ops)
	out.Names = len(parts)
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		res, info := porcupine.CheckOperationsVerbose(model(), parts[name], each)
		switch res {
		case porcupine.Illegal:
			out.Illegal = append(out.Illegal, name)
			if draw != nil {
				draw(name, info)
			}
		case porcupine.Unknown:
			out.Unknown = append(out.Unknown, name)
		}
	}
	switch {
	case len(out.Illegal) > 0:
		out.Result = string(porcupine.Illegal)
	case len(out.Unknown) > 0:
		out.Result = string(porcupine.Unknown)
	}
	return out
}
