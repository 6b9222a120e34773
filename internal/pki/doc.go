// Package pki makes and checks the certificates that everything in a cluster
// speaks with. There is one CA per cluster; a certificate says what its holder
// may be in one URI SAN, "quorumlb://<kind>/<name>", and a peer is judged by
// that role alone, never by host name, so members may be addressed by IP, by
// name, or by an address that changes.
//
// Guarantees:
//   - TLS 1.3 with certificates on both sides; no session resumption, so every
//     connection is checked against the CA and the clock of that moment.
//   - Files replaced on disk are used for new connections within a second; a
//     broken replacement is reported once and the last good set stays in use.
//   - Private keys are written with mode 0600, whole or not at all.
//
// The package has no goroutine: a Reloader looks at its files when a handshake
// needs them. It must not import anything of this project.
package pki
