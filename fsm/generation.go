//go:build !wasip1

package fsm

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// Most keys come in no order, and what comes in no order an LSM store writes
// again and again, the more of it the more it has. So keys are kept by age: a new
// one goes into the current generation, behind all that is older. Only that one
// grows, in Pebble, and is small enough to be sorted in few steps; when the next one
// begins its rows are written to a file of their own (see rowFile and build), which
// never changes, and disappears as a whole once all of it has been deleted. A key that
// is written to again joins the current generation, and so does in the end what is left
// of generations that have few keys (see move).
//
// Which generation a key is in is known in memory alone, by its hash. To have that at
// once after a start, a row file has the hashes of its keys.
//
// In Pebble's own keys:
//
//	below 'o'                a key that is in no generation: those are few, or in order
//	'x' number reference     a row of the generation's file that has been deleted, and its size
//	'y' number               which file the rows of a generation are in, sealed (see appendValue)
//	'z' number key           a key of a generation that has no file
const (
	firstAged      = tableResource
	tableTombstone = 'x'
	tableFiled     = 'y'
	tableAged      = 'z'
	agedPrefix     = 1 + 4 // table and number
)

func inGeneration(key []byte) bool { return len(key) > 0 && key[0] >= firstAged }

// generations knows which keys are stored, and where. It says where by hashes: it may
// name a generation that does not have a key, but never leaves out one that does.
type generations struct {
	mu    sync.RWMutex
	index hashIndex // tags are the low bytes of numbers
	byTag [256][]*generation
	// Ascending; the last is the current one.
	all    []*generation
	moves  uint64       // goes up before and after each batch that moves keys
	doomed []*rowFile   // of generations that have been dropped; the next Sync removes them
	moving sync.RWMutex // held while a batch that moves keys is committed

	// hash is of a logical key; written down, so never to be changed.
	hash func(key []byte) uint64
	// What follows is the writer's alone, as is all of a generation but its number
	// and its file.
	mostKeys, mostBytes, spare int           // see PebbleOptions
	bytes                      int           // about what was written to the current generation
	empty                      []*generation // that are yet to be dropped
}

// generation is some keys of about one age.
type generation struct {
	number uint32
	keys   int // how many it has
	had    int // how many came to it
	// The file that its rows are in, if they are. Before Pebble drops them, it is set.
	file    atomic.Pointer[rowFile]
	dead    int64  // bytes of the keys and values in it that have been deleted
	build   *build // while the file is being written
	noFile  bool   // for it would be too long
	left    left   // to be emptied
	dropped bool
}

func (g *generation) tag() uint8 { return uint8(g.number) }

// current returns the generation that new keys go into.
func (s *generations) current() *generation { return s.all[len(s.all)-1] }

// begin appends a generation, which becomes the current one.
func (s *generations) begin(number uint32) *generation {
	g := &generation{number: number}
	s.all = append(s.all, g)
	s.byTag[g.tag()] = append(s.byTag[g.tag()], g)
	s.bytes = 0
	return g
}

// where appends to found the generations that may have a key of hash h, the newest
// first. If movedSince says no, no other has got it meanwhile.
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
	if len(found) > 1 {
		slices.SortFunc(found, func(a, b *generation) int { return int(b.number) - int(a.number) })
	}
	return found, s.moves
}

// movedSince tells whether keys were moved since where returned moves. While some are it
// waits.
func (s *generations) movedSince(moves uint64) bool {
	s.moving.RLock()
	defer s.moving.RUnlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.moves != moves
}

// snapshot calls take, and returns all the generations that may have keys in what it
// takes. Their files stay open until release is called.
func (s *generations) snapshot(take func()) (all []*generation, release func() error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	take()
	all = slices.Clone(s.all)
	files := filesOf(all)
	for _, f := range files {
		f.acquire()
	}
	return all, func() (err error) {
		for _, f := range files {
			if e := f.release(); err == nil {
				err = e
			}
		}
		return err
	}
}

// files returns the files of all generations. They may be closed at any time, unless the
// caller holds Pebble.files.
func (s *generations) files() []*rowFile {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return filesOf(s.all)
}

// takeDoomed returns the files that are to be removed, whose last owner is the caller.
func (s *generations) takeDoomed() (doomed []*rowFile) {
	s.locked(func() { doomed, s.doomed = s.doomed, nil })
	return doomed
}

// filesOf returns the files of some generations.
func filesOf(some []*generation) (files []*rowFile) {
	for _, g := range some {
		if f := g.file.Load(); f != nil {
			files = append(files, f)
		}
	}
	return files
}

// removal is a key that leaves a generation.
type removal struct {
	key  string
	hash uint64
	place
}

// place is where a key is.
type place struct {
	*generation
	file *rowFile // of the generation, or nil
	slot int      // of its row in the file
	size uint32   // of key and value there, in bytes
}

// changes are what a batch does to the generations: hashes of keys that come to the
// current one and were nowhere, or in another; and keys that go from where they were.
type changes struct {
	victim      *generation // whose keys move to the current one, or nil
	come, moved []uint64
	gone        []removal // all that moved too
	bytes       int       // that are written to the current generation
}

// commit runs write, which commits the batch of them. Before that the index has the
// keys that come, and until after it those that go, so that it never leaves one out.
//
// Who looks for a key that moves may come too early to where it goes and too late to
// where it was, and then finds out by movedSince. A deleted row of a file can be found
// until commit returns, though other writes of the batch are seen already.
func (s *generations) commit(c changes, write func() error) error {
	if len(c.moved) > 0 {
		s.moving.Lock()
		defer s.moving.Unlock()
	}
	s.locked(func() { s.expect(c) })
	if err := write(); err != nil {
		return err
	}
	if len(c.gone) > 0 {
		s.locked(func() { s.remove(c) })
	}
	return nil
}

func (s *generations) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// expect puts the keys that come to the current generation into the index.
func (s *generations) expect(c changes) {
	g := s.current()
	for _, hashes := range [][]uint64{c.come, c.moved} {
		for _, h := range hashes {
			s.index.add(h, g.tag())
		}
		g.keys += len(hashes)
		g.had += len(hashes)
	}
	if len(c.moved) > 0 {
		s.moves++
	}
}

func (s *generations) remove(c changes) {
	for _, k := range c.gone {
		s.index.remove(k.hash, k.tag())
		if k.file != nil {
			k.file.remove(k.slot)
			k.dead += int64(k.size)
		}
		if k.build != nil {
			k.build.tell(k.key)
		}
		if k.keys--; k.keys == 0 && k.generation != s.current() {
			s.empty = append(s.empty, k.generation)
		}
	}
	if len(c.moved) > 0 {
		s.moves++
	}
}

// turn begins the next generation if the current one is full, and, if it may change the
// files, drops those that are empty; b, which the caller commits next, gets what has to
// be written. forget is to be called after that.
func (s *generations) turn(b *pebble.Batch, files bool) (forget func(), err error) {
	if g := s.current(); g.had > 0 && (g.had >= s.mostKeys || s.bytes >= s.mostBytes) {
		if g.keys == 0 {
			s.empty = append(s.empty, g)
		}
		s.locked(func() { s.begin(g.number + 1) })
	}
	if !files {
		return func() {}, nil
	}
	dropped := s.empty
	s.empty = nil
	for _, g := range dropped {
		if err := g.drop(b); err != nil {
			return nil, err
		}
	}
	return func() { s.forget(dropped) }, nil
}

// drop adds to b that there is nothing left of the generation.
func (g *generation) drop(b *pebble.Batch) error {
	g.dropped = true
	for _, table := range []byte{tableTombstone, tableFiled, tableAged} {
		if err := b.DeleteRange(ownKey(table, g.number), ownKey(table, g.number+1), nil); err != nil {
			return err
		}
	}
	return nil
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
	s.doomed = append(s.doomed, filesOf(dropped)...)
}

// ownKey is the beginning of Pebble's own keys that are about a generation.
func ownKey(table byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{table}, number)
}

func agedKey(b []byte, number uint32, key []byte) []byte {
	b = append(b, tableAged)
	b = binary.BigEndian.AppendUint32(b, number)
	return append(b, key...)
}

// numberOf is that of the generation that one of Pebble's own keys is about.
func numberOf(key []byte) uint32 {
	var number [agedPrefix - 1]byte
	copy(number[:], key[1:])
	return binary.BigEndian.Uint32(number[:])
}
