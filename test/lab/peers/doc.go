// Package peers runs other people's programs on the lab's hosts, to measure
// beside and to talk to. Each comes from Debian; a missing one is ErrMissing
// with the command that installs it.
//
// It starts no goroutine: the processes belong to their hosts.
package peers
