//go:build !wasip1

package fsm

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// spareGenerations is how many there may be, however few keys there are.
	spareGenerations = 8
	// A batch moves some keys more than it brings, so that the generations that it
	// fills are made up for; and some bytes more than it writes.
	movedKeys  = 64
	movedBytes = 256 << 10
)

// left is what is left of a victim: keys that Pebble has from one on, or rows of its file,
// in order.
type left struct {
	key  []byte
	rows []uint32
	file *rowFile // whose rows they are
}

// victim returns the generation whose keys are to join the current one, or nil where that
// is not worth while: less than half of the keys of all the others have been deleted, and
// less than half of what their files have, and they are not many for what they have; or
// they are few.
//
// Without this, keys that stay for long, each among many that do not, would keep
// as many generations for ever: with the file of each, and in time more of them than
// there are tags. So, as the cleaner of a log-structured file system does (Rosenblum and
// Ousterhout, 1991), the one that has least left is emptied. No batch writes more than twice
// of what it brings, and some.
func (s *generations) victim() *generation {
	var least, deadest, fewest *generation
	n, keys, had := 0, 0, 0
	dead, size := int64(0), int64(0)
	for _, g := range s.all[:len(s.all)-1] {
		if g.keys == 0 {
			continue // it is about to be dropped
		}
		n, keys, had = n+1, keys+g.keys, had+g.had
		if least == nil || g.keys*least.had < least.keys*g.had {
			least = g
		}
		if fewest == nil || g.keys < fewest.keys {
			fewest = g
		}
		if f := g.file.Load(); f != nil {
			dead, size = dead+g.dead, size+f.plain
			if deadest == nil || g.deadShare() > deadest.deadShare() {
				deadest = g
			}
		}
	}
	switch {
	case n <= s.spare:
		return nil
	case 2*keys < had:
		return least
	case 2*dead > size:
		return deadest
	case n > s.spare+2*(keys/s.mostKeys+int(size)/s.mostBytes+1):
		return fewest
	}
	return nil
}

// deadShare is how much of its file has been deleted.
func (g *generation) deadShare() float64 { return float64(g.dead) / float64(g.file.Load().plain) }

// move adds to b that keys of the victim, from where it last came to, join the current
// generation. Those in writes did so already.
func (w *writing) move(b *pebble.Batch, writes map[string][]byte, c *changes) error {
	g := c.victim
	if g == nil {
		return nil
	}
	most, size := 2*len(c.moved)+len(c.come)+movedKeys, 2*b.Len()+movedBytes
	take := func(key, value []byte, at place) (more bool, err error) {
		if len(c.moved) >= most || b.Len() >= size {
			return false, nil
		}
		if _, written := writes[string(key)]; written {
			return true, nil
		}
		return true, w.rejoin(b, removal{string(key), w.ages.hash(key), at}, value, c)
	}
	all := w.moveKeys
	if g.file.Load() != nil {
		all = w.moveRows
	}
	more, err := all(g, take)
	if err != nil || more {
		return err
	}
	if left := g.keys - c.goneFrom(g); left != 0 {
		return corrupt(ownKey(tableAged, g.number), fmt.Sprintf("its generation has %d keys less than there were", left))
	}
	return nil
}

// moveKeys calls take with keys of a generation that Pebble has, while it takes them, and
// reports whether there are more.
func (w *writing) moveKeys(g *generation, take func(key, value []byte, at place) (bool, error)) (more bool, err error) {
	from, to := g.bounds()
	if g.left.key != nil {
		from = g.left.key
	}
	it, err := w.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return false, err
	}
	defer closeAfter(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return false, err
		}
		if taken, err := take(it.Key()[agedPrefix:], value, place{generation: g}); !taken || err != nil {
			g.left.key = bytes.Clone(it.Key())
			return true, err
		}
	}
	return false, it.Error()
}

// moveRows is moveKeys for a generation with a file: it reads each block once, and none
// of which all rows have been deleted.
func (w *writing) moveRows(g *generation, take func(key, value []byte, at place) (bool, error)) (more bool, err error) {
	f := g.file.Load()
	if g.left.file != f {
		g.left = left{file: f, rows: f.live()}
	}
	room := new(blockRoom)
	for rows := g.left.rows; len(rows) > 0; {
		block := rows[0] / blockRows
		rest, err := f.readBlock(block, room)
		if err != nil {
			return false, err
		}
		for i := uint32(0); len(rows) > 0 && rows[0]/blockRows == block; i++ {
			var key, value []byte
			if key, value, rest, err = f.row(rest); err != nil {
				return false, err
			}
			if i < rows[0]%blockRows {
				continue
			}
			at := place{g, f, f.slotOf(w.ages.hash(key), rows[0]), uint32(len(key) + len(value))}
			if at.slot >= 0 { // else it has gone since
				if taken, err := take(key, value, at); !taken || err != nil {
					return true, err
				}
			}
			rows = rows[1:]
			g.left.rows = rows
		}
	}
	return false, nil
}

// live returns the references of all rows that have not been deleted, in order.
func (f *rowFile) live() (refs []uint32) {
	for slot := range f.rows() {
		if ref := f.ref(slot); ref != deadRef {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return refs
}

// goneFrom is how many keys of g go.
func (c *changes) goneFrom(g *generation) (n int) {
	for _, k := range c.gone {
		if k.generation == g {
			n++
		}
	}
	return n
}

// rejoin adds to b that a key goes from where it is to the current generation, with a value.
func (w *writing) rejoin(b *pebble.Batch, k removal, value []byte, c *changes) error {
	c.moved = append(c.moved, k.hash)
	c.bytes += len(k.key) + len(value)
	if err := w.leave(b, k, c); err != nil {
		return err
	}
	return writeTo(b, w.ages.current(), k.key, value)
}

// leave adds to b that a key goes from where it is.
func (w *writing) leave(b *pebble.Batch, k removal, c *changes) error {
	c.gone = append(c.gone, k)
	if k.file == nil {
		return writeTo(b, k.generation, k.key, nil)
	}
	t := tombstone{k.file.ref(k.slot), k.size}
	return b.Set(t.key(k.number), t.value(), nil)
}
