// Package storage owns a member's data directory:
//
//	LOCK            held while a process uses the directory
//	identity.json   the member's name and its Raft id
//	cluster         the id of the cluster that the data belongs to, hexadecimal
//	admitted        there once the group has taken a joining member in
//	raft.db         Raft's log, term and vote (bbolt)
//	snapshots/      snapshots of the state
//
// A member's identity is this directory. The id is written once and never
// changed: a member with a new, empty directory gets a new id, so that a vote
// that was given and forgotten with a lost disk is never given again.
//
// Guarantees: one process at a time; every file is replaced whole and synced
// together with its directory; an append that the disk does not answer is
// reported while it hangs; a term or vote that cannot be written stops the
// member instead of the process's panic.
//
// Programs built with the tag chaos can be told to play a slow or failing disk:
// disk_chaos.go.
//
// The package has no goroutine of its own but timers. It must not import the
// fsm or the transport.
package storage
