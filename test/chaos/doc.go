// Package chaos runs QuorumLB in the lab under a seeded random mix of faults, with
// traffic from clients and operators, and judges two things: what the operators were
// told, as a history that has to be linearizable, and what the clients' wire carried, as
// claims that each policy allows or does not. docs/chaos.md tells how to use it.
//
// The seed decides which faults strike whom, when and for how long (Plan); what the real
// processes do meanwhile it does not decide.
//
// Goroutines: Run owns all of them in one group: the keeper, which starts again what has
// ended, as an init system would; the chronicle, which follows the log's events; the vitals,
// which read the members' metrics; one for
// each operator; and for each round one for each fault. All end with Run.
//
// Later kinds of fault are added to a Fault list: see Faults.
package chaos
