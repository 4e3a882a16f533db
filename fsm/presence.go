package fsm

import (
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// presence knows in memory which records, resources and unique values are
// stored, so that a new key costs no read: an LSM store pays most for what it
// does not have.
//
// It is exact but for hashes that collide, where it says yes for no; it never
// says no for yes. What it says decides only whether the store is asked, so it
// is no part of the state, and nodes may differ in it.
type presence struct {
	mu sync.RWMutex
	// hashes has the hash of each key that is stored; nil until Warm.
	hashes map[uint64]struct{}
	// more counts, for a hash, the stored keys beyond the first.
	more map[uint64]int
}

// lacks reports that key is certainly not stored.
func (p *presence) lacks(key []byte) bool {
	h := xxhash.Sum64(key)
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.hashes == nil {
		return false
	}
	_, has := p.hashes[h]
	return !has
}

// add is called before a key is stored that was not.
func (p *presence) add(key []byte) {
	h := xxhash.Sum64(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hashes == nil {
		return
	}
	if _, has := p.hashes[h]; has {
		p.more[h]++
		return
	}
	p.hashes[h] = struct{}{}
}

// remove is called with the hashes of keys after they were deleted.
func (p *presence) remove(gone []uint64) {
	if len(gone) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hashes == nil {
		return
	}
	for _, h := range gone {
		switch n := p.more[h]; {
		case n > 1:
			p.more[h] = n - 1
		case n == 1:
			delete(p.more, h)
		default:
			delete(p.hashes, h)
		}
	}
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

// Warm reads which records, resources and unique values there are, so that new
// keys cost no read from then on: eight bytes of memory a key and some. It is called before
// the first Apply.
func (m *Machine) Warm() error {
	p := &m.presence
	p.mu.Lock()
	p.hashes, p.more = map[uint64]struct{}{}, map[uint64]int{}
	p.mu.Unlock()
	for _, table := range []byte{tableRecord, tableResource, tableUnique} {
		err := m.store.Scan([]byte{table}, []byte{table + 1}, func(key, _ []byte) bool {
			p.add(key)
			return true
		})
		if err != nil {
			return fmt.Errorf("read which keys there are: %w", err)
		}
	}
	return nil
}
