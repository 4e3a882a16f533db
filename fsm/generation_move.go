//go:build !wasip1

package fsm

import (
	"bytes"
	"fmt"

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

// sparsest returns the generation whose keys are to join the current one, or nil
// while less than half of the keys of all the others have been deleted, or those are few.
//
// Without this, keys that stay for long, each among many that do not, would keep
// as many generations for ever: with a seal for each, and in time more of them than
// there are tags. So, as in a log-structured file system (Rosenblum and Ousterhout,
// 1991), the one that has least left is emptied: no more keys are moved for a
// generation than new ones come to one.
func (s *generations) sparsest() *generation {
	var least *generation
	n, keys, had := 0, 0, 0
	for _, g := range s.all[:len(s.all)-1] {
		if g.keys == 0 {
			continue // it is about to be dropped
		}
		n, keys, had = n+1, keys+g.keys, had+g.had
		if least == nil || g.keys*least.had < least.keys*g.had {
			least = g
		}
	}
	if n <= s.spare || 2*keys >= had {
		return nil
	}
	return least
}

// move adds to b that keys of the generation that is emptied, from where it last came
// to, join the current one. Those in writes did so already.
func (w *writing) move(b *pebble.Batch, writes map[string][]byte, c *changes) (err error) {
	g := c.emptied
	if g == nil {
		return nil
	}
	from, to := g.bounds()
	if g.rest != nil {
		from = g.rest
	}
	it, err := w.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer closeAfter(it, &err)
	most, size := len(c.moved)+len(c.come)+movedKeys, 2*b.Len()+movedBytes
	ok := it.First()
	for ; ok && len(c.moved) < most && b.Len() < size; ok = it.Next() {
		key := string(it.Key()[agedPrefix:])
		if _, written := writes[key]; written {
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := w.rejoin(b, key, value, c); err != nil {
			return err
		}
	}
	if ok {
		g.rest = bytes.Clone(it.Key())
		return nil
	}
	if err := it.Error(); err != nil {
		return err
	}
	if left := g.keys - c.goneFrom(g); left != 0 {
		return corrupt(countKey(g.number), fmt.Sprintf("its generation has %d keys less than that", left))
	}
	return nil
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

// rejoin adds to b that a key of the generation that is emptied joins the current one.
func (w *writing) rejoin(b *pebble.Batch, key string, value []byte, c *changes) error {
	h := w.ages.hash([]byte(key))
	c.moved = append(c.moved, h)
	c.gone = append(c.gone, agedHash{h, c.emptied})
	c.bytes += len(key) + len(value)
	if err := writeTo(b, c.emptied, key, nil); err != nil {
		return err
	}
	return writeTo(b, w.ages.current(), key, value)
}
