package fsm

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// TestACrashedReplicaGoesOnFromItsLog is the contract on disk: a replica that
// loses, again and again, what it had not written out, and is given its log
// from there on, gives the model's outcomes and ends in the state of one in
// memory that never stopped.
func TestACrashedReplicaGoesOnFromItsLog(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		disk, synced := vfs.NewCrashableMem(), uint64(0)
		last := h.entries[len(h.entries)-1].Index
		for lives := 1; ; lives++ {
			store, err := OpenPebble("db", PebbleOptions{
				FS: disk, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, GenerationKeys: 5, spareGenerations: 1,
				buildAtOnce: rapid.Bool().Draw(rt, "build at once"),
			})
			if err != nil {
				rt.Fatal(err)
			}
			r := &rig{TB: t, store: store}
			r.open()
			if got := r.Meta().AppliedIndex; got < synced {
				rt.Fatalf("in life %d it goes on from entry %d, but %d was synced", lives, got, synced)
			}
			synced = h.live(rt, r, lives < 10)
			ended := r.Meta().AppliedIndex == last
			if ended {
				r.recount()
				if whole := h.replay(rt, t); r.hash() != whole.hash() {
					rt.Fatal("the state is another than in memory")
				}
			}
			disk = disk.CrashClone(vfs.CrashCloneCfg{
				UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50}).Draw(rt, "kept"),
				RNG:                 rand.New(rand.NewPCG(uint64(lives), 0)),
			})
			if err := store.Close(); err != nil {
				rt.Fatal(err)
			}
			if ended {
				break
			}
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// live gives r entries from where it is, to the end if it is not mortal, and
// returns up to which of them all is on disk.
func (h *history) live(t *rapid.T, r *rig, mortal bool) (synced uint64) {
	synced = r.Meta().AppliedIndex
	next := 0
	for next < len(h.entries) && h.entries[next].Index <= synced {
		next++
	}
	for next < len(h.entries) && !(mortal && rapid.IntRange(0, 5).Draw(t, "crash") == 0) {
		from := next
		next = rapid.IntRange(next+1, len(h.entries)).Draw(t, "cut")
		applied, err := r.Apply(h.entries[from:next])
		if err != nil {
			t.Fatal(err)
		}
		for i, outcomes := range applied.Outcomes {
			if h.entries[from+i].Configuration == nil {
				h.compare(t, from+i, outcomes)
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "sync") == 0 {
			if err := r.store.Sync(); err != nil {
				t.Fatal(err)
			}
			synced = h.entries[next-1].Index
		}
	}
	return synced
}
