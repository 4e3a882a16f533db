//go:build !wasip1

package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// load makes the generations of what is stored.
func (s *generations) load(db *pebble.DB) (err error) {
	// Hashes do not compress, and all that there is in a store that opens is in its files.
	size, err := db.EstimateDiskUsage([]byte{tableSeal}, []byte{tableAged})
	if err != nil {
		return err
	}
	s.index.reserve(int(size / 8))
	own, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{firstAged}, UpperBound: []byte{tableAged}})
	if err != nil {
		return err
	}
	defer closeAfter(own, &err)
	keys, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableAged}})
	if err != nil {
		return err
	}
	defer closeAfter(keys, &err)

	counts := map[uint32]int{}
	next := uint32(1)
	for ok := own.First(); ok; ok = own.Next() {
		number, payload, err := openOwn(own)
		if err != nil {
			return err
		}
		if own.Key()[0] == tableCount {
			if len(payload) != 4 {
				return corrupt(own.Key(), "a count is too long or too short")
			}
			counts[number] = int(binary.BigEndian.Uint32(payload))
			continue
		}
		count, ok := counts[number]
		if !ok {
			return corrupt(own.Key(), "the count of its generation is missing")
		}
		delete(counts, number)
		if err := s.loadSealed(number, count, payload, keys, next); err != nil {
			return err
		}
		next = number + 1
	}
	if err := own.Error(); err != nil {
		return err
	}
	if len(counts) > 0 {
		return corrupt([]byte{tableCount}, "the hashes of a generation that is counted are missing")
	}
	return s.loadCurrent(next, keys)
}

// openOwn returns what is written down of which generation.
func openOwn(own *pebble.Iterator) (number uint32, payload []byte, err error) {
	key := own.Key()
	if len(key) != agedPrefix || key[0] != tableSeal && key[0] != tableCount {
		return 0, nil, fmt.Errorf("it was written by another version: there is a key in table %q", key[:1])
	}
	value, err := own.ValueAndErr()
	if err != nil {
		return 0, nil, err
	}
	payload, err = openPayload(key, value)
	return ageOf(key), payload, err
}

// loadSealed begins a generation with what was written down of it. keys are those of all generations; none
// may be of one between next and number.
func (s *generations) loadSealed(number uint32, count int, hashes []byte, keys *pebble.Iterator, next uint32) error {
	if len(hashes)%8 != 0 {
		return corrupt(sealKey(number), "it has part of a hash")
	}
	g := s.begin(number)
	g.had = len(hashes) / 8
	stored := keys.SeekGE(agedKey(nil, next, nil))
	if err := keys.Error(); err != nil {
		return err
	}
	if stored && ageOf(keys.Key()) < number {
		return corrupt(keys.Key(), "the hashes of its generation are missing")
	}
	stored = stored && ageOf(keys.Key()) == number
	if stored != (count > 0) || count > g.had {
		return corrupt(countKey(number), "it is not how many keys the generation has")
	}
	if count == 0 {
		s.empty = append(s.empty, g)
		return nil
	}
	// Some of them may be of keys that are gone. Each costs its bytes of memory, until
	// the generation is gone too and the node starts again.
	for ; len(hashes) > 0; hashes = hashes[8:] {
		s.index.add(binary.BigEndian.Uint64(hashes), g.tag())
	}
	g.keys = count
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
		value := keys.LazyValue()
		s.bytes += len(keys.Key()) + value.Len()
	}
	s.add(hashes)
	return keys.Error()
}

// closeAfter closes it; an iterator that met an error says so then.
func closeAfter(it *pebble.Iterator, err *error) {
	if e := it.Close(); e != nil && *err == nil {
		*err = e
	}
}
