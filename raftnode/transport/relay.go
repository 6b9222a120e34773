package transport

import (
	"sync"

	"github.com/hashicorp/raft"
)

// relay takes every answer of a pipeline at once and keeps it until Raft reads it.
//
// In raft v1.8.0 the reader of a pipeline leaves at the first answer of a newer
// term or refused entry. The library's pipeline then blocks the next
// AppendEntries for good, because nobody takes the answer before it: the follower
// is sent nothing any more, and the member cannot stop. Behind a relay the writer is never
// blocked by the reader; it ends by itself when the reader has left.
type relay struct {
	raft.AppendPipeline
	out  chan raft.AppendFuture
	done chan struct{}
	once sync.Once
}

func newRelay(p raft.AppendPipeline) *relay {
	r := &relay{AppendPipeline: p, out: make(chan raft.AppendFuture), done: make(chan struct{})}
	go r.run() // ends with Close
	return r
}

func (r *relay) run() {
	var waiting []raft.AppendFuture
	for {
		var out chan<- raft.AppendFuture
		var next raft.AppendFuture
		if len(waiting) > 0 {
			out, next = r.out, waiting[0]
		}
		select {
		case answer := <-r.AppendPipeline.Consumer():
			waiting = append(waiting, answer)
		case out <- next:
			waiting = waiting[1:]
		case <-r.done:
			return
		}
	}
}

// Consumer gives the answers in order.
func (r *relay) Consumer() <-chan raft.AppendFuture { return r.out }

// Close ends the pipeline.
func (r *relay) Close() error {
	r.once.Do(func() { close(r.done) })
	return r.AppendPipeline.Close()
}
