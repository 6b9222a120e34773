// Package scenario plays disasters to a cluster in the lab and judges them by
// what an audience on the wire saw: probes at the client, an asker at the router,
// captures at both of their ports. The demo shows the same events that the
// end-to-end tests assert.
//
// It starts no goroutine of its own; probes and captures belong to the lab.
package scenario
