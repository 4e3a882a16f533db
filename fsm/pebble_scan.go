//go:build !wasip1

package fsm

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Scan implements Store. A nil bound is no bound. It reads all generations side by
// side, which takes some memory and time for each.
func (p *Pebble) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	aged := []byte{firstAged}
	if to != nil && bytes.Compare(to, aged) <= 0 {
		_, err := scanRange(p.db, from, to, visit)
		return err
	}
	return p.inSnapshot(func(r pebble.Reader, all []*generation) error {
		if bytes.Compare(from, aged) < 0 {
			if goOn, err := scanRange(r, from, aged, visit); !goOn || err != nil {
				return err
			}
			from = nil
		}
		return p.scanGenerations(r, all, from, to, visit)
	})
}

// Walk calls visit with each key once, from one consistent view, until visit returns
// false: generation after generation, as they lie on the disk.
func (p *Pebble) Walk(visit func(key, value []byte) bool) error {
	return p.inSnapshot(func(r pebble.Reader, all []*generation) error {
		if goOn, err := scanRange(r, nil, []byte{firstAged}, visit); !goOn || err != nil {
			return err
		}
		for _, g := range all {
			if goOn, err := p.walkGeneration(r, g, visit); !goOn || err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Pebble) walkGeneration(r pebble.Reader, g *generation, visit func(key, value []byte) bool) (goOn bool, err error) {
	rows, err := p.cursor(r, g, nil, nil)
	if err != nil {
		return false, storeError("scan store", err)
	}
	defer func() {
		if e := rows.close(); err == nil && e != nil {
			err = storeError("scan store", e)
		}
	}()
	seen := 0
	for ok, err := rows.next(); ok || err != nil; ok, err = rows.next() {
		if err != nil {
			return false, storeError("scan store", err)
		}
		key, value, err := rows.row()
		if err != nil {
			return false, storeError("scan store", err)
		}
		if err := p.sight(g, rows, key); err != nil {
			return false, err
		}
		seen++
		if !visit(key, value) {
			return false, nil
		}
	}
	return true, p.checkCount(g, seen)
}

// inSnapshot calls read with what is stored at this moment, and the generations of it.
func (p *Pebble) inSnapshot(read func(pebble.Reader, []*generation) error) (err error) {
	var snapshot *pebble.Snapshot
	all, release := p.ages.snapshot(func() { snapshot = p.db.NewSnapshot() })
	defer func() {
		if e := errors.Join(snapshot.Close(), release()); e != nil && err == nil {
			err = storeError("scan store", e)
		}
	}()
	return read(snapshot, all)
}

// scanRange visits what Pebble has in [from, to), and reports whether visit would
// go on.
func scanRange(r pebble.Reader, from, to []byte, visit func(key, value []byte) bool) (goOn bool, err error) {
	if len(from) == 0 {
		from = nil // Pebble expects a bound, once given, to have bytes
	}
	return scanWith(r, &pebble.IterOptions{LowerBound: from, UpperBound: to}, visit)
}

func scanWith(r pebble.Reader, o *pebble.IterOptions, visit func(key, value []byte) bool) (goOn bool, err error) {
	it, err := r.NewIter(o)
	if err != nil {
		return false, storeError("scan store", err)
	}
	// An iterator that met an error says so when it is closed.
	defer func() {
		if e := it.Close(); e != nil && err == nil {
			err = storeError("scan store", e)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return false, storeError("scan store", err)
		}
		if !visit(it.Key(), value) {
			return false, nil
		}
	}
	return true, nil
}

// scanGenerations visits the keys in [from, to) of all of these generations, in order.
func (p *Pebble) scanGenerations(r pebble.Reader, all []*generation, from, to []byte, visit func(key, value []byte) bool) (err error) {
	var next merge
	whole := from == nil && to == nil
	defer func() {
		for _, a := range next.opened {
			if e := a.close(); e != nil && err == nil {
				err = storeError("scan store", e)
			}
		}
	}()
	for _, g := range all {
		rows, err := p.cursor(r, g, from, to)
		if err != nil {
			return storeError("scan store", err)
		}
		more, err := next.open(g, rows)
		if err != nil {
			return storeError("scan store", err)
		}
		if !more && whole {
			if err := p.checkCount(g, 0); err != nil {
				return err
			}
		}
	}
	for heap.Init(&next); len(next.waiting) > 0; {
		first := next.waiting[0]
		if err := p.sight(first.generation, first, first.key); err != nil {
			return err
		}
		if !visit(first.key, first.value) {
			return nil
		}
		more, err := first.step()
		if err != nil {
			return storeError("scan store", err)
		}
		if more {
			heap.Fix(&next, 0)
			continue
		}
		heap.Pop(&next)
		if whole {
			if err := p.checkCount(first.generation, first.seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// sight checks that a row would be found. Where the store is written to meanwhile there
// is nothing to hold it against.
func (p *Pebble) sight(g *generation, at cursor, key []byte) error {
	if !p.readOnly {
		return nil
	}
	h := p.ages.hash(key)
	found, _ := p.ages.where(nil, h)
	if !slices.Contains(found, g) || at.source() != nil && at.source().slotOf(h, at.reference()) < 0 {
		return corrupt(key, "the hashes of its generation do not have it")
	}
	return nil
}

// checkCount holds how many rows a generation should have against those that were seen.
func (p *Pebble) checkCount(g *generation, seen int) error {
	if p.readOnly && g.keys != seen {
		return corrupt(ownKey(tableAged, g.number), fmt.Sprintf("its generation has %d keys, not %d", seen, g.keys))
	}
	return nil
}

// age is a generation whose rows are gone through, at one of them.
type age struct {
	*generation
	cursor
	key, value []byte
	seen       int
}

// step moves to the next row, if there is one.
func (a *age) step() (more bool, err error) {
	if more, err = a.next(); !more || err != nil {
		return false, err
	}
	a.seen++
	a.key, a.value, err = a.row()
	return err == nil, err
}

// merge has generations in the order of their next keys: a heap.
type merge struct {
	waiting []*age // each at a row
	opened  []cursor
}

// open adds a generation, unless it has no row there.
func (m *merge) open(g *generation, rows cursor) (more bool, err error) {
	m.opened = append(m.opened, rows)
	next := &age{generation: g, cursor: rows}
	if more, err = next.step(); more {
		m.waiting = append(m.waiting, next)
	}
	return more, err
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (m *merge) Len() int { return len(m.waiting) }

func (m *merge) Less(i, j int) bool { return bytes.Compare(m.waiting[i].key, m.waiting[j].key) < 0 }

func (m *merge) Swap(i, j int) { m.waiting[i], m.waiting[j] = m.waiting[j], m.waiting[i] }

func (m *merge) Push(x any) { m.waiting = append(m.waiting, x.(*age)) }

func (m *merge) Pop() any {
	last := len(m.waiting) - 1
	x := m.waiting[last]
	m.waiting = m.waiting[:last]
	return x
}
