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
	w := &writing{Pebble: p, places: make(map[string]place)}
	return newOverlay(w, w.commit)
}

// writing is a store as a batch of it sees it.
type writing struct {
	*Pebble
	// places are those of keys that were read: the batch is the only writer, so there
	// they are when it writes.
	places map[string]place
}

// Get implements Store.
func (w *writing) Get(key []byte) ([]byte, error) {
	value, at, err := w.find(key)
	if at.generation != nil {
		w.places[string(key)] = at
	}
	return value, err
}

// place returns where a key is, which is in no generation if it is not stored.
func (w *writing) place(key string) (place, error) {
	if at, ok := w.places[key]; ok {
		return at, nil
	}
	_, at, err := w.find([]byte(key))
	return at, err
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
	// While a checkpoint links files, it is the same ones that there are.
	files := w.files.TryLock()
	if files {
		defer w.files.Unlock()
	}
	forget, err := w.ages.turn(b, files)
	if err != nil {
		return err
	}
	c := changes{victim: w.ages.victim()}
	if err := w.writeAll(b, writes, &c); err != nil {
		return err
	}
	if err := w.move(b, writes, &c); err != nil {
		return err
	}
	if err := w.ages.commit(c, func() error { return b.Commit(pebble.NoSync) }); err != nil {
		return err
	}
	w.ages.bytes += c.bytes
	forget()
	return w.tend(files)
}

func (w *writing) writeAll(b *pebble.Batch, writes map[string][]byte, c *changes) error {
	// In order, each key is found a place for from where the last one went.
	for _, key := range slices.Sorted(maps.Keys(writes)) {
		var err error
		if inGeneration([]byte(key)) {
			err = w.writeAged(b, key, writes[key], c)
		} else {
			err = writeTo(b, nil, key, writes[key])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeAged adds a write of a key that is in a generation, or comes to the current one.
func (w *writing) writeAged(b *pebble.Batch, key string, value []byte, c *changes) error {
	at, err := w.place(key)
	current := w.ages.current()
	switch {
	case err != nil:
		return err
	case at.generation == nil && value == nil:
		return nil
	case at.generation == nil:
		c.come = append(c.come, w.ages.hash([]byte(key)))
	case value == nil:
		return w.leave(b, removal{key, w.ages.hash([]byte(key)), at}, c)
	case at.generation != current:
		return w.rejoin(b, removal{key, w.ages.hash([]byte(key)), at}, value, c)
	}
	c.bytes += len(key) + len(value)
	return writeTo(b, current, key, value)
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

// splitTables has every file of Pebble's hold keys of one table, and of one generation,
// alone. What is newest lies behind all that was there before, and so goes down the levels
// by a move of its file, with nothing rewritten, and goes as a whole once the generation has
// a file of its own; but not if a file on the way holds the end of one table and the beginning
// of the next, since all that is new lies within its bounds.
func splitTables(from []byte) (policy pebble.SpanPolicy, until []byte, err error) {
	switch {
	case len(from) == 0 || from[0] == 0xff:
		return policy, nil, nil
	case from[0] == tableAged && len(from) >= agedPrefix:
		return policy, agedKey(nil, numberOf(from)+1, nil), nil
	}
	return policy, []byte{from[0] + 1}, nil
}
