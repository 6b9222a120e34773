// Package e2e proves QuorumLB's promises on the wire: real processes, real
// sockets, real frames, in the network lab. Its tests need the right to make
// network namespaces and are skipped, with the reason, where that is missing;
// with CI=true they fail instead.
//
// Environment:
//
//	QUORUMLB_E2E_POWEROFFS  random power-offs to play (default 5)
//	QUORUMLB_E2E_KILLS      rounds of killing two of three members (default 3)
//	QUORUMLB_E2E_KEEP       keep the directories of failed runs (logs, captures)
package e2e
