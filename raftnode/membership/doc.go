// Package membership decides whether a member founds a cluster, joins one or
// returns to one, and keeps the group's configuration in step with the members
// that there are. The command line is the same on every member and at every
// start.
//
// A cluster is founded only if every listed member is reachable and empty, so
// two wiped members of three never found a second one:
//
//  1. A member with an empty disk asks the others who they are. If one of them
//     belongs to a cluster, it gets a new id, name.suffix, and joins. If all of
//     them are empty and list the same members, it takes its name as id and notes
//     that on disk.
//  2. The founder, the first by name, waits until all have done so, and only then
//     writes Raft's first configuration. The others start Raft and wait for it.
//
// A member that loses its disk between these steps finds members that have
// taken part in a group already, and waits until there is a cluster to join. So
// no id is ever used with a second disk.
//
// To join is to ask the leader, which removes the id that the name had before,
// takes the new one in without a vote, and gives it one when it has caught up.
// A member that returns with its disk asks only if its address has changed or if
// it finds no leader: then it may have been removed.
//
// Goroutines: Resolve runs a small gRPC server until it returns. Run owns one
// loop for this member and, only while it leads, one that promotes. The package
// must not import raftnode/service.
package membership
