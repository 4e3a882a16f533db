//go:build !wasip1

package fsm

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Batch implements Store.
func (p *Pebble) Batch() Batch {
	w := &writing{Pebble: p, places: make(map[string]*generation)}
	return newOverlay(w, w.commit)
}

// writing is a store as a batch of it sees it.
type writing struct {
	*Pebble
	// places are the generations of keys that were read: the batch is the only
	// writer, so there they are when it writes.
	places map[string]*generation
}

// Get implements Store.
func (w *writing) Get(key []byte) ([]byte, error) {
	value, g, err := w.find(key)
	if g != nil {
		w.places[string(key)] = g
	}
	return value, err
}

// place returns the generation that a key is in, or nil if it is not stored.
func (w *writing) place(key string) (*generation, error) {
	if g := w.places[key]; g != nil {
		return g, nil
	}
	_, g, err := w.find([]byte(key))
	return g, err
}

func (w *writing) commit(writes map[string][]byte) error {
	b := w.db.NewBatch()
	err := w.write(b, writes)
	if e := b.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("commit to store: %w", err)
	}
	return nil
}

func (w *writing) write(b *pebble.Batch, writes map[string][]byte) error {
	forget, err := w.ages.turn(b)
	if err != nil {
		return err
	}
	var (
		now  = w.ages.all[len(w.ages.all)-1]
		come []uint64
		gone []agedHash
	)
	// In order, each key is found a place for from where the last one went.
	for _, key := range slices.Sorted(maps.Keys(writes)) {
		value := writes[key]
		if !inGeneration([]byte(key)) {
			if err := writeTo(b, nil, key, value); err != nil {
				return err
			}
			continue
		}
		g, err := w.place(key)
		switch {
		case err != nil:
			return err
		case value == nil && g == nil:
			continue
		case value == nil:
			gone = append(gone, agedHash{w.ages.hash([]byte(key)), g})
		case g == nil:
			g = now
			come = append(come, w.ages.hash([]byte(key)))
		}
		if err := writeTo(b, g, key, value); err != nil {
			return err
		}
	}
	w.ages.come(come)
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	w.ages.went(gone)
	forget()
	return nil
}

// writeTo adds to b that key, of generation g or of none, has the value or, if that
// is nil, is deleted.
func writeTo(b *pebble.Batch, g *generation, key string, value []byte) error {
	size := len(key)
	if g != nil {
		size += agedPrefix
	}
	var op *pebble.DeferredBatchOp
	if value == nil {
		op = b.DeleteDeferred(size)
	} else {
		op = b.SetDeferred(size, len(value))
		copy(op.Value, value)
	}
	to := op.Key[:0]
	if g != nil {
		to = agedKey(to, g.number, nil)
	}
	_ = append(to, key...) // op.Key has room for it
	return op.Finish()
}

// splitTables has every file hold keys of one table, and of one generation, alone. What is newest lies behind all
// that was there before, and so goes down the levels by a move of its file, with
// nothing rewritten; but not if a file on the way holds the end of one table and
// the beginning of the next, since all that is new lies within its bounds.
func splitTables(from []byte) (policy pebble.SpanPolicy, until []byte, err error) {
	switch {
	case len(from) == 0 || from[0] == 0xff:
		return policy, nil, nil
	case from[0] == tableAged && len(from) >= agedPrefix:
		return policy, agedKey(nil, ageOf(from)+1, nil), nil
	}
	return policy, []byte{from[0] + 1}, nil
}
