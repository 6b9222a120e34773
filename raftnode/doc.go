// Package raftnode is one member of a group: it puts the parts together, starts
// and ends them in order, and says how the member is.
//
//	storage     the data directory: identity, log, snapshots
//	transport   one port with TLS for Raft and gRPC
//	membership  found a group, join one, return to one
//	consensus   Raft, and the state that its log folds to
//	lease       who is alive, and who may still answer (rules)
//	pulse       what carries those rules between members
//	decider     commands to events, on the leader
//	watch       what each node has to do
//	service     gRPC: speakers, operators, other members
//
// A member starts from the bottom of what it needs: port, identity, Raft, then
// what decides, then what serves. It ends in the opposite order, after it has
// handed leadership over, so that at no time somebody is served by a part whose
// support is gone. Each stage is a group of goroutines with one end; Run returns
// when all have ended.
//
// What it guarantees beside that:
//
//   - A member whose state differs from that of the majority stops serving and
//     says so; a leader like that gives leadership away.
//   - A leader whose disk hangs while the others' are well ends its process:
//     its heartbeats would otherwise keep it leader.
//   - Ready means: a leader is known and this member has caught up with it once.
//
// The package must not import speakers, kube, cmd or test.
package raftnode
