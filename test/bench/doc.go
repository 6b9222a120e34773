// Command bench measures every speed that the project claims, each beside its
// peer in the same lab on the same machine.
//
//	go run ./test/bench                        measure what is not measured yet
//	go run ./test/bench -only outage-fast      ... of these parts only
//	go run ./test/bench -again -only writes    measure anew
//	go run ./test/bench -report                write docs/benchmarks.md and its plots
//
// Each part writes its raw samples to a JSON file of its own in the results
// directory, so parts can be measured in separate runs. A run that was broken off goes
// on where it ended: what has all its samples, measured with this build on this
// machine, is not measured again. The report is made from the files alone.
//
// Every part has a time limit. A part that fails does not keep the others from
// being measured.
package main
