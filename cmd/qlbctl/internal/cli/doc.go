// Package cli is qlbctl: one file for each group of commands.
//
// Run takes everything it touches from an Env, so that tests call it like main
// does. A command asks the group through package client, prints tables for
// people and documents for programs, and ends with one of four exit codes. Only
// `events --follow` runs longer than --timeout.
//
// The package starts no goroutine. It must not import raftnode, speakers or test.
package cli
