package fsm

import (
	"math/rand/v2"
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

func TestHashSetHoldsWhatACountOfEachHolds(t *testing.T) {
	var set hashSet
	counts := map[uint64]int{} // by what the set tells apart
	tell := func(h uint64) uint64 {
		_, _, both := set.place(h)
		return both
	}
	for round, h := range someHashes(50_000) {
		if counts[tell(h)] > 0 && rand.IntN(2) == 0 {
			set.remove(h)
			counts[tell(h)]--
		} else if round%7 != 0 || counts[tell(h)] > 0 {
			set.add(h)
			counts[tell(h)]++
		}
		for _, other := range someHashes(4) {
			if got, want := set.has(other), counts[tell(other)] > 0; got != want {
				t.Fatalf("round %d: has %x: %v, want %v", round, other, got, want)
			}
		}
	}
	for both, n := range counts {
		for range n {
			set.remove(both>>32<<(64-hashShardBits) | both&0xffffffff)
		}
	}
	for i := range set.shards {
		if set.shards[i].used != 0 {
			t.Errorf("table %d still holds %d", i, set.shards[i].used)
		}
	}
	if len(set.more) != 0 {
		t.Errorf("%d counts are left over", len(set.more))
	}
}

func TestHashSetGrows(t *testing.T) {
	var set hashSet
	hashes := make([]uint64, 200_000)
	for i := range hashes {
		hashes[i] = rand.Uint64()
		set.add(hashes[i])
	}
	for _, h := range hashes {
		if !set.has(h) {
			t.Fatalf("%x is lost", h)
		}
	}
	slots := 0
	for i := range set.shards {
		slots += len(set.shards[i].slots)
	}
	if most := len(hashes) * 8 / 3; slots > most {
		t.Errorf("%d slots for %d hashes, want at most %d", slots, len(hashes), most)
	}
}

func TestHashSetWithoutAnything(t *testing.T) {
	var set hashSet
	set.remove(7)
	if set.has(7) || set.has(0) {
		t.Error("an empty set has something")
	}
	set.add(0) // a mark of its own, as 0 is a free slot
	if !set.has(0) {
		t.Error("0 is not in it")
	}
	set.remove(0)
	if set.has(0) {
		t.Error("0 is still in it")
	}
}
