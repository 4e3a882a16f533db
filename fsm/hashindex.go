package fsm

import "encoding/binary"

const (
	// hashShards is how many tables an index of hashes has. They grow one by one,
	// so that none of its writes waits long.
	hashShards    = 1 << hashShardBits
	hashShardBits = 12
	// fewestSlots is the size of a table that has something in it.
	fewestSlots = 8
	// slotSize is what a slot takes: 4 bytes of the hash, and the tag.
	slotSize = 4 + 1
)

// hashIndex has tags under hashes, of which it tells 44 bits apart: as many as
// were added, the same ones too. That takes 7 to 13 bytes each, and nothing that
// the garbage collector would have to follow. The zero value is empty.
type hashIndex struct{ shards [hashShards]hashShard }

// hashShard is an open-addressed table with linear probing, whose size is a
// power of two. The mark in a free slot is 0.
type hashShard struct {
	slots []byte
	used  int
}

// place returns the table of h and what it is there.
func (x *hashIndex) place(h uint64) (t *hashShard, mark uint32) {
	return &x.shards[h>>(64-hashShardBits)], max(uint32(h), 1)
}

// reserve makes room for about n more, so that the tables need not grow one step after the other.
func (x *hashIndex) reserve(n int) {
	for i := range x.shards {
		t := &x.shards[i]
		for (t.used+n/hashShards)*4 > t.size()*3 {
			t.grow()
		}
	}
}

// find appends the tags under h to tags.
func (x *hashIndex) find(tags []uint8, h uint64) []uint8 {
	t, mark := x.place(h)
	if t.used == 0 {
		return tags
	}
	for at := t.home(mark); t.mark(at) != 0; at = t.next(at) {
		if t.mark(at) == mark {
			tags = append(tags, t.tag(at))
		}
	}
	return tags
}

func (x *hashIndex) add(h uint64, tag uint8) {
	t, mark := x.place(h)
	if (t.used+1)*4 > t.size()*3 {
		t.grow()
	}
	t.add(mark, tag)
}

// addAll adds a tag under each hash.
func (x *hashIndex) addAll(hashes []uint64, tag uint8) {
	x.touch(hashes)
	for _, h := range hashes {
		x.add(h, tag)
	}
}

// touch has the processor fetch where the hashes are at home, all at the same time: one by
// one they would be waited for.
//
//go:noinline
func (x *hashIndex) touch(hashes []uint64) (sum byte) {
	for _, h := range hashes {
		t, mark := x.place(h)
		if len(t.slots) > 0 {
			sum += t.tag(t.home(mark))
		}
	}
	return sum
}

// remove takes one of those away that were added; there must be one.
func (x *hashIndex) remove(h uint64, tag uint8) {
	t, mark := x.place(h)
	if t.used == 0 {
		return
	}
	for at := t.home(mark); t.mark(at) != 0; at = t.next(at) {
		if t.mark(at) == mark && t.tag(at) == tag {
			t.clear(at)
			return
		}
	}
}

func (t *hashShard) size() int            { return len(t.slots) / slotSize }
func (t *hashShard) home(mark uint32) int { return int(mark) & (t.size() - 1) }
func (t *hashShard) next(at int) int      { return (at + 1) & (t.size() - 1) }
func (t *hashShard) mark(at int) uint32   { return binary.LittleEndian.Uint32(t.slots[at*slotSize:]) }
func (t *hashShard) tag(at int) uint8     { return t.slots[at*slotSize+4] }

func (t *hashShard) set(at int, mark uint32, tag uint8) {
	binary.LittleEndian.PutUint32(t.slots[at*slotSize:], mark)
	t.slots[at*slotSize+4] = tag
}

// add needs a free slot.
func (t *hashShard) add(mark uint32, tag uint8) {
	at := t.home(mark)
	for t.mark(at) != 0 {
		at = t.next(at)
	}
	t.set(at, mark, tag)
	t.used++
}

func (t *hashShard) grow() {
	old := *t
	*t = hashShard{slots: make([]byte, max(2*old.size(), fewestSlots)*slotSize)}
	for at := range old.size() {
		if mark := old.mark(at); mark != 0 {
			t.add(mark, old.tag(at))
		}
	}
}

// clear frees a slot and closes the gap: what was put further on because of it
// moves up.
func (t *hashShard) clear(gap int) {
	mask := t.size() - 1
	for at := t.next(gap); t.mark(at) != 0; at = t.next(at) {
		// The one here may move to the gap unless its own place is behind it.
		if home := t.home(t.mark(at)); (at-home)&mask >= (at-gap)&mask {
			t.set(gap, t.mark(at), t.tag(at))
			gap = at
		}
	}
	t.set(gap, 0, 0)
	t.used--
}
