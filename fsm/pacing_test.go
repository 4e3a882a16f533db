package fsm

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// pauses counts files that are paced, and the pauses of them.
type pauses struct{ begun, pauses atomic.Int64 }

func (p *pauses) begin() func() {
	p.begun.Add(1)
	return func() { p.pauses.Add(1) }
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
	putMany(t, s, 0, 199)
	if n := seen.begun.Load(); n != 0 {
		t.Fatalf("%d files are paced before there is anything to be written out", n)
	}
	check(t, s.Sync())
	if seen.begun.Load() == 0 || seen.pauses.Load() < 4 {
		t.Errorf("a flush of 199 KiB paused %d times, in %d files", seen.pauses.Load(), seen.begun.Load())
	}
	flushed := seen.pauses.Load()
	putMany(t, s, 199, 2)
	if n := seen.pauses.Load() - flushed; n < 4 {
		t.Errorf("the making of a row file of 199 KiB paused %d times", n)
	}
}

func TestWhatIsUrgentIsNotPaced(t *testing.T) {
	flushing, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), MemTableBytes: 256 << 10, Pace: func() func() {
		return func() {
			if once.CompareAndSwap(false, true) {
				close(flushing)
			}
			<-goOn
		}
	}})
	defer close(goOn) // before the store is closed
	n := 0
	for ; !once.Load(); n++ {
		putMany(t, s, n, 1)
	}
	<-flushing
	for ; n < 5000 && !s.pacing.urgent(); n++ {
		putMany(t, s, n, 1)
	}
	if !s.pacing.urgent() {
		t.Fatalf("with %d memtables that wait it is not urgent", s.Metrics().MemTable.Count)
	}
	s.pacing.of(flushCategory)() // and does not wait
}

func TestOneGenerationThatWaitsIsPacedAndMoreAreNot(t *testing.T) {
	goOn := make(chan struct{})
	var begun atomic.Int64
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 100, Pace: func() func() {
		begun.Add(1)
		return func() { <-goOn }
	}})
	putMany(t, s, 0, 101)
	first := s.building
	putMany(t, s, 101, 200) // two more generations end meanwhile
	close(goOn)
	<-first.done
	putMany(t, s, 301, 1)
	if s.building == nil || s.building == first {
		t.Fatal("the next file is not being written")
	}
	<-s.building.done
	if n := begun.Load(); n != 1 {
		t.Errorf("%d files were paced, want that of the first generation alone", n)
	}
}

func TestClosingDoesNotPause(t *testing.T) {
	var seen pauses
	p := pacing{begin: seen.begin}
	giveWay := p.of(compactionCategory)
	giveWay()
	p.closes.Store(true)
	giveWay()
	if n := seen.pauses.Load(); n != 1 {
		t.Errorf("%d pauses, want the one before the store was being closed", n)
	}
	if p.of(vfs.WriteCategoryUnspecified)(); seen.begun.Load() != 1 {
		t.Error("a file of Pebble's own books is paced")
	}
}
