// Package lab makes a small data centre out of network namespaces on one
// machine: hosts, switches, a client, and the disasters that strike them.
//
// A Lab owns everything it makes. Close removes it all: processes, namespaces,
// mounts, files. What a crashed run left behind carries that run's process id
// in its name; New finds it, sees that the process is gone, and removes it too.
// Every process that a host starts dies with the lab (PR_SET_PDEATHSIG).
//
// Goroutines: each namespace owns one, locked to an operating system thread
// that lives in that namespace and ends with it; each Probe, Capture and
// Asker owns its own and ends with Close. Probes, captures and askers are
// closed by their host or switch.
//
// A host is a namespace whose interfaces are plugged into switches; a switch
// is a namespace with a bridge. A host that loses power loses its namespace,
// so that after PowerOn nothing of the old kernel state (sockets, addresses,
// neighbours, sysctls) is left, exactly as after a real one.
//
// Programs that use the package call Init first thing in main (tests: Main in
// TestMain). Without root it runs the program again inside a new user
// namespace, where the kernel allows that.
//
// The package knows nothing of QuorumLB and must not import any of it; test/lab/cluster
// puts QuorumLB on top.
package lab
