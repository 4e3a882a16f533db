package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// stores are the implementations that must behave alike.
var stores = map[string]func(t *testing.T) Store{
	"mem": func(*testing.T) Store { return NewMem() },
	"pebble": func(t *testing.T) Store {
		return openPebble(t, t.TempDir(), PebbleOptions{})
	},
	"pebble writing out often": func(t *testing.T) Store {
		return openPebble(t, t.TempDir(), PebbleOptions{MemTableBytes: 64 << 10})
	},
	"pebble with small generations": func(t *testing.T) Store {
		return inTable{openPebble(t, t.TempDir(), PebbleOptions{MemTableBytes: 64 << 10, GenerationKeys: 3}), tableRecord}
	},
	"pebble with files": func(t *testing.T) Store {
		return inTable{openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 3, buildAtOnce: true}), tableRecord}
	},
	"pebble with hashes that collide": func(t *testing.T) Store {
		return inTable{openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 3, hash: fewHashes, buildAtOnce: true}), tableRecord}
	},
}

func openPebble(t *testing.T, dir string, o PebbleOptions) *Pebble {
	t.Helper()
	if o.OnFatal == nil {
		o.OnFatal = func(err error) { t.Errorf("store failed: %v", err) }
	}
	p, err := OpenPebble(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestStoresBehaveAlike(t *testing.T) {
	cases := map[string]func(*testing.T, Store){
		"an absent key is nil":                           testAbsent,
		"an empty value is not nil":                      testEmptyValue,
		"a value of 16 MiB comes back":                   testHugeValue,
		"any byte may be in a key, order is bytewise":    testKeyOrder,
		"slices may be reused after the call":            testReusedSlices,
		"a batch reads its own writes":                   testBatchReadsOwn,
		"a batch is unseen before its commit":            testBatchUnseen,
		"a discarded batch leaves nothing":               testDiscard,
		"a batch's scan merges its writes and the store": testBatchScan,
		"a scan ends where visit says":                   testScanStops,
		"a scan sees one state beside commits":           testScanConsistent,
		"random batches leave what a map would hold":     testAgainstMap,
	}
	for kind, open := range stores {
		for name, test := range cases {
			t.Run(kind+"/"+name, func(t *testing.T) { test(t, open(t)) })
		}
	}
}

func testAbsent(t *testing.T, s Store) {
	wantValue(t, s, "a", nil)
	b := s.Batch()
	defer b.Discard()
	wantValue(t, b, "a", nil)
}

func testEmptyValue(t *testing.T, s Store) {
	b := s.Batch()
	check(t, b.Set([]byte("a"), nil))
	wantValue(t, b, "a", []byte{})
	check(t, b.Commit())
	wantValue(t, s, "a", []byte{})
	wantScan(t, s, "", "z", "a=")
}

func testHugeValue(t *testing.T, s Store) {
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	b := s.Batch()
	check(t, b.Set([]byte("a"), value))
	check(t, b.Set([]byte("b"), []byte("small")))
	check(t, b.Commit())
	check(t, s.Sync())
	wantValue(t, s, "a", value)
	wantValue(t, s, "b", []byte("small"))
}

func testKeyOrder(t *testing.T, s Store) {
	b := s.Batch()
	for _, key := range []string{"b\x00", "\xff\xff", "b", "\x00", "a\xff", "b\x00\x00"} {
		check(t, b.Set([]byte(key), []byte("1")))
	}
	check(t, b.Commit())
	wantScan(t, s, "", "\xff\xff\xff", "\x00=1", "a\xff=1", "b=1", "b\x00=1", "b\x00\x00=1", "\xff\xff=1")
	wantScan(t, s, "b", "b\x00\x00", "b=1", "b\x00=1")
}

func testReusedSlices(t *testing.T, s Store) {
	key, value := []byte("key"), []byte("value")
	b := s.Batch()
	check(t, b.Set(key, value))
	copy(key, "xxx")
	copy(value, "xxxxx")
	got, err := b.Get([]byte("key"))
	check(t, err)
	copy(got, "yyyyy")
	wantValue(t, b, "key", []byte("value"))
	check(t, b.Commit())
	got, err = s.Get([]byte("key"))
	check(t, err)
	copy(got, "yyyyy")
	wantValue(t, s, "key", []byte("value"))
}

func testBatchReadsOwn(t *testing.T, s Store) {
	fill(t, s, "a", "old", "b", "old")
	b := s.Batch()
	defer b.Discard()
	check(t, b.Set([]byte("a"), []byte("new")))
	check(t, b.Delete([]byte("b")))
	check(t, b.Set([]byte("c"), []byte("new")))
	check(t, b.Delete([]byte("c")))
	check(t, b.Delete([]byte("never there")))
	wantValue(t, b, "a", []byte("new"))
	wantValue(t, b, "b", nil)
	wantValue(t, b, "c", nil)
	wantScan(t, b, "", "z", "a=new")
}

func testBatchUnseen(t *testing.T, s Store) {
	fill(t, s, "a", "old")
	b := s.Batch()
	check(t, b.Set([]byte("a"), []byte("new")))
	check(t, b.Set([]byte("b"), []byte("new")))
	wantScan(t, s, "", "z", "a=old")
	check(t, b.Commit())
	b.Discard() // does nothing now
	wantScan(t, s, "", "z", "a=new", "b=new")
}

func testDiscard(t *testing.T, s Store) {
	fill(t, s, "a", "old")
	b := s.Batch()
	check(t, b.Set([]byte("a"), []byte("new")))
	check(t, b.Delete([]byte("a")))
	b.Discard()
	check(t, s.Batch().Commit())
	wantScan(t, s, "", "z", "a=old")
}

func testBatchScan(t *testing.T, s Store) {
	fill(t, s, "b", "1", "d", "1", "f", "1", "h", "1")
	b := s.Batch()
	defer b.Discard()
	for _, key := range []string{"a", "c", "d", "i", "zz"} {
		check(t, b.Set([]byte(key), []byte("2")))
	}
	check(t, b.Delete([]byte("f")))
	check(t, b.Delete([]byte("g")))
	wantScan(t, b, "", "z", "a=2", "b=1", "c=2", "d=2", "h=1", "i=2")
	wantScan(t, b, "b", "d", "b=1", "c=2")
	wantScan(t, b, "e", "h")
	wantScan(t, b, "i", "j", "i=2")
}

func testScanStops(t *testing.T, s Store) {
	fill(t, s, "b", "1", "d", "1")
	b := s.Batch()
	defer b.Discard()
	check(t, b.Set([]byte("a"), []byte("2")))
	check(t, b.Set([]byte("c"), []byte("2")))
	check(t, b.Set([]byte("e"), []byte("2")))
	for limit := 1; limit <= 5; limit++ {
		var seen []string
		check(t, b.Scan(nil, []byte("z"), func(key, _ []byte) bool {
			seen = append(seen, string(key))
			return len(seen) < limit
		}))
		if want := []string{"a", "b", "c", "d", "e"}[:limit]; !slices.Equal(seen, want) {
			t.Errorf("limit %d: saw %q, want %q", limit, seen, want)
		}
	}
}

// testScanConsistent scans while batches move a token between two keys: a scan
// that mixed two states would see it twice or not at all. Others come between, so that
// the token has grown old when it is moved.
func testScanConsistent(t *testing.T, s Store) {
	fill(t, s, "a", "token")
	moved := make(chan error, 1)
	go func() {
		from, to := "a", "b"
		var err error
		for i := range 2000 {
			b := s.Batch()
			if i%4 > 0 {
				err = errors.Join(err, b.Delete(fmt.Append(nil, "zz", i-10)), b.Set(fmt.Append(nil, "zz", i), []byte("v")), b.Commit())
				continue
			}
			err = errors.Join(err, b.Delete([]byte(from)), b.Set([]byte(to), []byte("token")), b.Commit())
			from, to = to, from
		}
		moved <- err
	}()
	for {
		if got := scan(t, s, "", "z"); len(got) != 1 {
			t.Errorf("the scan saw %q, want one token", got)
		}
		select {
		case err := <-moved:
			check(t, err)
			return
		default:
		}
	}
}

func testAgainstMap(t *testing.T, s Store) {
	rng := rand.New(rand.NewPCG(1, 2))
	model := map[string]string{}
	for range 60 {
		b, draft := s.Batch(), maps.Clone(model)
		for range rng.IntN(40) {
			key := fmt.Sprintf("k%02d", rng.IntN(50))
			if rng.IntN(3) == 0 {
				check(t, b.Delete([]byte(key)))
				delete(draft, key)
			} else {
				value := strings.Repeat("v", rng.IntN(3000))
				check(t, b.Set([]byte(key), []byte(value)))
				draft[key] = value
			}
		}
		wantScan(t, b, "", "z", pairs(draft)...)
		switch rng.IntN(4) {
		case 0:
			b.Discard()
		case 1:
			check(t, s.Sync())
			fallthrough
		default:
			check(t, b.Commit())
			model = draft
		}
		wantScan(t, s, "", "z", pairs(model)...)
	}
}

// TestPebbleCrashLosesOnlyWholeBatchesFromTheEnd crashes the disk after random
// batches, each of which writes its number under three keys far apart, and
// opens what is left.
func TestPebbleCrashLosesOnlyWholeBatchesFromTheEnd(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		disk := vfs.NewCrashableMem()
		s := openPebble(t, "db", PebbleOptions{FS: disk, MemTableBytes: 64 << 10, GenerationKeys: 1 + rng.IntN(99), buildAtOnce: rng.IntN(2) == 0})
		batches, synced := 20+rng.IntN(100), 0
		for n := 1; n <= batches; n++ {
			b := s.Batch()
			number := []byte(fmt.Sprintf("%06d", n))
			for _, key := range []string{"a", "m", "z"} {
				check(t, b.Set([]byte(key), number))
				check(t, b.Set(append([]byte(key), number...), make([]byte, rng.IntN(2000))))
			}
			check(t, b.Commit())
			if rng.IntN(20) == 0 {
				check(t, s.Sync())
				synced = n
			}
		}
		after := disk.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: rng.IntN(2) * 50,
			RNG:                 rand.New(rand.NewPCG(seed, 1)),
		})
		left := openPebble(t, "db", PebbleOptions{FS: after})
		last := 0
		if got := scan(t, left, "a", "a\x00"); len(got) == 1 {
			_, err := fmt.Sscanf(got[0], "a=%d", &last)
			check(t, err)
		}
		if last < synced {
			t.Errorf("seed %d: batch %d is the last one left, but %d was synced", seed, last, synced)
		}
		for _, key := range []string{"a", "m", "z"} {
			if got := len(scan(t, left, key+"0", key+"9")); got != last {
				t.Errorf("seed %d: %d batches are left under %s, %d by its newest value", seed, got, key, last)
			}
		}
	}
}

func TestPebbleCheckpointIsAStoreOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	s := openPebble(t, filepath.Join(dir, "db"), PebbleOptions{})
	fill(t, s, "a", "1", "b", "1")
	copied := filepath.Join(dir, "copy")
	check(t, s.Checkpoint(copied))
	fill(t, s, "a", "2")
	check(t, s.Sync())
	wantScan(t, openPebble(t, copied, PebbleOptions{ReadOnly: true}), "", "z", "a=1", "b=1")
	if s.Checkpoint(copied) == nil {
		t.Error("a checkpoint went over an existing directory")
	}
	if s.Size() == 0 {
		t.Error("a store with data on disk has the size 0")
	}
}

func TestPebbleFilesAreTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	s := openPebble(t, filepath.Join(dir, "db"), PebbleOptions{})
	fill(t, s, "a", "1")
	check(t, s.Checkpoint(filepath.Join(dir, "copy")))
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		check(t, err)
		info, err := d.Info()
		check(t, err)
		if path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	}))
}

func TestPebbleReportsACorruptTable(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenPebble(dir, PebbleOptions{})
	check(t, err)
	value := strings.Repeat("a stored response ", 100)
	fill(t, s, "a", value)
	check(t, s.Sync())
	check(t, s.Close())
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	check(t, err)
	if len(tables) != 1 {
		t.Fatalf("tables: %q, want one", tables)
	}
	data, err := os.ReadFile(tables[0])
	check(t, err)
	data[100] ^= 1 // within the only data block
	check(t, os.WriteFile(tables[0], data, 0o600))

	var fatal []error
	s, err = OpenPebble(dir, PebbleOptions{OnFatal: func(err error) { fatal = append(fatal, err) }})
	check(t, err)
	if got, err := s.Get([]byte("a")); err == nil || got != nil || !pebble.IsCorruptionError(err) {
		t.Errorf("get from a corrupt table: %d bytes, error %v", len(got), err)
	}
	if err := s.Scan(nil, nil, func(_, _ []byte) bool { return true }); err == nil {
		t.Error("a scan over a corrupt table found nothing wrong")
	}
	check(t, s.Close())
	if len(fatal) != 1 {
		t.Errorf("fatal reports: %v, want one", fatal)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, s Store, keysAndValues ...string) {
	t.Helper()
	b := s.Batch()
	for i := 0; i < len(keysAndValues); i += 2 {
		check(t, b.Set([]byte(keysAndValues[i]), []byte(keysAndValues[i+1])))
	}
	check(t, b.Commit())
}

// reader is what a Store and a Batch have in common.
type reader interface {
	Get(key []byte) ([]byte, error)
	Scan(from, to []byte, visit func(key, value []byte) bool) error
}

func wantValue(t *testing.T, r reader, key string, want []byte) {
	t.Helper()
	got, err := r.Get([]byte(key))
	check(t, err)
	if (got == nil) != (want == nil) || !bytes.Equal(got, want) {
		t.Errorf("%s is %.40q, want %.40q", key, got, want)
	}
}

func wantScan(t *testing.T, r reader, from, to string, want ...string) {
	t.Helper()
	if got := scan(t, r, from, to); !slices.Equal(got, want) {
		t.Errorf("scan [%q, %q) is %.400q, want %.400q", from, to, got, want)
	}
}

func scan(t *testing.T, r reader, from, to string) (found []string) {
	t.Helper()
	check(t, r.Scan([]byte(from), []byte(to), func(key, value []byte) bool {
		found = append(found, string(key)+"="+string(value))
		return true
	}))
	return found
}

func pairs(m map[string]string) (sorted []string) {
	for key, value := range m {
		sorted = append(sorted, key+"="+value)
	}
	slices.Sort(sorted)
	return sorted
}

// TestPebbleKeepsWhatItReads fills memtables to their full size, which Pebble
// takes from the cache, and reads what has been written out.
func TestPebbleKeepsWhatItReads(t *testing.T) {
	s := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem()})
	value := make([]byte, 256<<10)
	for n := range 640 { // 160 MiB
		b := s.Batch()
		check(t, b.Set(fmt.Appendf(nil, "%06d", n), value))
		check(t, b.Commit())
	}
	check(t, s.Sync())
	for range 2 {
		for n := range 8 {
			if got, err := s.Get(fmt.Appendf(nil, "%06d", n)); err != nil || len(got) != len(value) {
				t.Fatalf("read %d bytes, error %v", len(got), err)
			}
		}
	}
	if m := s.Metrics().BlockCache; m.Size == 0 || m.Hits == 0 {
		t.Errorf("the cache holds %d bytes and was hit %d times: the memtables have all of it", m.Size, m.Hits)
	}
}
