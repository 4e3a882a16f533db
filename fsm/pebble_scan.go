//go:build !wasip1

package fsm

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"

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
		seen := sightings{}
		for _, g := range all {
			var lost error
			from, to := g.bounds()
			goOn, err := scanRange(r, from, to, func(key, value []byte) bool {
				if lost = p.sight(seen, key); lost != nil {
					return false
				}
				return visit(key[agedPrefix:], value)
			})
			if err = errors.Join(err, lost); !goOn || err != nil {
				return err
			}
		}
		return p.checkCounts(seen, all)
	})
}

// inSnapshot calls read with what is stored at this moment, and the generations of it.
func (p *Pebble) inSnapshot(read func(pebble.Reader, []*generation) error) (err error) {
	var snapshot *pebble.Snapshot
	all := p.ages.snapshot(func() { snapshot = p.db.NewSnapshot() })
	defer func() {
		if e := snapshot.Close(); e != nil && err == nil {
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
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
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
	var next ages
	defer func() {
		for _, it := range next.opened {
			if e := it.Close(); e != nil && err == nil {
				err = storeError("scan store", e)
			}
		}
	}()
	for _, g := range all {
		if err := next.open(r, g, from, to); err != nil {
			return storeError("scan store", err)
		}
	}
	seen := sightings{}
	for heap.Init(&next); len(next.waiting) > 0; {
		first := next.waiting[0]
		value, err := first.ValueAndErr()
		if err != nil {
			return storeError("scan store", err)
		}
		if err := p.sight(seen, first.Key()); err != nil {
			return err
		}
		if !visit(first.Key()[agedPrefix:], value) {
			return nil
		}
		if err := next.step(); err != nil {
			return storeError("scan store", err)
		}
	}
	if from == nil && to == nil {
		return p.checkCounts(seen, all)
	}
	return nil
}

// sightings are how many keys of each generation were seen.
type sightings map[uint32]int

// sight counts one of Pebble's own keys, and checks that it would be found. Where
// the store is written to meanwhile there is nothing to hold it against.
func (p *Pebble) sight(seen sightings, key []byte) error {
	if !p.readOnly {
		return nil
	}
	if !p.ages.has(ageOf(key), key[agedPrefix:]) {
		return corrupt(key[agedPrefix:], "the hashes of its generation do not have it")
	}
	seen[ageOf(key)]++
	return nil
}

// checkCounts holds what is written down of generations against the keys that were seen.
func (p *Pebble) checkCounts(seen sightings, all []*generation) error {
	if !p.readOnly {
		return nil
	}
	for _, g := range all {
		if g.keys != seen[g.number] {
			return corrupt(countKey(g.number), fmt.Sprintf("its generation has %d keys, not %d", seen[g.number], g.keys))
		}
	}
	return nil
}

// ages are generations in the order of their next keys: a heap.
type ages struct {
	waiting []*pebble.Iterator // each on a key
	opened  []*pebble.Iterator
}

func (a *ages) open(r pebble.Reader, g *generation, from, to []byte) error {
	o := new(pebble.IterOptions)
	o.LowerBound, o.UpperBound = g.bounds()
	if from != nil {
		o.LowerBound = agedKey(nil, g.number, from)
	}
	if to != nil {
		o.UpperBound = agedKey(nil, g.number, to)
	}
	it, err := r.NewIter(o)
	if err != nil {
		return err
	}
	a.opened = append(a.opened, it)
	if it.First() {
		a.waiting = append(a.waiting, it)
	}
	return it.Error()
}

// step moves on from the first key.
func (a *ages) step() error {
	first := a.waiting[0]
	if first.Next() {
		heap.Fix(a, 0)
		return nil
	}
	heap.Pop(a)
	return first.Error()
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (a *ages) Len() int { return len(a.waiting) }

func (a *ages) Less(i, j int) bool {
	return bytes.Compare(a.waiting[i].Key()[agedPrefix:], a.waiting[j].Key()[agedPrefix:]) < 0
}

func (a *ages) Swap(i, j int) { a.waiting[i], a.waiting[j] = a.waiting[j], a.waiting[i] }

func (a *ages) Push(it any) { a.waiting = append(a.waiting, it.(*pebble.Iterator)) }

func (a *ages) Pop() any {
	last := len(a.waiting) - 1
	it := a.waiting[last]
	a.waiting = a.waiting[:last]
	return it
}

// has reports whether key would be looked for in a generation.
func (s *generations) has(number uint32, key []byte) bool {
	found, _ := s.where(nil, s.hash(key))
	for _, g := range found {
		if g.number == number {
			return true
		}
	}
	return false
}
