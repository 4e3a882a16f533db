//go:build !wasip1

package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func row(key, value string) [2]string { return [2]string{key, value} }

// makeRows writes a row file of number 7 and returns its content.
func makeRows(t testing.TB, fs vfs.FS, path string, hash func([]byte) uint64, rows ...[2]string) []byte {
	t.Helper()
	w, err := createRows(fs, path, rowsCategory, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := w.add(hash([]byte(r[0])), []byte(r[0]), []byte(r[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.finish(7), w.file.Close()); err != nil {
		t.Fatal(err)
	}
	return content(t, fs, path)
}

func content(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func putFile(t testing.TB, fs vfs.FS, path string, data []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// everything opens a row file and returns all its rows; each of them must be found as well.
func everything(fs vfs.FS, path string) (rows [][2]string, err error) {
	f, err := openRows(fs, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	if f.number != 7 {
		return nil, fmt.Errorf("its number is %d", f.number)
	}
	s := f.scanFrom(nil, allRows)
	for {
		ok, err := s.next()
		if !ok || err != nil {
			if err == nil && len(rows) != f.rows() {
				err = fmt.Errorf("it has %d rows, not %d: %w", len(rows), f.rows(), ErrCorrupt)
			}
			return rows, err
		}
		rows = append(rows, row(string(s.key), string(s.value)))
		h := xxhash.Sum64(s.key)
		value, at, err := f.find(h, s.key)
		if err != nil {
			return rows, err
		}
		if value == nil || !bytes.Equal(value, s.value) || f.ref(at.slot) != s.ref || f.slotOf(h, s.ref) != at.slot ||
			int(at.size) != len(s.key)+len(s.value) {
			return rows, fmt.Errorf("row %q is found as %.20q at %+v: %w", s.key, value, at, ErrCorrupt)
		}
	}
}

func randomRows(rng *rand.Rand, n int) (rows [][2]string) {
	for i := range n {
		length := []int{0, 1, 300, 1000, 2040, 2050}[rng.IntN(6)]
		if i%300 == 7 {
			length = []int{65_535, 65_536, 70_000, 1 << 20}[i/300%4]
		}
		value := make([]byte, length)
		for i := range value {
			value[i] = "ab"[rng.IntN(2)]
		}
		rows = append(rows, row(fmt.Sprintf("r%06d", i*2), string(value)))
	}
	return rows
}

func TestRowsComeBackFromTheirFile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 7, 8, 9, 16, 129, 1100} {
		fs, want := vfs.NewMem(), randomRows(rng, n)
		makeRows(t, fs, "rows", xxhash.Sum64, want...)
		got, err := everything(fs, "rows")
		check(t, err)
		if !slices.Equal(got, want) {
			t.Fatalf("of %d rows %d came back, or others", n, len(got))
		}
		f, err := openRows(fs, "rows")
		check(t, err)
		for range 50 {
			at := rng.IntN(2*n+1) - 1 // every second one is a key
			key := fmt.Appendf(nil, "r%06d", max(at, 0))
			value, _, err := f.find(xxhash.Sum64(key), key)
			check(t, err)
			if stored := max(at, 0)%2 == 0 && max(at, 0) < 2*n; (value != nil) != stored {
				t.Errorf("of %d rows, %s is found: %v, want %v", n, key, value != nil, stored)
			}
			wantScanFrom(t, f, string(key), want)
		}
		wantScanFrom(t, f, "", want)
		wantScanFrom(t, f, "z", want)
		check(t, f.release())
	}
}

// wantScanFrom checks that a scan from a key misses none that is not below it, and begins
// not much before it.
func wantScanFrom(t *testing.T, f *rowFile, from string, rows [][2]string) {
	t.Helper()
	s := f.scanFrom([]byte(from), someRows)
	first, _ := slices.BinarySearchFunc(rows, from, func(r [2]string, from string) int { return strings.Compare(r[0], from) })
	for before := 0; ; before++ {
		ok, err := s.next()
		check(t, err)
		if ok && string(s.key) < from && before < indexBlocks*blockRows {
			continue
		}
		if ok != (first < len(rows)) || ok && string(s.key) != rows[first][0] {
			t.Fatalf("a scan from %q comes to %q after %d others", from, s.key, before)
		}
		return
	}
}

// A row that is longer than others is in a block of its own, and a scan finds its way to
// it without reading others like it.
func TestALongRowHasABlockOfItsOwn(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	fs := vfs.NewMem()
	var rows [][2]string
	for i := range 100 {
		length := 300
		if i%5 == 4 {
			length = 1 << 20
		}
		rows = append(rows, row(fmt.Sprintf("r%03d", i), noise(rng, length)))
	}
	makeRows(t, fs, "rows", xxhash.Sum64, rows...)
	f, err := openRows(fs, "rows")
	check(t, err)
	defer func() { check(t, f.release()) }()
	if got := len(f.blocks) - 1; got != 40 {
		t.Errorf("20 long rows and 80 others are in %d blocks, want 40", got)
	}
	if got := len(f.index); got != 20 {
		t.Errorf("%d of its blocks are in its index, want the first and what is behind each long row but the last", got)
	}
}

func TestADeletedRowIsNotFound(t *testing.T) {
	fs := vfs.NewMem()
	makeRows(t, fs, "rows", fewHashes, row("r0", "a"), row("r1", "b"), row("r3", "c"), row("r6", "d"))
	f, err := readRows(fs, "rows")
	check(t, err)
	defer func() { check(t, f.release()) }()
	check(t, f.fill(func(_ []uint64, refs []uint32) {
		for i, ref := range refs {
			if ref == 0 {
				refs[i] = deadRef
			}
		}
	}))
	find := func(key string) ([]byte, int) {
		value, at, err := f.find(fewHashes([]byte(key)), []byte(key))
		check(t, err)
		return value, at.slot
	}
	if value, _ := find("r0"); value != nil {
		t.Errorf("r0 is %q, though it was said to be deleted", value)
	}
	_, slot := find("r3")
	f.remove(slot)
	for key, want := range map[string]string{"r1": "b", "r3": "", "r6": "d"} {
		if value, _ := find(key); string(value) != want {
			t.Errorf("%s is %q, want %q", key, value, want)
		}
	}
}

func TestRowsThatAreTooLongAreRefused(t *testing.T) {
	fs := vfs.NewMem()
	w, err := createRows(fs, "rows", rowsCategory, 100)
	check(t, err)
	for n := 0; err == nil && n < 10_000; n++ {
		err = w.add(uint64(n), fmt.Append(nil, n), make([]byte, 20))
	}
	if !errors.Is(err, errRowsTooLong) {
		t.Errorf("it says %v", err)
	}
	check(t, w.file.Close())
	w, err = createRows(fs, "rows", rowsCategory, 0)
	check(t, err)
	if err := w.add(1, []byte("k"), make([]byte, longestRow)); !errors.Is(err, errRowsTooLong) {
		t.Errorf("of a row that is too long it says %v", err)
	}
	check(t, w.file.Close())
}

// TestAFlippedBitOfARowFileIsFound flips each bit of a file, which has all there is in one.
func TestAFlippedBitOfARowFileIsFound(t *testing.T) {
	fs := vfs.NewMem()
	data := makeRows(t, fs, "rows", xxhash.Sum64, row("r1", "a value"), row("r2", ""), row("r3", "a value that is longer"))
	for bit := range 8 * len(data) {
		damaged := bytes.Clone(data)
		damaged[bit/8] ^= 1 << (bit % 8)
		putFile(t, fs, "damaged", damaged)
		if rows, err := everything(fs, "damaged"); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with bit %d of byte %d flipped it has rows %q, error %v", bit%8, bit/8, rows, err)
		}
	}
	for size := range data {
		putFile(t, fs, "damaged", data[:size])
		if _, err := everything(fs, "damaged"); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d of %d bytes: error %v", size, len(data), err)
		}
	}
}

// TestGoldenRows freezes the form of a row file: this one will always be read. How a block
// is packed may change with the library.
func TestGoldenRows(t *testing.T) {
	var want [][2]string
	for i := range 20 {
		want = append(want, row(fmt.Sprintf("r%02d", i), strings.Repeat("34", i)))
	}
	fs := vfs.NewMem()
	frozen := frozen(t, "rows", func() []byte { return makeRows(t, fs, "rows", xxhash.Sum64, want...) })
	putFile(t, fs, "rows", frozen)
	got, err := everything(fs, "rows")
	check(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("it has rows %q, want %q", got, want)
	}
}

// FuzzRows opens whatever follows the rows of a file, under a digest that fits, and whatever
// comes before it.
func FuzzRows(f *testing.F) {
	fs := vfs.NewMem()
	data := makeRows(f, fs, "rows", xxhash.Sum64, row("r1", "a value"), row("r2", ""), row("r3", strings.Repeat("long ", 500)))
	end := int(binary.BigEndian.Uint64(data[len(data)-rowsFooter:]))
	f.Add(data[len(rowsMagic):end], data[end:len(data)-rowsFooter])
	f.Add([]byte{}, make([]byte, rowsTailHead))
	// Blocks that seem to begin one behind the other if their numbers wrap around.
	f.Add(make([]byte, 200), append(append(make([]byte, 16), 0, 0, 0, 3, 0, 0, 0, byte(len(rowsMagic)), 0xff, 0xff, 0xff, 0xfc), make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, rows, tail []byte) {
		file := append([]byte(rowsMagic), rows...)
		checked := binary.BigEndian.AppendUint64(bytes.Clone(tail), uint64(len(file)))
		checked = binary.BigEndian.AppendUint64(checked, xxhash.Sum64(checked))
		fs := vfs.NewMem()
		putFile(t, fs, "rows", append(file, checked...))
		opened, err := openRows(fs, "rows")
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("it is refused with %v", err)
			}
			return
		}
		defer func() { check(t, opened.release()) }()
		for _, from := range []string{"", "r2", "z"} {
			s := opened.scanFrom([]byte(from), someRows)
			for ok, err := s.next(); ok || err != nil; ok, err = s.next() {
				if err != nil && !errors.Is(err, ErrCorrupt) {
					t.Errorf("a scan fails with %v", err)
				}
				if err != nil {
					break
				}
				if _, _, err := opened.find(xxhash.Sum64(s.key), s.key); err != nil && !errors.Is(err, ErrCorrupt) {
					t.Errorf("a look-up fails with %v", err)
				}
			}
		}
	})
}
