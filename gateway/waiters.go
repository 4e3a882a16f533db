package gateway

import (
	"sync"

	"github.com/onced/onced/fsm"
)

// waiters counts who waits for a key in flight.
type waiters struct {
	mu   sync.Mutex
	all  int
	keys map[fsm.Key]int
}

// enter reports whether one more may wait for key. If so, leave must be called.
func (w *waiters) enter(key fsm.Key, most, mostPerKey int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= most || w.keys[key] >= mostPerKey {
		return false
	}
	w.all++
	w.keys[key]++
	return true
}

func (w *waiters) leave(key fsm.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.keys[key]--; w.keys[key] == 0 {
		delete(w.keys, key)
	}
}
