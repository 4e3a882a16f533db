package cluster

import (
	"context"
	"sync"

	"github.com/onced/onced/fsm"
)

// waiters wakes those who wait for a key: the applied entry does, on every
// node, so nobody polls.
type waiters struct {
	mu   sync.Mutex
	keys map[fsm.Key]map[chan struct{}]struct{}
}

// wait returns a channel that is closed when the record of key is next
// changed by an applied entry, and what to call when no longer waiting.
func (w *waiters) wait(key fsm.Key) (<-chan struct{}, func()) {
	ch := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	set := w.keys[key]
	if set == nil {
		set = map[chan struct{}]struct{}{}
		w.keys[key] = set
	}
	set[ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if set := w.keys[key]; set != nil {
			delete(set, ch)
			if len(set) == 0 {
				delete(w.keys, key)
			}
		}
	}
}

func (w *waiters) changed(changed []fsm.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.keys) == 0 {
		return
	}
	for _, k := range changed {
		for ch := range w.keys[k] {
			close(ch)
		}
		delete(w.keys, k)
	}
}

// wakeAll wakes everybody: any key may have changed.
func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range w.keys {
		for ch := range set {
			close(ch)
		}
	}
	clear(w.keys)
}

// progress lets callers wait until this node has applied an index.
type progress struct {
	mu      sync.Mutex
	index   uint64
	waiting map[chan struct{}]uint64
}

func (p *progress) reached(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index = max(p.index, index)
	for ch, want := range p.waiting {
		if want <= p.index {
			close(ch)
			delete(p.waiting, ch)
		}
	}
}

func (p *progress) await(ctx context.Context, index uint64) error {
	p.mu.Lock()
	if p.index >= index {
		p.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	p.waiting[ch] = index
	p.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiting, ch)
		p.mu.Unlock()
		return ctx.Err()
	}
}
