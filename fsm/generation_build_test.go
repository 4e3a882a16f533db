//go:build !wasip1

package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// held is a file system on which making a row file waits.
type held struct {
	vfs.FS
	begun, goOn chan struct{}
	once        sync.Once
}

func holdRowFiles(t *testing.T) *held {
	h := &held{begun: make(chan struct{}, 1), goOn: make(chan struct{})}
	h.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, rowsSuffix) {
			select {
			case h.begun <- struct{}{}:
			case <-h.goOn:
			}
			<-h.goOn
		}
		return nil
	}))
	t.Cleanup(h.release)
	return h
}

func (h *held) release() { h.once.Do(func() { close(h.goOn) }) }

// noise is n bytes that do not compress.
func noise(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Int())
	}
	return string(b)
}

func remove(t *testing.T, s Store, keys ...string) {
	t.Helper()
	b := s.Batch()
	for _, key := range keys {
		check(t, b.Delete([]byte(key)))
	}
	check(t, b.Commit())
}

// fileOf waits until a generation has its file, or has gone.
func fileOf(t *testing.T, p *Pebble, number uint32) *rowFile {
	t.Helper()
	for p.building != nil && p.building.g.number == number {
		<-p.building.done
		fill(t, p, "a", "v") // with which it is installed
	}
	for _, g := range p.ages.all {
		if g.number == number {
			return g.file.Load()
		}
	}
	return nil
}

// TestWhatChangesWhileAFileIsWritten has keys deleted and written to of which the file that
// is being written has an older state.
func TestWhatChangesWhileAFileIsWritten(t *testing.T) {
	for name, hash := range map[string]func([]byte) uint64{"hashes": nil, "hashes that collide": fewHashes} {
		t.Run(name, func(t *testing.T) {
			disk := holdRowFiles(t)
			p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 4, hash: hash})
			check(t, err)
			fill(t, p, "r0", "v", "r1", "v", "r3", "v", "r6", "v")
			fill(t, p, "r2", "v")
			<-disk.begun
			remove(t, p, "r0")
			fill(t, p, "r1", "again")
			remove(t, p, "r1")
			fill(t, p, "r3", "again")
			want := map[string]string{"a": "v", "r2": "v", "r3": "again", "r6": "v"}
			disk.release()
			if f := fileOf(t, p, 1); f == nil || f.rows() != 4 {
				t.Fatal("the first generation has no file, or one that was made later")
			}
			wantAll(t, p, want)
			wantValue(t, p, "r0", nil)
			wantValue(t, p, "r1", nil)
			wantValue(t, p, "r3", []byte("again"))
			if got := under(t, p, tableTombstone); len(got) != 3 {
				t.Errorf("%d rows are marked as deleted, want r0, r1 and r3", len(got))
			}
			check(t, p.Sync())
			check(t, p.Close())
			p, err = OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: true, hash: hash})
			check(t, err)
			wantAll(t, p, want)
			check(t, p.Close())
		})
	}
}

func TestAGenerationThatGoesWhileItsFileIsWritten(t *testing.T) {
	disk := holdRowFiles(t)
	p := openPebble(t, "db", PebbleOptions{FS: disk, GenerationKeys: 2})
	t.Cleanup(disk.release) // before the store is closed
	fill(t, p, "r0", "v", "r1", "v")
	fill(t, p, "r2", "v")
	<-disk.begun
	remove(t, p, "r0", "r1")
	fill(t, p, "a", "v") // with which it is dropped
	disk.release()
	if fileOf(t, p, 1) != nil {
		t.Error("it is still there")
	}
	check(t, p.Sync())
	if left := rowFiles(t, p); len(left) > 0 {
		t.Errorf("files %q are left over", left)
	}
	wantAll(t, p, map[string]string{"a": "v", "r2": "v"})
}

func TestAStoreThatIsClosedWhileAFileIsWritten(t *testing.T) {
	disk := holdRowFiles(t)
	p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 2})
	check(t, err)
	fill(t, p, "r0", "v", "r1", "v")
	fill(t, p, "r2", "v")
	<-disk.begun
	check(t, p.Sync())
	closed := make(chan error)
	b := p.building
	go func() { closed <- p.Close() }()
	for !b.stop.Load() {
		runtime.Gosched()
	}
	disk.release()
	check(t, <-closed)
	if b.err == nil {
		t.Error("it was written to its end")
	}
	p = openPebble(t, "db", PebbleOptions{FS: disk, GenerationKeys: 2, buildAtOnce: true})
	if left := rowFiles(t, p); len(left) > 0 {
		t.Errorf("a part of a file is left over: %q", left)
	}
	want := map[string]string{"r0": "v", "r1": "v", "r2": "v"}
	wantAll(t, p, want)
	fill(t, p, "r2", "v")
	if fileOf(t, p, 1) == nil {
		t.Error("the file is not written after a start")
	}
	wantAll(t, p, want)
}

// TestAFileThatCannotBeMadeEndsTheStore has each step of it fail. What was committed is
// there after a start.
func TestAFileThatCannotBeMadeEndsTheStore(t *testing.T) {
	for name, kind := range map[string]errorfs.OpKind{
		"create": errorfs.OpCreate, "write": errorfs.OpFileWrite, "sync": errorfs.OpFileSyncData,
		"open": errorfs.OpOpen, "stat": errorfs.OpFileStat, "read": errorfs.OpFileReadAt,
	} {
		t.Run(name, func(t *testing.T) {
			var failed atomic.Int64
			disk := vfs.NewMem()
			p, err := OpenPebble("db", PebbleOptions{GenerationKeys: 1, buildAtOnce: true,
				FS: errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if op.Kind != kind || !strings.HasSuffix(op.Path, rowsSuffix) {
						return nil
					}
					failed.Add(1)
					return syscall.ENOSPC
				}))})
			check(t, err)
			fill(t, p, "r0", "v")
			b := p.Batch()
			check(t, b.Set([]byte("r1"), []byte("v")))
			if err := b.Commit(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "write rows of generation 1") {
				t.Errorf("it says %v", err)
			}
			check(t, p.Sync())
			check(t, p.Close())
			if failed.Load() == 0 {
				t.Error("nothing failed")
			}
			p = openPebble(t, "db", PebbleOptions{FS: disk, GenerationKeys: 1, buildAtOnce: true})
			wantAll(t, p, map[string]string{"r0": "v", "r1": "v"})
			if left := rowFiles(t, p); len(left) > 0 {
				t.Errorf("part of a file is left over: %q", left)
			}
		})
	}
}

// TestACopyThatFailsLeavesTheStoreAsItIs has the links of files fail.
func TestACopyThatFailsLeavesTheStoreAsItIs(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && strings.HasSuffix(op.Path, rowsSuffix) && (op.Kind == errorfs.OpLink || op.Kind == errorfs.OpCreate && strings.HasPrefix(op.Path, "copy")) {
			return syscall.ENOSPC
		}
		return nil
	}))
	p := openPebble(t, "db", PebbleOptions{FS: disk, GenerationKeys: 1, buildAtOnce: true})
	fill(t, p, "r0", "v")
	fill(t, p, "r1", "v")
	if err := p.Checkpoint("copy1"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("it says %v", err)
	}
	full.Store(false)
	fill(t, p, "r2", "v") // which has a file installed, for nobody holds them any more
	check(t, p.Checkpoint("copy2"))
	want := map[string]string{"r0": "v", "r1": "v", "r2": "v"}
	wantAll(t, p, want)
	wantAll(t, openPebble(t, "copy2", PebbleOptions{FS: disk, ReadOnly: true}), want)
}

func TestAGenerationThatIsTooLongForAFileHasNone(t *testing.T) {
	p := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 3, buildAtOnce: true, rowsBytes: 1500})
	rng := rand.New(rand.NewPCG(9, 10))
	model := map[string]string{}
	for i := range 4 {
		for n := range 3 {
			key, value := fmt.Sprintf("r%d%d", i, n), noise(rng, 10+1990*(i%2))
			fill(t, p, key, value)
			model[key] = value
		}
	}
	fill(t, p, "rx", "v")
	model["rx"] = "v"
	wantAll(t, p, model)
	if got, want := rowFiles(t, p), []string{rowsName(1), rowsName(3)}; !slices.Equal(got, want) {
		t.Errorf("there are the files %q, want %q", got, want)
	}
	remove(t, p, slices.Collect(maps.Keys(model))...)
	wantAll(t, p, nil)
}

// TestAKeyThatIsWrittenToJoinsTheCurrentGeneration has rows of files stay as they are.
func TestAKeyThatIsWrittenToJoinsTheCurrentGeneration(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		p := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 2, buildAtOnce: atOnce})
		for i := range 9 {
			fill(t, p, fmt.Sprint("r", i), "v")
		}
		fill(t, p, "r0", "again", "r4", "again")
		for _, key := range []string{"r0", "r4"} {
			wantValue(t, p, key, []byte("again"))
			if _, at, err := p.find([]byte(key)); err != nil || at.generation != p.ages.current() {
				t.Errorf("%s is in generation %d of %d, error %v", key, at.number, p.ages.current().number, err)
			}
		}
		wantScan(t, p, "r0", "r2", "r0=again", "r1=v")
	}
}

// TestCopiesBesideChanges makes copies of a store whose files come and go meanwhile. Each batch
// writes its number under some keys, of which those of the last few batches are left.
func TestCopiesBesideChanges(t *testing.T) {
	const left = 40
	disk := vfs.NewMem()
	p := openPebble(t, "db", PebbleOptions{FS: disk, GenerationKeys: 7, MemTableBytes: 64 << 10, spareGenerations: 2})
	at := func(n int) (key string) { return fmt.Sprintf("%06d", n) }
	stop, begun := make(chan struct{}), make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(stop)
	writer.Go(func() {
		for n := 1; ; n++ {
			b := p.Batch()
			var err error
			for _, table := range []string{"o", "r"} {
				err = errors.Join(err, b.Set([]byte(table+at(n)), []byte(at(n))), b.Set([]byte(table+" newest"), []byte(at(n))),
					b.Delete([]byte(table+at(n-left))))
			}
			if err = errors.Join(err, b.Commit()); err != nil {
				t.Errorf("batch %d: %v", n, err)
			}
			if n == left {
				close(begun)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	<-begun
	for n := range 12 {
		dir := fmt.Sprint("copy", n)
		check(t, p.Checkpoint(dir))
		copied, err := OpenPebble(dir, PebbleOptions{FS: disk, ReadOnly: true})
		check(t, err)
		value, err := copied.Get([]byte("o newest"))
		check(t, err)
		newest, err := strconv.Atoi(string(value))
		check(t, err)
		model := map[string]string{"o newest": at(newest), "r newest": at(newest)}
		for i := newest - left + 1; i <= newest; i++ {
			model["o"+at(i)], model["r"+at(i)] = at(i), at(i)
		}
		wantAll(t, copied, model) // which checks hashes and counts
		if got, want := len(rowFiles(t, copied)), len(under(t, copied, tableFiled)); got != want {
			t.Errorf("copy %d has %d files for %d generations", n, got, want)
		}
		check(t, copied.Close())
	}
}

func TestStrayFilesAreRemovedWithAStart(t *testing.T) {
	disk := vfs.NewMem()
	p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 1, buildAtOnce: true})
	check(t, err)
	fill(t, p, "r0", "v")
	fill(t, p, "r1", "v")
	check(t, p.Sync())
	check(t, p.Close())
	putFile(t, disk, disk.PathJoin("db", rowsName(99)), []byte("part of a file"))
	for _, test := range []struct {
		readOnly bool
		want     int
	}{{true, 2}, {false, 1}} {
		p, err := OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: test.readOnly})
		check(t, err)
		if got := len(rowFiles(t, p)); got != test.want {
			t.Errorf("opened with ReadOnly %v, there are %d files, want %d", test.readOnly, got, test.want)
		}
		check(t, p.Close())
	}
}

func TestDamageToWhatIsWrittenOfGenerations(t *testing.T) {
	second := ownKey(tableFiled, 2)
	resealed := func(value []byte) []byte { seal(value, second); return value }
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, p *Pebble, mark []byte)
		says   string
	}{
		{"a bit of a mark flips", func(t *testing.T, p *Pebble, mark []byte) {
			mark[rand.IntN(len(mark))] ^= 1 << rand.IntN(8)
			check(t, p.db.Set(second, mark, pebble.NoSync))
		}, "digest differs"},
		{"part of a mark", func(t *testing.T, p *Pebble, mark []byte) {
			check(t, p.db.Set(second, resealed(mark[:len(mark)-1]), pebble.NoSync))
		}, "too long or too short"},
		{"a mark of another file", func(t *testing.T, p *Pebble, mark []byte) {
			mark[len(mark)-1]++
			check(t, p.db.Set(second, resealed(mark), pebble.NoSync))
		}, "not the file of its generation"},
		{"the file of another generation", func(t *testing.T, p *Pebble, _ []byte) {
			putFile(t, p.fs, p.rowsPath(2), content(t, p.fs, p.rowsPath(3)))
		}, "not the file of its generation"},
		{"no file", func(t *testing.T, p *Pebble, _ []byte) { check(t, p.fs.Remove(p.rowsPath(2))) }, "not exist"},
		{"keys beside a file", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set(agedKey(nil, 2, []byte("rx")), []byte("v"), pebble.NoSync))
		}, "its generation has a file"},
		{"a deleted row that is none", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set(tombstone{ref: 5}.key(2), tombstone{}.value(), pebble.NoSync))
		}, "no row of its generation"},
		{"a deleted row of no file", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set(tombstone{ref: 1}.key(4), tombstone{}.value(), pebble.NoSync))
		}, "its generation has no file"},
		{"a deleted row before all files", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set(tombstone{ref: 1}.key(0), tombstone{}.value(), pebble.NoSync))
		}, "its generation has no file"},
		{"a mark is lost, and rows are marked as deleted", func(t *testing.T, p *Pebble, _ []byte) {
			remove(t, p, "r6")
			check(t, p.db.Delete(second, pebble.NoSync))
		}, "its generation has no file"},
		{"a key of another version", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set([]byte("rns\x00k"), nil, pebble.NoSync))
		}, "another version"},
		{"a deleted row of no size", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set(tombstone{ref: 0}.key(2), nil, pebble.NoSync))
		}, "another version"},
		{"a key in no generation", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set([]byte{tableAged, 1}, nil, pebble.NoSync))
		}, "a key is too short"},
		{"a key that is too short", func(t *testing.T, p *Pebble, _ []byte) {
			check(t, p.db.Set([]byte{tableTombstone, 1}, nil, pebble.NoSync))
		}, "another version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk := &openRowsFS{FS: vfs.NewMem()}
			p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 5, buildAtOnce: true})
			check(t, err)
			for i := range 18 {
				fill(t, p, fmt.Sprint("r", i), "v")
			}
			mark, err := p.get(second)
			check(t, err)
			test.damage(t, p, bytes.Clone(mark))
			check(t, p.Sync())
			check(t, p.Close())
			for _, readOnly := range []bool{true, false} {
				p, err := OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: readOnly})
				if err == nil {
					err = errors.Join(errors.New("it opens"), p.Close())
				}
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("it says %v, want %q", err, test.says)
				}
				if n := disk.open.Load(); n > 0 {
					t.Errorf("%d row files are still open", n)
				}
			}
		})
	}
}

// TestADamagedRowIsFoundWhenItIsRead damages a row; the store opens, for it does not read those.
func TestADamagedRowIsFoundWhenItIsRead(t *testing.T) {
	disk := vfs.NewMem()
	open := func() *Pebble {
		p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 2, buildAtOnce: true})
		check(t, err)
		return p
	}
	p := open()
	fill(t, p, "r0", "v", "r1", "another value")
	fill(t, p, "r2", "v")
	check(t, p.Sync())
	check(t, p.Close())
	path := disk.PathJoin("db", rowsName(1))
	data := content(t, disk, path)
	data[bytes.Index(data, []byte("another"))]++
	putFile(t, disk, path, data)
	p = open()
	defer func() { check(t, p.Close()) }()
	wantValue(t, p, "r2", []byte("v"))
	if value, err := p.Get([]byte("r1")); value != nil || !errors.Is(err, ErrCorrupt) {
		t.Errorf("it is %q, error %v", value, err)
	}
	for name, way := range waysThrough(p) {
		if err := way(func(_, _ []byte) bool { return true }); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestReadersKeepTheFileThatTheyRead drops generations beside scans of them.
func TestReadersKeepTheFileThatTheyRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 2, buildAtOnce: true})
	for round := range 10 {
		fill(t, p, "r0", noise(rng, 3*allRows), "r1", "v")
		fill(t, p, "s", fmt.Sprint(round))
		seen := 0
		check(t, p.Scan([]byte("r"), []byte("s"), func(_, _ []byte) bool {
			if seen++; seen == 1 { // of a file of which not all has been read
				remove(t, p, "r0", "r1")
				fill(t, p, "a", "v")
				check(t, p.Sync())
			}
			return true
		}))
		if seen != 2 {
			t.Fatalf("a scan sees %d of 2 keys that go meanwhile", seen)
		}
		if left := rowFiles(t, p); len(left) > 0 {
			t.Fatalf("%q are left over", left)
		}
	}
}
