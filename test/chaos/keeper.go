package chaos

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// keeper starts what does not run and should, a second after its last start, as an init
// system would. Faults tell it what is down by their will.
type keeper struct {
	e *Env

	mu    sync.Mutex
	down  map[string]int // "n1 member": how many faults want it down
	tried map[string]time.Time
	exits []Exit
}

// Exit is a daemon's end that no fault has caused directly: it gave up by itself.
type Exit struct {
	At     time.Time `json:"at"`
	Node   string    `json:"node"`
	Daemon string    `json:"daemon"`
	Last   string    `json:"last"` // line of its log
}

func newKeeper(e *Env) *keeper {
	return &keeper{e: e, down: map[string]int{}, tried: map[string]time.Time{}}
}

// Down makes the keeper leave a daemon alone. Call it before the daemon is killed.
func (k *keeper) Down(n *cluster.Node, daemon string) { k.change(n, daemon, 1) }

// Up is the end of Down.
func (k *keeper) Up(n *cluster.Node, daemon string) { k.change(n, daemon, -1) }

func (k *keeper) change(n *cluster.Node, daemon string, by int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down[n.Name+" "+daemon] += by
}

func (k *keeper) run(ctx context.Context) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, n := range k.e.Nodes {
			for _, d := range []string{responder, member, speaker} {
				if d != member || n.IsMember() {
					k.look(n, d)
				}
			}
		}
	}
}

// look starts one daemon if it does not run and should. The lock is held throughout, so
// that a fault that begins waits for the start.
func (k *keeper) look(n *cluster.Node, daemon string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := n.Name + " " + daemon
	p := processOf(n, daemon)
	if p.Running() || k.down[key] > 0 || !n.Host.On() || time.Since(k.tried[key]) < time.Second {
		return
	}
	k.tried[key] = time.Now()
	last := lastLine(p.Log())
	var err error
	switch daemon {
	case member:
		err = n.StartMember()
	case speaker:
		err = n.StartSpeaker()
	default:
		err = n.StartResponder()
	}
	if err == nil {
		k.exits = append(k.exits, Exit{At: time.Now(), Node: n.Name, Daemon: daemon, Last: last})
	}
}

// Exits are all starts that the keeper made, with the last words of the process before;
// after a kill these are of no interest.
func (k *keeper) Exits() []Exit {
	k.mu.Lock()
	defer k.mu.Unlock()
	var gaveUp []Exit
	for _, x := range k.exits {
		if strings.Contains(x.Last, "msg=stopped error=") {
			gaveUp = append(gaveUp, x)
		}
	}
	return gaveUp
}

// lastLine reads the last line that the daemon logged.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 4096 {
		_, _ = f.Seek(-4096, 2)
	}
	buf := make([]byte, 4096)
	n, _ := f.Read(buf)
	lines := bytes.Split(bytes.TrimSpace(buf[:n]), []byte("\n"))
	for _, line := range slices.Backward(lines) {
		if bytes.HasPrefix(line, []byte("time=")) {
			return string(line)
		}
	}
	return ""
}
