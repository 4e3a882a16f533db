package fsm

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pauses counts files that are paced, and the pauses of them.
type pauses struct{ begun, pauses, written atomic.Int64 }

func (p *pauses) begin() func(int64) {
	p.begun.Add(1)
	return func(written int64) {
		p.pauses.Add(1)
		p.written.Store(written)
	}
}

// putMany commits rows of 1 KiB that do not shrink, of numbers from first.
func putMany(t *testing.T, s Store, first, count int) {
	t.Helper()
	value := make([]byte, 1024)
	for n := first; n < first+count; n++ {
		for i := 0; i < len(value); i += 8 { // any that does not repeat
			binary.BigEndian.PutUint64(value[i:], uint64(n*len(value)+i)*0x9e3779b97f4a7c15)
		}
		b := s.Batch()
		check(t, b.Set(binary.BigEndian.AppendUint32([]byte{tableRecord}, uint32(n)), value))
		check(t, b.Commit())
	}
}

func TestBackgroundWorkIsPaced(t *testing.T) {
	var seen pauses
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 200, buildAtOnce: true, Pace: seen.begin})
	var files, before int64
	wants := func(what string) {
		t.Helper()
		if now := seen.pauses.Load(); seen.begun.Load() == files || now-before < 4 || seen.written.Load() < 150<<10 {
			t.Errorf("%s of some 200 KiB paused %d times, in %d files, the last time with %d bytes",
				what, now-before, seen.begun.Load()-files, seen.written.Load())
		}
		files, before = seen.begun.Load(), seen.pauses.Load()
		seen.written.Store(0)
	}
	putMany(t, s, 0, 199)
	if n := seen.begun.Load(); n != 0 {
		t.Fatalf("%d files are paced before there is anything to be written out", n)
	}
	check(t, s.Sync())
	wants("a flush")
	check(t, s.db.Set([]byte{0}, nil, pebble.NoSync))    // two tables that
	check(t, s.db.Set([]byte{0xfe}, nil, pebble.NoSync)) // overlap, or it would be moved
	check(t, s.Sync())
	files, before = seen.begun.Load(), seen.pauses.Load()
	check(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	wants("a compaction")
	putMany(t, s, 199, 2)
	wants("the making of a row file")
}

func TestWhatIsUrgentIsNoLongerPaced(t *testing.T) {
	flushing, goOn := make(chan struct{}), make(chan struct{})
	var begun, paused atomic.Int64
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), MemTableBytes: 512 << 10, Pace: func() func(int64) {
		if begun.Add(1) > 1 {
			return func(int64) { paused.Add(1) }
		}
		return func(int64) {
			if paused.Add(1) == 1 {
				close(flushing)
			}
			<-goOn
		}
	}})
	defer close(goOn)     // before the store is closed
	putMany(t, s, 0, 300) // the first memtable is of 256 KiB
	<-flushing
	before := s.pacing.of(compactionCategory)
	before(urgentEvery)
	if n := paused.Load(); n != 2 {
		t.Fatalf("%d pauses, want one of each of two files", n)
	}
	for n := 300; n < 10_000 && !s.pacing.urgent(); n++ {
		putMany(t, s, n, 1)
	}
	if !s.pacing.urgent() {
		t.Fatalf("with %d memtables that wait it is not urgent", s.Metrics().MemTable.Count)
	}
	before(2 * urgentEvery)
	s.pacing.of(compactionCategory)(politeBytes)
	if begun.Load() != 2 || paused.Load() != 2 {
		t.Errorf("%d files are paced and %d times", begun.Load(), paused.Load())
	}
}

func TestOneGenerationThatWaitsIsPacedAndMoreAreNot(t *testing.T) {
	goOn := make(chan struct{})
	var begun atomic.Int64
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 50, Pace: func() func(int64) {
		begun.Add(1)
		return func(int64) { <-goOn }
	}})
	putMany(t, s, 0, 51)
	first := s.building
	putMany(t, s, 51, 100) // two more generations end meanwhile
	close(goOn)
	<-first.done
	putMany(t, s, 151, 1)
	if s.building == nil || s.building == first {
		t.Fatal("the next file is not being written")
	}
	<-s.building.done
	if n := begun.Load(); n != 1 {
		t.Errorf("%d files were paced, want that of the first generation alone", n)
	}
}

func TestWhoHurriesDoesNotPause(t *testing.T) {
	var seen pauses
	p := pacing{begin: seen.begin}
	pause := p.of(compactionCategory)
	pause(politeBytes)
	p.hurry.Store(true)
	pause(2 * politeBytes)
	if n := seen.pauses.Load(); n != 1 {
		t.Errorf("%d pauses, want the one before", n)
	}
	if p.of(vfs.WriteCategoryUnspecified)(politeBytes); seen.begun.Load() != 1 {
		t.Error("a file of Pebble's own books is paced")
	}
}
