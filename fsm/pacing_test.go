package fsm

import (
	"encoding/binary"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pauses counts them, and the bytes of work that they are of, for flushes and for the rest.
type pauses struct {
	kinds         atomic.Int64
	counts, bytes [2]atomic.Int64
}

const flushes, others = 0, 1

func (p *pauses) begin() func(int64) {
	kind := p.kinds.Add(1) - 1
	return func(n int64) {
		p.counts[kind].Add(1)
		p.bytes[kind].Add(n)
	}
}

// since returns a function that tells how many bytes of work of a kind were done since then,
// but for what each of two files may have left.
func (p *pauses) since(kind int) func() int64 {
	before := p.bytes[kind].Load()
	return func() int64 { return p.bytes[kind].Load() - before + 2*politeBytes }
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
	if n := seen.kinds.Load(); n != 2 {
		t.Fatalf("%d kinds of work are paced", n)
	}
	wants := func(what string, got func() int64, want int64) {
		t.Helper()
		if n := got(); n < want {
			t.Errorf("%s is %d bytes of work, want %d", what, n, want)
		}
	}
	flushed := seen.since(flushes)
	putMany(t, s, 0, 199)
	if n := seen.counts[flushes].Load() + seen.counts[others].Load(); n != 0 {
		t.Fatalf("%d pauses before there is anything to be written out", n)
	}
	check(t, s.Sync())
	wants("a flush of 199 KiB", flushed, 190<<10)
	compacted := seen.since(others)
	check(t, s.db.Set([]byte{0}, nil, pebble.NoSync))    // on both sides of the rows: a table
	check(t, s.db.Set([]byte{0xfe}, nil, pebble.NoSync)) // alone would be moved
	check(t, s.Sync())
	check(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	wants("a compaction of 199 KiB, read and written,", compacted, 2*190<<10)
	filed := seen.since(others)
	putMany(t, s, 199, 2)
	wants("the making of a row file of 200 KiB", filed, 190<<10)
}

// TestACompactionThatWritesNothingIsPaced has one read keys that have been deleted.
func TestACompactionThatWritesNothingIsPaced(t *testing.T) {
	var seen pauses
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), Pace: seen.begin})
	putMany(t, s, 0, 199)
	check(t, s.Sync())
	for n := range uint32(199) { // not by a batch, which would read them into the cache
		key := binary.BigEndian.AppendUint32([]byte{tableRecord}, n)
		check(t, s.db.Delete(agedKey(nil, s.ages.current().number, key), pebble.NoSync))
	}
	read := seen.since(others) // the compaction may begin by itself once they are written out
	check(t, s.Sync())
	check(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	if n := read(); n < 190<<10 {
		t.Errorf("it read 199 KiB, of which %d bytes are paced", n)
	}
}

func TestPassingKeysThatHaveGoneIsPaced(t *testing.T) {
	const rows = 1500
	var seen pauses
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: rows, buildAtOnce: true, Pace: seen.begin})
	var pairs, going []string
	for n := range rows {
		pairs = append(pairs, "r"+strconv.Itoa(n), "v")
		going = append(going, "r"+strconv.Itoa(n))
	}
	fill(t, s, pairs...)
	remove(t, s, going[1:]...) // with which the next generation begins
	if n := seen.bytes[others].Load(); n < rows*passWork-politeBytes {
		t.Errorf("%d keys that have gone are %d bytes of work", rows-1, n)
	}
}

// TestWorkOnADirectoryIsPaced has so many rows that sorting them, and finding some that have
// gone, is seen beside the writing of them.
func TestWorkOnADirectoryIsPaced(t *testing.T) {
	const rows, gone = 4000, 1000
	disk := holdRowFiles(t)
	var seen pauses
	s := openPebble(t, "db", PebbleOptions{FS: disk, GenerationKeys: rows, Pace: seen.begin})
	t.Cleanup(disk.release) // before the store is closed
	var pairs, going []string
	for n := range rows {
		pairs = append(pairs, "r"+strconv.Itoa(n), "v")
		going = append(going, "r"+strconv.Itoa(n))
	}
	fill(t, s, pairs...)
	work := seen.since(others)
	fill(t, s, "s", "v")
	<-disk.begun
	remove(t, s, going[:gone]...)
	disk.release()
	f := fileOf(t, s, 1)
	if f == nil {
		t.Fatal("there is no file")
	}
	want := rows*(passWork+sortWork) + gone*findWork + f.size
	if n := work(); n < want {
		t.Errorf("%d bytes of work, want %d", n, want)
	}
}

func TestWhatIsUrgentIsNotPaced(t *testing.T) {
	flushing, goOn := make(chan struct{}), make(chan struct{})
	var kinds, paused atomic.Int64
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), MemTableBytes: 512 << 10, Pace: func() func(int64) {
		if kinds.Add(1) > 1 {
			return func(int64) { paused.Add(1) }
		}
		var first atomic.Bool
		return func(int64) {
			if first.CompareAndSwap(false, true) {
				close(flushing)
			}
			<-goOn
		}
	}})
	defer close(goOn)     // before the store is closed
	putMany(t, s, 0, 300) // the first memtable is of 256 KiB
	<-flushing
	work := s.pacing.of(compactionCategory)
	if work(politeBytes); paused.Load() != 1 {
		t.Fatalf("%d pauses, want one", paused.Load())
	}
	for n := 300; n < 10_000 && !s.pacing.isUrgent(); n++ {
		putMany(t, s, n, 1)
	}
	if !s.pacing.isUrgent() {
		t.Fatalf("with %d memtables that wait it is not urgent", s.Metrics().MemTable.Count)
	}
	work(urgentEvery)
	if work(politeBytes); paused.Load() != 1 {
		t.Errorf("%d pauses, though it is urgent", paused.Load())
	}
}

func TestWhatIsNoLongerUrgentIsPaced(t *testing.T) {
	var seen pauses
	p := newPacing(seen.begin)
	p.other.looked, p.other.urgent = 0, true
	work := p.of(rowsCategory)
	if work(politeBytes); seen.counts[others].Load() != 0 {
		t.Error("a pause, though it is urgent")
	}
	if work(urgentEvery); seen.counts[others].Load() != 1 {
		t.Error("no pause, though it is no longer urgent")
	}
}

func TestOneGenerationThatWaitsIsPacedAndMoreAreNot(t *testing.T) {
	goOn := make(chan struct{})
	var paused atomic.Int64
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 50, Pace: func() func(int64) {
		return func(int64) {
			paused.Add(1)
			<-goOn
		}
	}})
	putMany(t, s, 0, 51)
	first := s.building
	putMany(t, s, 51, 100) // two more generations end meanwhile
	close(goOn)
	<-first.done
	before := paused.Load()
	if before == 0 {
		t.Error("the file of the first generation is not paced")
	}
	putMany(t, s, 151, 1)
	if s.building == nil || s.building == first {
		t.Fatal("the next file is not being written")
	}
	<-s.building.done
	if n := paused.Load(); n != before {
		t.Errorf("%d pauses of the next file, while another waits", n-before)
	}
}

func TestWhoHurriesDoesNotPause(t *testing.T) {
	var seen pauses
	p := newPacing(seen.begin)
	p.of(flushCategory)(politeBytes)
	p.hurry.Store(true)
	p.of(flushCategory)(politeBytes)
	p.of(compactionCategory)(politeBytes)
	if n := seen.counts[flushes].Load() + seen.counts[others].Load(); n != 1 {
		t.Errorf("%d pauses, want the one before", n)
	}
}

// TestALongWriteIsPacedPieceByPiece is of the tail of a row file, some megabytes in one go.
func TestALongWriteIsPacedPieceByPiece(t *testing.T) {
	var counted, most int64
	p := newPacing(func() func(int64) {
		return func(n int64) { counted, most = counted+n, max(most, n) }
	})
	f, err := politeFS{vfs.NewMem(), p}.Create("file", rowsCategory)
	check(t, err)
	_, err = f.Write(make([]byte, 12*pieceBytes))
	check(t, err)
	check(t, f.Close())
	if counted != 12*pieceBytes || most > pieceBytes {
		t.Errorf("%d bytes were counted, up to %d at once", counted, most)
	}
}

func TestOnlyTheBackgroundIsPaced(t *testing.T) {
	var seen pauses
	p := newPacing(seen.begin)
	p.of(vfs.WriteCategoryUnspecified)(politeBytes)
	fs := politeFS{vfs.NewMem(), p}
	to, err := fs.Create("file", vfs.WriteCategoryUnspecified)
	check(t, err)
	_, err = to.Write(make([]byte, 2*politeBytes))
	check(t, err)
	check(t, to.Close())
	from, err := fs.Open("file")
	check(t, err)
	_, err = from.ReadAt(make([]byte, 2*politeBytes), 0)
	check(t, err)
	check(t, from.Close())
	if n := seen.counts[flushes].Load() + seen.counts[others].Load(); n != 0 {
		t.Errorf("%d pauses", n)
	}
}
