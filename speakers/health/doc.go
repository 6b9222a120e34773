// Package health finds out whether this node can serve: it runs the health checks
// that the members ask for, against what serves on this very node, and tells what they
// have come to.
//
// It guarantees:
//
//   - A check asks the node's own addresses only: those of the service where the node
//     delivers them locally, or else the loopback addresses.
//   - A script runs only if it lies in the directory that the speaker was told at its
//     start, by its bare name and without arguments.
//   - A check that takes longer than its timeout has failed, and ends.
//
// Goroutines: Run owns one for each check; they end with the check or with Run.
// Apply and Statuses may be called from any goroutine.
//
// The package must not import raftnode or kube.
package health
