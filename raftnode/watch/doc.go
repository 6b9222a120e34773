// Package watch tells each node what it has to do: first its whole view, then
// what changes of it, in revision order.
//
// What it guarantees:
//
//   - Whole view and deltas are spliced without a gap: the view is that of the
//     revision at which the subscription was registered, and every later batch
//     that concerns the node follows as one message.
//   - A message with revision r brings the reader's view to revision r exactly. (Only
//     the whole view of a reader that comes while a batch is between the state and
//     the hub may show early what that batch gives; the batch's own message follows.)
//     A batch that takes an address from a node, or narrows what the node may do
//     with one, always makes a message for it, so a node can report that it has
//     seen the batch.
//   - Apply never waits for a reader. A reader whose queue is full is closed with
//     ErrTooSlow and starts over with a whole view.
//   - The work done for a batch grows with what the batch changed and with the
//     nodes that it concerns, not with the size of the state. Only a change of
//     pools, advertisements or settings compares all that watched nodes hold.
//
// Hub starts no goroutine. Apply is called by the goroutine that applies
// batches; each reader calls Next on a goroutine of its own.
//
// The package must not import gRPC or Raft.
package watch
