package fsm

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// someHashes returns hashes that share a table, and marks, now and then.
func someHashes(n int) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		all[i] = rand.Uint64N(3)<<(64-hashShardBits) | rand.Uint64N(20)<<40 | rand.Uint64N(64)
	}
	return all
}

func TestHashIndexHoldsWhatAMapOfTagsHolds(t *testing.T) {
	var x hashIndex
	type told struct { // what it tells apart
		shard *hashShard
		mark  uint32
	}
	want := map[told][]uint8{}
	tell := func(h uint64) told {
		shard, mark := x.place(h)
		return told{shard, mark}
	}
	left := map[uint8][]uint64{}
	for _, h := range someHashes(50_000) {
		k, tag := tell(h), uint8(rand.IntN(3))
		if i := slices.Index(want[k], tag); i >= 0 && rand.IntN(2) == 0 {
			x.remove(h, tag)
			want[k] = slices.Delete(want[k], i, i+1)
		} else {
			x.add(h, tag)
			want[k] = append(want[k], tag)
			left[tag] = append(left[tag], h)
		}
		for _, other := range someHashes(4) {
			got, want := x.find(nil, other), slices.Sorted(slices.Values(want[tell(other)]))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("under %x: %v, want %v", other, got, want)
			}
		}
	}
	for tag := range maps.Keys(left) {
		for _, h := range left[tag] { // more often than it is there
			x.remove(h, tag)
		}
	}
	for i := range x.shards {
		if x.shards[i].used != 0 {
			t.Errorf("table %d still holds %d", i, x.shards[i].used)
		}
	}
}

func TestHashIndexGrows(t *testing.T) {
	var x hashIndex
	hashes := make([]uint64, 200_000)
	for i := range hashes {
		hashes[i] = rand.Uint64()
		x.add(hashes[i], uint8(i))
	}
	var atOnce hashIndex
	atOnce.addAll(hashes, 7)
	for i, h := range hashes {
		if !slices.Contains(x.find(nil, h), uint8(i)) || !slices.Contains(atOnce.find(nil, h), 7) {
			t.Fatalf("%x is lost", h)
		}
	}
	bytes := 0
	for i := range x.shards {
		bytes += len(x.shards[i].slots)
	}
	if most := len(hashes) * slotSize * 8 / 3; bytes > most {
		t.Errorf("%d bytes for %d hashes, want at most %d", bytes, len(hashes), most)
	}
}

func TestHashIndexWithoutAnything(t *testing.T) {
	var x hashIndex
	x.remove(7, 0)
	if len(x.find(nil, 7))+len(x.find(nil, 0)) > 0 {
		t.Error("an empty index has something")
	}
	x.add(0, 9) // a mark of its own, as 0 is a free slot
	if got := x.find(nil, 0); !slices.Equal(got, []uint8{9}) {
		t.Errorf("under 0: %v", got)
	}
	x.remove(0, 9)
	if len(x.find(nil, 0)) > 0 {
		t.Error("0 is still in it")
	}
}
