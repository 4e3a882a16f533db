package cluster

import (
	"sync"
	"time"
)

// contacts remembers when each peer last answered, and what.
type contacts struct {
	mu   sync.Mutex
	last map[string]contact
}

type contact struct {
	httpAddr string // where its clients go
	applied  uint64
	at       time.Time // with a monotonic clock
}

func (c *contacts) get(id string) contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[id]
}

func (c *contacts) set(id string, last contact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[id] = last
}

// inHand keeps at most one ping to each peer under way.
type inHand struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (h *inHand) begin(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ids[id] {
		return false
	}
	h.ids[id] = true
	return true
}

func (h *inHand) end(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ids, id)
}
