package fsm

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// presence knows in memory which records, resources, unique values and removals
// are stored, so that a new key costs no read: an LSM store pays most for what it
// does not have.
//
// It is exact but for hashes that collide, where it says yes for no; it never
// says no for yes. What it says decides only whether the store is asked, so it
// is no part of the state, and nodes may differ in it.
type presence struct {
	mu    sync.RWMutex
	phase warmth
	// stored has the hashes of all keys that are stored, once it is warm.
	stored hashSet
	// gone has those of keys that were deleted while it was warming: the scan
	// may be yet to come to them.
	gone []uint64
}

type warmth int

const (
	cold    warmth = iota // knows nothing
	warming               // learns what changes, and what was there before
	warm
)

// lacks reports that key is certainly not stored.
func (p *presence) lacks(key []byte) bool {
	h := xxhash.Sum64(key)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.phase == warm && !p.stored.has(h)
}

// add is called before a key is stored that was not.
func (p *presence) add(key []byte) {
	h := xxhash.Sum64(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != cold {
		p.stored.add(h)
	}
}

// remove is called with the hashes of keys after they were deleted.
func (p *presence) remove(gone []uint64) {
	if len(gone) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.phase {
	case warming:
		p.gone = append(p.gone, gone...)
	case warm:
		for _, h := range gone {
			p.stored.remove(h)
		}
	}
}

// begin is called before the scan of what is stored begins.
func (p *presence) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.stored, p.gone = warming, hashSet{}, nil
}

// end is called after the scan. One that was cut short has been for nothing.
func (p *presence) end(complete bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !complete {
		p.phase, p.stored, p.gone = cold, hashSet{}, nil
		return
	}
	for _, h := range p.gone {
		p.stored.remove(h)
	}
	p.phase, p.gone = warm, nil
}

// present is a getter that is not asked for what is not there.
type present struct {
	getter
	*presence
}

func (p present) Get(key []byte) ([]byte, error) {
	if p.lacks(key) {
		return nil, nil
	}
	return p.getter.Get(key)
}

// warmStride is how many keys are read between two looks at whether to stop.
const warmStride = 1024

// Warm has it read which records, resources, unique values and removals there are, so that new
// keys cost no read from then on: some eight bytes of memory a key. It is
// called when nothing is being applied, and returns once entries may be, which
// is before it has read them all. wait waits for that; it is called once. Closing stop
// ends it early. The store must stay open until wait has returned.
func (m *Machine) Warm(stop <-chan struct{}) (wait func() error) {
	m.presence.begin()
	begun, failed := make(chan struct{}), make(chan error, 1)
	go func() { failed <- m.warm(begun, stop) }()
	<-begun
	return func() error { return <-failed }
}

// warm closes begun when it has a view of the store that later writes do not
// change.
func (m *Machine) warm(begun chan<- struct{}, stop <-chan struct{}) error {
	p := &m.presence
	seen, stopped := 0, false
	err := m.store.Scan([]byte{tableResource}, []byte{tableUnique + 1}, func(key, _ []byte) bool {
		if seen == 0 {
			close(begun)
		}
		if seen++; seen%warmStride == 0 {
			runtime.Gosched() // there is more important work
			select {
			case <-stop:
				stopped = true
				return false
			default:
			}
		}
		p.add(key)
		return true
	})
	p.end(err == nil && !stopped)
	if seen == 0 {
		close(begun)
	}
	if err != nil {
		return fmt.Errorf("read which keys there are: %w", err)
	}
	return nil
}
