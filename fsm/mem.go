package fsm

import (
	"bytes"
	"sync/atomic"

	"github.com/tidwall/btree"
)

// Mem is a Store in memory: for simulation and tests, and wherever the disk's
// store does not build.
type Mem struct {
	// tree is never written to once it is here: a commit writes to a copy,
	// which shares what it did not change, and puts that in its place.
	tree atomic.Pointer[btree.BTreeG[pair]]
}

type pair struct{ key, value []byte }

var _ Store = (*Mem)(nil)

// NewMem returns an empty store.
func NewMem() *Mem {
	m := &Mem{}
	m.tree.Store(btree.NewBTreeG(func(a, b pair) bool { return bytes.Compare(a.key, b.key) < 0 }))
	return m
}

// Get implements Store.
func (m *Mem) Get(key []byte) ([]byte, error) {
	p, ok := m.tree.Load().Get(pair{key: key})
	if !ok {
		return nil, nil
	}
	return bytes.Clone(p.value), nil
}

// Scan implements Store. A nil bound is no bound.
func (m *Mem) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	// Of a copy, which costs nothing: the tree's own lock is held meanwhile.
	m.tree.Load().Copy().Ascend(pair{key: from}, func(p pair) bool {
		return (to == nil || bytes.Compare(p.key, to) < 0) && visit(p.key, p.value)
	})
	return nil
}

// Batch implements Store.
func (m *Mem) Batch() Batch {
	return newOverlay(m, func(writes map[string][]byte) error {
		next := m.tree.Load().Copy()
		for key, value := range writes {
			if value == nil {
				next.Delete(pair{key: []byte(key)})
			} else {
				next.Set(pair{key: []byte(key), value: value})
			}
		}
		m.tree.Store(next)
		return nil
	})
}

// Sync implements Store. There is nothing that could be lost before the
// process ends, and nothing that outlives it.
func (m *Mem) Sync() error { return nil }

// Close implements Store.
func (m *Mem) Close() error { return nil }

// Copy returns a store with what is committed now. It costs nothing: the two
// share what neither changes.
func (m *Mem) Copy() *Mem {
	c := &Mem{}
	c.tree.Store(m.tree.Load())
	return c
}
