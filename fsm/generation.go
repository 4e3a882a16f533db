//go:build !wasip1

package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Most keys come in no order, and what comes in no order an LSM store writes
// again and again, the more of it the more it has. So keys are kept by age: a new
// one goes into the current generation, behind all that is older, and stays in
// the one that it began in. Of those only the current one grows, and is small
// enough to be sorted in few steps; what is older is moved and not rewritten, and
// disappears as a whole once all of it has been deleted.
//
// Which generation a key is in is known in memory alone, by its hash. To have that at
// once after a start, the hashes of a generation are written down when the next
// one begins.
//
// In Pebble's own keys:
//
//	below 'o'              a key that is in no generation: those are few, or in order
//	'y' number             the hashes of a generation, sealed (see appendValue)
//	'z' number key         a key of a generation
const (
	firstAged  = tableResource
	tableSeal  = 'y'
	tableAged  = 'z'
	agedPrefix = 1 + 4 // table and number

	// As many keys as two or three memtables hold, of usual responses.
	defaultGenerationKeys = 1 << 18
)

func inGeneration(key []byte) bool { return len(key) > 0 && key[0] >= firstAged }

// generations knows which keys are stored, and where. It says where by hashes: it may
// name a generation that does not have a key, but never leaves out one that does.
type generations struct {
	mu    sync.RWMutex
	index hashIndex // tags are the low bytes of numbers
	byTag [256][]*generation
	// Ascending; the last is the current one.
	all []*generation

	// hash is of a logical key; written down, so never to be changed.
	hash func(key []byte) uint64
	// What follows is the writer's alone.
	limit   int
	current []uint64 // the hashes of all that was ever in the current generation
	empty   []*generation
}

// generation is some keys of about one age.
type generation struct {
	number uint32
	keys   int // how many of them the index has
}

func (g *generation) tag() uint8 { return uint8(g.number) }

// begin appends a generation, which becomes the current one.
func (s *generations) begin(number uint32) *generation {
	g := &generation{number: number}
	s.all = append(s.all, g)
	s.byTag[g.tag()] = append(s.byTag[g.tag()], g)
	s.current = s.current[:0]
	return g
}

// where appends to found the generations that may have a key of hash h.
func (s *generations) where(found []*generation, h uint64) []*generation {
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
	return found
}

// snapshot calls take, and returns all the generations that may have keys in what it
// takes.
func (s *generations) snapshot(take func()) []*generation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	take()
	return slices.Clone(s.all)
}

// come is called with the hashes of new keys of the current generation before
// they are committed.
func (s *generations) come(hashes []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.all[len(s.all)-1]
	for _, h := range hashes {
		s.index.add(h, g.tag())
	}
	g.keys += len(hashes)
	s.current = append(s.current, hashes...)
}

// agedHash is the hash of a key and the generation that it is in.
type agedHash struct {
	hash uint64
	*generation
}

// went is called with keys that were deleted after that was committed.
func (s *generations) went(gone []agedHash) {
	if len(gone) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range gone {
		s.index.remove(k.hash, k.tag())
		if k.keys--; k.keys == 0 && k.generation != s.all[len(s.all)-1] {
			s.empty = append(s.empty, k.generation)
		}
	}
}

// turn begins the next generation if the current one is full, and drops
// those that are empty; b, which the caller commits next, gets what has to be written.
// forget is to be called after that.
func (s *generations) turn(b *pebble.Batch) (forget func(), err error) {
	dropped := s.empty
	s.empty = nil
	for _, g := range dropped {
		from, to := g.bounds()
		if err := b.DeleteRange(from, to, nil); err != nil {
			return nil, err
		}
		if err := b.Delete(sealKey(g.number), nil); err != nil {
			return nil, err
		}
	}
	if len(s.current) >= s.limit {
		g := s.all[len(s.all)-1]
		if err := b.Set(sealKey(g.number), sealHashes(g.number, s.current), nil); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.begin(g.number + 1)
		if g.keys == 0 {
			s.empty = append(s.empty, g)
		}
		s.mu.Unlock()
	}
	return func() { s.drop(dropped) }, nil
}

func (s *generations) drop(dropped []*generation) {
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

// load makes the generations of what is stored.
func (s *generations) load(db *pebble.DB) (err error) {
	// Hashes do not compress, and all that there is in a store that opens is in its files.
	size, err := db.EstimateDiskUsage([]byte{tableSeal}, []byte{tableAged})
	if err != nil {
		return err
	}
	s.index.reserve(int(size / 8))
	seals, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{firstAged}, UpperBound: []byte{tableAged}})
	if err != nil {
		return err
	}
	defer closeAfter(seals, &err)
	keys, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableAged}})
	if err != nil {
		return err
	}
	defer closeAfter(keys, &err)
	next := uint32(1)
	for ok := seals.First(); ok; ok = seals.Next() {
		if len(seals.Key()) != agedPrefix || seals.Key()[0] != tableSeal {
			return fmt.Errorf("it was written by another version: there is a key in table %q", seals.Key()[:1])
		}
		number := binary.BigEndian.Uint32(seals.Key()[1:])
		value, err := seals.ValueAndErr()
		if err != nil {
			return err
		}
		if err := s.loadSealed(number, keys, next, seals.Key(), value); err != nil {
			return err
		}
		next = number + 1
	}
	return s.loadCurrent(next, keys)
}

// loadSealed begins a generation with what was written down of it. keys are those of all generations; none
// may be of one between next and number.
func (s *generations) loadSealed(number uint32, keys *pebble.Iterator, next uint32, key, value []byte) error {
	hashes, err := openPayload(key, value)
	if err != nil {
		return err
	}
	if len(hashes)%8 != 0 {
		return corrupt(key, "it has part of a hash")
	}
	g := s.begin(number)
	if !keys.SeekGE(agedKey(nil, next, nil)) || ageOf(keys.Key()) > number {
		s.empty = append(s.empty, g) // all of it has been deleted since
		return keys.Error()
	}
	if ageOf(keys.Key()) < number {
		return corrupt(keys.Key(), "the hashes of its generation are missing")
	}
	for ; len(hashes) > 0; hashes = hashes[8:] {
		s.index.add(binary.BigEndian.Uint64(hashes), g.tag())
		g.keys++
	}
	return nil
}

// loadCurrent begins the current generation with the keys that it has.
func (s *generations) loadCurrent(number uint32, keys *pebble.Iterator) error {
	s.begin(number)
	var hashes []uint64
	for ok := keys.SeekGE(agedKey(nil, number, nil)); ok; ok = keys.Next() {
		if ageOf(keys.Key()) != number {
			return corrupt(keys.Key(), "the hashes of the generation before are missing")
		}
		hashes = append(hashes, s.hash(keys.Key()[agedPrefix:]))
	}
	s.come(hashes)
	return keys.Error()
}

// ageOf is the number of the generation of a key, of which Pebble has none that is
// shorter than its prefix.
func ageOf(key []byte) uint32 { return binary.BigEndian.Uint32(key[1:]) }

// closeAfter closes it; an iterator that met an error says so then.
func closeAfter(it *pebble.Iterator, err *error) {
	if e := it.Close(); e != nil && *err == nil {
		*err = e
	}
}
