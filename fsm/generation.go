//go:build !wasip1

package fsm

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Most keys come in no order, and what comes in no order an LSM store writes
// again and again, the more of it the more it has. So keys are kept by age: a new
// one goes into the current generation, behind all that is older. Only that one
// grows, and is small enough to be sorted in few steps; what is older goes down the
// levels unchanged, and disappears as a whole once all of it has been deleted. What
// is left of generations that have few keys joins the current one (see move).
//
// Which generation a key is in is known in memory alone, by its hash. To have that at
// once after a start, the hashes of a generation are written down when the next
// one begins, and from then on how many of its keys are left.
//
// In Pebble's own keys:
//
//	below 'o'              a key that is in no generation: those are few, or in order
//	'x' number             how many keys a generation has, in 4 bytes, sealed (see appendValue)
//	'y' number             the hashes of all keys that it had when the next began, sealed
//	'z' number key         a key of a generation
//
// The current generation, the last, has neither 'x' nor 'y'.
const (
	firstAged  = tableResource
	tableCount = 'x'
	tableSeal  = 'y'
	tableAged  = 'z'
	agedPrefix = 1 + 4 // table and number

	// As many keys as two or three memtables hold, of usual responses, and as many bytes
	// of large ones.
	defaultGenerationKeys  = 1 << 18
	defaultGenerationBytes = 256 << 20
)

func inGeneration(key []byte) bool { return len(key) > 0 && key[0] >= firstAged }

// generations knows which keys are stored, and where. It says where by hashes: it may
// name a generation that does not have a key, but never leaves out one that does.
type generations struct {
	mu    sync.RWMutex
	index hashIndex // tags are the low bytes of numbers
	byTag [256][]*generation
	// Ascending; the last is the current one.
	all   []*generation
	moves uint64 // how often keys were moved from one to another

	// hash is of a logical key; written down, so never to be changed.
	hash func(key []byte) uint64
	// What follows is the writer's alone, as is all of a generation but its number.
	mostKeys, mostBytes, spare int // see PebbleOptions
	// Of the current generation: the hashes of all that was ever in it, and about the
	// bytes that were written to it.
	hashes []uint64
	bytes  int
	empty  []*generation // that are yet to be dropped
}

// generation is some keys of about one age.
type generation struct {
	number uint32
	keys   int    // how many it has
	had    int    // how many hashes were written down of it
	rest   []byte // where moving its keys goes on
}

func (g *generation) tag() uint8 { return uint8(g.number) }

// current returns the generation that new keys go into.
func (s *generations) current() *generation { return s.all[len(s.all)-1] }

// begin appends a generation, which becomes the current one.
func (s *generations) begin(number uint32) *generation {
	g := &generation{number: number}
	s.all = append(s.all, g)
	s.byTag[g.tag()] = append(s.byTag[g.tag()], g)
	s.hashes, s.bytes = s.hashes[:0], 0
	return g
}

// where appends to found the generations that may have a key of hash h. While moves
// stays as it is returned, no other can have got it.
func (s *generations) where(found []*generation, h uint64) (_ []*generation, moves uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var tags [4]uint8
	for _, tag := range s.index.find(tags[:0], h) {
		for _, g := range s.byTag[tag] {
			if !slices.Contains(found, g) {
				found = append(found, g)
			}
		}
	}
	return found, s.moves
}

// movedSince tells whether keys were moved since where returned moves.
func (s *generations) movedSince(moves uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.moves != moves
}

// snapshot calls take, and returns all the generations that may have keys in what it
// takes.
func (s *generations) snapshot(take func()) []*generation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	take()
	return slices.Clone(s.all)
}

// agedHash is the hash of a key and the generation that it is in.
type agedHash struct {
	hash uint64
	*generation
}

// changes are what a batch does to the generations: hashes of keys that come to the
// current one and were nowhere, or in the one that is emptied; and of those that go
// from another.
type changes struct {
	emptied     *generation // or nil
	come, moved []uint64
	gone        []agedHash // all that moved too
	bytes       int        // that are written to the current generation
}

// commit runs write, which commits the batch of them. Before that the index has the
// keys that come, and until after it those that go, so that it never leaves one out.
// While keys move nobody may look: they are in two generations, or in none.
func (s *generations) commit(c changes, write func() error) error {
	if len(c.moved) > 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.moves++
		s.add(c.come)
		s.add(c.moved)
		if err := write(); err != nil {
			return err
		}
		s.remove(c.gone)
		return nil
	}
	s.locked(func() { s.add(c.come) })
	if err := write(); err != nil {
		return err
	}
	if len(c.gone) > 0 {
		s.locked(func() { s.remove(c.gone) })
	}
	return nil
}

func (s *generations) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// add puts keys of the current generation into the index.
func (s *generations) add(hashes []uint64) {
	g := s.current()
	for _, h := range hashes {
		s.index.add(h, g.tag())
	}
	g.keys += len(hashes)
	s.hashes = append(s.hashes, hashes...)
}

func (s *generations) remove(gone []agedHash) {
	for _, k := range gone {
		s.index.remove(k.hash, k.tag())
		if k.keys--; k.keys == 0 && k.generation != s.current() {
			s.empty = append(s.empty, k.generation)
		}
	}
}

// count adds to b how many keys generations have after that.
func (s *generations) count(b *pebble.Batch, gone []agedHash) error {
	left := map[*generation]int{}
	for _, k := range gone {
		if _, ok := left[k.generation]; !ok {
			left[k.generation] = k.keys
		}
		left[k.generation]--
	}
	for g, keys := range left {
		if g == s.current() {
			continue
		}
		if err := b.Set(countKey(g.number), sealCount(g.number, keys), nil); err != nil {
			return err
		}
	}
	return nil
}

// turn begins the next generation if the current one is full, and drops
// those that are empty; b, which the caller commits next, gets what has to be written.
// forget is to be called after that.
func (s *generations) turn(b *pebble.Batch) (forget func(), err error) {
	if full := len(s.hashes) >= s.mostKeys || s.bytes >= s.mostBytes; full && len(s.hashes) > 0 {
		if err := s.seal(b); err != nil {
			return nil, err
		}
	}
	// The one before the current stays, also without keys: it is what tells the number
	// of the current one.
	var dropped []*generation
	s.empty = slices.DeleteFunc(s.empty, func(g *generation) bool {
		old := g.number+1 < s.current().number
		if old {
			dropped = append(dropped, g)
		}
		return old
	})
	for _, g := range dropped {
		if err := g.drop(b); err != nil {
			return nil, err
		}
	}
	return func() { s.forget(dropped) }, nil
}

// seal adds to b what is written down of the current generation, and begins the next.
func (s *generations) seal(b *pebble.Batch) error {
	g := s.current()
	if err := b.Set(sealKey(g.number), sealHashes(g.number, s.hashes), nil); err != nil {
		return err
	}
	if err := b.Set(countKey(g.number), sealCount(g.number, g.keys), nil); err != nil {
		return err
	}
	g.had = len(s.hashes)
	if g.keys == 0 {
		s.empty = append(s.empty, g)
	}
	s.locked(func() { s.begin(g.number + 1) })
	return nil
}

// drop adds to b that there is nothing left of the generation.
func (g *generation) drop(b *pebble.Batch) error {
	from, to := g.bounds()
	if err := b.DeleteRange(from, to, nil); err != nil {
		return err
	}
	if err := b.Delete(sealKey(g.number), nil); err != nil {
		return err
	}
	return b.Delete(countKey(g.number), nil)
}

func (s *generations) forget(dropped []*generation) {
	if len(dropped) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	is := func(g *generation) bool { return slices.Contains(dropped, g) }
	s.all = slices.DeleteFunc(s.all, is)
	for _, g := range dropped {
		s.byTag[g.tag()] = slices.DeleteFunc(s.byTag[g.tag()], is)
	}
}

func agedKey(b []byte, number uint32, key []byte) []byte {
	b = append(b, tableAged)
	b = binary.BigEndian.AppendUint32(b, number)
	return append(b, key...)
}

func sealKey(number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{tableSeal}, number)
}

func countKey(number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{tableCount}, number)
}

func sealCount(number uint32, keys int) []byte {
	value := binary.BigEndian.AppendUint32(make([]byte, headerSize), uint32(keys))
	seal(value, countKey(number))
	return value
}

func sealHashes(number uint32, hashes []uint64) []byte {
	value := make([]byte, headerSize, headerSize+8*len(hashes))
	for _, h := range hashes {
		value = binary.BigEndian.AppendUint64(value, h)
	}
	seal(value, sealKey(number))
	return value
}

// bounds are those of its keys in Pebble.
func (g *generation) bounds() (from, to []byte) {
	return agedKey(nil, g.number, nil), agedKey(nil, g.number+1, nil)
}

// ageOf is the number of the generation of one of Pebble's own keys, of which none
// is shorter than its prefix.
func ageOf(key []byte) uint32 { return binary.BigEndian.Uint32(key[1:]) }
