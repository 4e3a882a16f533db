package fsm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// dropCached has the kernel drop a file from its memory, of which the next reads stop short.
func dropCached(t *testing.T, file vfs.File) {
	t.Helper()
	check(t, unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// TestWhatIsReadSoonIsTheBeginning reads what is in the kernel's memory not at all, in part
// or as a whole. On some file systems it always is.
func TestWhatIsReadSoonIsTheBeginning(t *testing.T) {
	const page, pages = 4096, 64
	want := []byte(noise(rand.New(rand.NewPCG(23, 24)), pages*page))
	path := filepath.Join(t.TempDir(), "file")
	putFile(t, vfs.Default, path, want)
	file, err := vfs.Default.Open(path)
	check(t, err)
	defer func() { check(t, file.Close()) }()
	none, some := 0, 0
	for offset := page / 2; offset < (pages-8)*page; offset += page {
		dropCached(t, file)
		for _, size := range []int{1000, page, 8 * page, page} {
			b := make([]byte, size)
			n := readSoon(file, b, int64(offset))
			if !bytes.Equal(b[:n], want[offset:offset+n]) {
				t.Fatalf("other than what is at %d was read", offset)
			}
			switch {
			case n == 0:
				none++
			case n < size:
				some++
			}
		}
	}
	t.Logf("of %d reads, %d came to nothing and %d to some", 4*(pages-8), none, some)
}

// TestWhatCannotBeReadSoonIsLeft is of reads for which the other kind has the answer.
func TestWhatCannotBeReadSoonIsLeft(t *testing.T) {
	dir, memory := t.TempDir(), vfs.NewMem()
	for name, fs := range map[string]vfs.FS{"in memory": memory, "on disk": vfs.Default} {
		path := filepath.Join(dir, "file")
		check(t, fs.MkdirAll(dir, 0o700))
		putFile(t, fs, path, []byte("abc"))
		file, err := fs.Open(path)
		check(t, err)
		for _, read := range []struct {
			what   string
			size   int
			offset int64
			most   int
		}{
			{"nothing", 0, 0, 0}, {"behind the end", 2, 3, 0}, {"across the end", 4, 1, 2},
		} {
			if n := readSoon(file, make([]byte, read.size), read.offset); n < 0 || n > read.most {
				t.Errorf("%s: %d bytes of %s were read", name, n, read.what)
			}
		}
		check(t, file.Close())
	}
}

// TestRowsAreReadFromMemoryAndFromDisk has a store on disk whose files are dropped from the
// kernel's memory.
func TestRowsAreReadFromMemoryAndFromDisk(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 400, buildAtOnce: true})
	rng, want := rand.New(rand.NewPCG(25, 26)), map[string]string{}
	for i := range 1000 {
		key := "r" + noise(rng, 12)
		want[key] = noise(rng, []int{10, 300, 3000, 20_000}[i%4])
		fill(t, p, key, want[key])
	}
	files := p.ages.files()
	if len(files) == 0 {
		t.Fatal("there is no file")
	}
	for _, f := range files {
		dropCached(t, f.file)
	}
	for key, value := range want {
		if got, err := p.Get([]byte(key)); err != nil || string(got) != value {
			t.Fatalf("%q is %.20q, want %.20q: %v", key, got, value, err)
		}
	}
}

// TestARowThatWasCutOffIsCorrupt cuts files at each quarter of the row that it reads, whose
// beginning may still be there to be read soon.
func TestARowThatWasCutOffIsCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	value := noise(rand.New(rand.NewPCG(27, 28)), 40_000)
	for quarter := range int64(4) {
		makeRows(t, vfs.Default, path, xxhash.Sum64, row("r0", value))
		f, err := openRows(vfs.Default, path)
		check(t, err)
		check(t, os.Truncate(path, int64(f.blocks[0])+quarter*int64(f.blocks[1]-f.blocks[0])/4))
		if got, _, err := f.find(xxhash.Sum64String("r0"), []byte("r0")); !errors.Is(err, ErrCorrupt) {
			t.Errorf("after %d quarters it is %.20q, %v", quarter, got, err)
		}
		check(t, f.release())
	}
}
