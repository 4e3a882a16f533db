package fsm

const (
	// hashShards is how many tables a set of hashes has. They grow one by one,
	// so that none of its writes waits long.
	hashShards    = 1 << hashShardBits
	hashShardBits = 12
	// fewestSlots is the size of a table that has something in it.
	fewestSlots = 8
)

// hashSet counts hashes: a multiset of the 44 bits by which it tells them apart.
// That takes 5 to 11 bytes a hash, and nothing that the garbage collector
// would have to follow. The zero value is empty.
type hashSet struct {
	shards [hashShards]hashShard
	// more counts, for what more than one has in common, those beyond the first.
	more map[uint64]int
}

// hashShard is an open-addressed table with linear probing, whose size is a
// power of two. A free slot is 0.
type hashShard struct {
	slots []uint32
	used  int
}

// place returns the table of h, what it is there, and what both are together.
func (s *hashSet) place(h uint64) (t *hashShard, mark uint32, both uint64) {
	at := h >> (64 - hashShardBits)
	mark = max(uint32(h), 1)
	return &s.shards[at], mark, at<<32 | uint64(mark)
}

func (s *hashSet) has(h uint64) bool {
	t, mark, _ := s.place(h)
	_, has := t.find(mark)
	return has
}

func (s *hashSet) add(h uint64) {
	t, mark, both := s.place(h)
	if !t.add(mark) {
		if s.more == nil {
			s.more = make(map[uint64]int)
		}
		s.more[both]++
	}
}

// remove takes away one of those that were added.
func (s *hashSet) remove(h uint64) {
	t, mark, both := s.place(h)
	switch n := s.more[both]; {
	case n > 1:
		s.more[both] = n - 1
	case n == 1:
		delete(s.more, both)
	default:
		t.remove(mark)
	}
}

// find returns where mark is, or where it would have to go.
func (t *hashShard) find(mark uint32) (at int, has bool) {
	if t.used == 0 {
		return 0, false
	}
	mask := len(t.slots) - 1
	for at = int(mark) & mask; t.slots[at] != 0; at = (at + 1) & mask {
		if t.slots[at] == mark {
			return at, true
		}
	}
	return at, false
}

// add reports false if mark is there already.
func (t *hashShard) add(mark uint32) bool {
	if (t.used+1)*4 > len(t.slots)*3 {
		t.grow()
	}
	at, has := t.find(mark)
	if has {
		return false
	}
	if t.used == 0 {
		at = int(mark) & (len(t.slots) - 1)
	}
	t.slots[at] = mark
	t.used++
	return true
}

func (t *hashShard) grow() {
	old := t.slots
	t.slots, t.used = make([]uint32, max(2*len(old), fewestSlots)), 0
	for _, mark := range old {
		if mark != 0 {
			t.add(mark)
		}
	}
}

// remove closes the gap: what was put further on because of mark moves up.
func (t *hashShard) remove(mark uint32) {
	gap, has := t.find(mark)
	if !has {
		return
	}
	mask := len(t.slots) - 1
	for at := (gap + 1) & mask; t.slots[at] != 0; at = (at + 1) & mask {
		// The one here may move to the gap unless its own place is behind it.
		if home := int(t.slots[at]) & mask; (at-home)&mask >= (at-gap)&mask {
			t.slots[gap] = t.slots[at]
			gap = at
		}
	}
	t.slots[gap] = 0
	t.used--
}
