// Package config reads and writes the files that people write: the documents
// of `qlbctl apply` and the configuration of the daemons.
//
// It is strict. An unknown field or kind, a wrong type, a duplicate key or name
// is an error that says where it is (file, line, document, object, path of the
// field) and what is allowed there; a file is never half understood. All
// mistakes of a file are reported at once.
//
// A document is decoded in two steps: YAML to the Go types of this package,
// which mirror the file (IPAddressPool, L2Advertisement, VirtualService), and
// those to adminv1.Resource, with every default filled in, so that the log holds
// what was meant and not what a default happened to be. FromResource goes the way
// back, and what it gives can be applied again.
//
// What can be said only with the group's state at hand (overlap with another
// pool, an address in use) is the group's to refuse, not this package's.
//
// The package starts no goroutine and reads nothing but what it is given. It
// must not import raftnode, speakers, kube or cmd.
package config
