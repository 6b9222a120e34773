// Package sim plays a whole group in one process and in virtual time: members
// made of the real fsm, allocator, decider, lease rules (raftnode/pulse,
// raftnode/lease) and watch hub, speakers made of the real speakers/session,
// over a network, disks and a Raft that are models with seeded faults.
//
// A schedule is a function of its seed: who exists, how clocks drift, how long each
// message takes, and what goes wrong when. How the goroutines inside
// one instant of virtual time interleave is not: testing/synctest leaves that to
// the scheduler. So a seed that failed is played several times.
//
// After every step that could break one, the invariants of check.go are looked
// at. docs/simulation.md says how to run and replay it, and what it leaves out.
//
// Goroutines: world.run is the one that lets time pass: it delivers messages and
// runs timers of the models, in order. Each process has goroutines of its own,
// those of the real parts, which all end with the process's context; the bubble
// ends when all have.
package sim
