package chaos

import (
	"testing"
	"time"
)

// at makes an operation that takes from..to seconds.
func at(from, to int64, op Op) Op {
	op.Call, op.Return = from, to
	return op
}

func TestHistories(t *testing.T) {
	const name, addr = "ledger/a", "10.99.0.0"
	declare := func(from, to int64, value uint64, was bool) Op {
		return at(from, to, Op{Verb: Declare, Name: name, Value: value, Was: was, Found: Entry{value, addr}})
	}
	remove := func(from, to int64, was bool) Op { return at(from, to, Op{Verb: Remove, Name: name, Was: was}) }
	read := func(from, to int64, value uint64, addrs string) Op {
		return at(from, to, Op{Verb: Read, Name: name, Was: value > 0, Found: Entry{value, addrs}})
	}
	unknown := func(op Op) Op {
		op.Unknown, op.Found, op.Was = true, Entry{}, false
		return op
	}
	for _, tt := range []struct {
		name string
		ops  []Op
		want string
	}{
		{"one after the other", []Op{declare(1, 2, 7, false), read(3, 4, 7, addr), remove(5, 6, true), read(7, 8, 0, "")}, "Ok"},
		{"an old value", []Op{declare(1, 2, 7, false), declare(3, 4, 8, true), read(5, 6, 7, addr)}, "Illegal"},
		{"an old value at the same time", []Op{declare(1, 2, 7, false), declare(3, 6, 8, true), read(4, 5, 7, addr)}, "Ok"},
		{"a lost write", []Op{declare(1, 2, 7, false), read(3, 4, 0, "")}, "Illegal"},
		{"another address", []Op{declare(1, 2, 7, false), read(3, 4, 7, "10.99.0.1")}, "Illegal"},
		{"no address", []Op{declare(1, 2, 7, false), read(3, 4, 7, "")}, "Illegal"},
		{"deleted twice", []Op{declare(1, 2, 7, false), remove(3, 4, true), remove(5, 6, true)}, "Illegal"},
		{"decided twice", []Op{declare(1, 2, 7, false), remove(3, 4, false), read(5, 6, 0, "")}, "Illegal"},
		{"unknown, and done", []Op{unknown(declare(1, 2, 7, false)), read(3, 4, 7, addr)}, "Ok"},
		{"unknown, and not done", []Op{unknown(declare(1, 2, 7, false)), read(3, 4, 0, "")}, "Ok"},
		{"unknown, and done late", []Op{unknown(declare(1, 2, 7, false)), read(3, 4, 0, ""), read(5, 6, 7, addr)}, "Ok"},
		{"unknown, and undone", []Op{unknown(declare(1, 2, 7, false)), read(3, 4, 7, addr), read(5, 6, 0, "")}, "Illegal"},
		{"restored", []Op{
			declare(1, 2, 7, false), declare(3, 4, 8, true),
			at(5, 6, Op{Verb: Restore, Scope: "ledger/", All: map[string]Entry{name: {7, addr}}}), read(7, 8, 7, addr),
		}, "Ok"},
		{"restored to nothing", []Op{declare(1, 2, 7, false), at(3, 4, Op{Verb: Restore, Scope: "ledger/"}), read(5, 6, 7, addr)}, "Illegal"},
		{"a list", []Op{declare(1, 2, 7, false), at(3, 4, Op{Verb: Read, Scope: "ledger/", All: map[string]Entry{}})}, "Illegal"},
		{"a list of others", []Op{declare(1, 2, 7, false), at(3, 4, Op{Verb: Read, Scope: "ledger/b", All: map[string]Entry{}})}, "Ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := check(tt.ops, time.Second, nil); got.Result != tt.want {
				t.Errorf("%s, want %s", got.Result, tt.want)
			}
		})
	}
}
