//go:build !wasip1

package fsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// inTable is a Store whose keys all are in one table of another.
type inTable struct {
	Store
	table byte
}

func (s inTable) Get(key []byte) ([]byte, error) { return s.Store.Get(s.key(key)) }

func (s inTable) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	return inTableScan(s.Store.Scan, s, from, to, visit)
}

func (s inTable) Batch() Batch { return inTableBatch{s.Store.Batch(), s} }

func (s inTable) key(key []byte) []byte { return append([]byte{s.table}, key...) }

type inTableBatch struct {
	Batch
	inTable
}

func (b inTableBatch) Get(key []byte) ([]byte, error) { return b.Batch.Get(b.key(key)) }

func (b inTableBatch) Set(key, value []byte) error { return b.Batch.Set(b.key(key), value) }

func (b inTableBatch) Delete(key []byte) error { return b.Batch.Delete(b.key(key)) }

func (b inTableBatch) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	return inTableScan(b.Batch.Scan, b.inTable, from, to, visit)
}

func inTableScan(scan func(from, to []byte, visit func(key, value []byte) bool) error, s inTable, from, to []byte, visit func(key, value []byte) bool) error {
	until := []byte{s.table + 1}
	if to != nil {
		until = s.key(to)
	}
	return scan(s.key(from), until, func(key, value []byte) bool { return visit(key[1:], value) })
}

// fewHashes are so few that keys of all generations share them.
func fewHashes(key []byte) uint64 { return uint64(key[len(key)-1]) % 3 }

func TestWhatIsInGenerationsOutlivesReopening(t *testing.T) {
	for name, hash := range map[string]func([]byte) uint64{"hashes": nil, "hashes that collide": fewHashes} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 4))
			disk, model := vfs.NewMem(), map[string]string{}
			for range 25 {
				s, err := OpenPebble("db", PebbleOptions{
					FS: disk, GenerationKeys: 1 + rng.IntN(12), spareGenerations: 1 + rng.IntN(3), MemTableBytes: 64 << 10, hash: hash,
					buildAtOnce: rng.IntN(2) == 0,
				})
				check(t, err)
				wantScan(t, s, "", "z", pairs(model)...)
				for range rng.IntN(15) {
					changeAtRandom(t, rng, s, model, 60, 0.4)
				}
				for key := range 60 {
					key := fmt.Sprintf("r%02d", key)
					value, err := s.Get([]byte(key))
					check(t, err)
					if _, stored := model[key]; stored != (value != nil) || string(value) != model[key] {
						t.Fatalf("key %s: %q, want %q, %v", key, value, model[key], stored)
					}
				}
				wantScan(t, s, "", "z", pairs(model)...)
				check(t, s.Sync())
				check(t, s.Close())
				s, err = OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: true, hash: hash})
				check(t, err)
				wantAll(t, s, model) // which checks hashes and counts
				check(t, s.Close())
			}
		})
	}
}

// waysThrough are the ways to see all that is in s.
func waysThrough(s Store) map[string]func(visit func(key, value []byte) bool) error {
	ways := map[string]func(func(key, value []byte) bool) error{
		"scan": func(visit func(key, value []byte) bool) error { return s.Scan(nil, nil, visit) },
	}
	if w, ok := s.(walker); ok {
		ways["walk"] = w.Walk
	}
	return ways
}

// wantAll goes through s from end to end.
func wantAll(t *testing.T, s Store, model map[string]string) {
	t.Helper()
	for name, way := range waysThrough(s) {
		seen := map[string]bool{}
		check(t, way(func(key, value []byte) bool {
			if want, ok := model[string(key)]; !ok || want != string(value) || seen[string(key)] {
				t.Errorf("%s: %s is %q, want %q, %v; seen before: %v", name, key, value, want, ok, seen[string(key)])
			}
			seen[string(key)] = true
			return true
		}))
		if len(seen) != len(model) {
			t.Errorf("%s: %d keys, want %d", name, len(seen), len(model))
		}
	}
}

func TestAWalkEndsWhereItIsTold(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 2})
	for i := range 3 { // in no generation, and in four
		fill(t, p, fmt.Sprint("d", i), "v", fmt.Sprint("r", i), "v", fmt.Sprint("s", i), "v")
	}
	for limit := 1; limit <= 9; limit++ {
		n := 0
		check(t, p.Walk(func(_, _ []byte) bool { n++; return n < limit }))
		if n != limit {
			t.Errorf("it saw %d keys, want %d", n, limit)
		}
	}
}

// changeAtRandom commits a batch of writes of some of so many keys, in s as in model, of which
// a part are deletions.
func changeAtRandom(t *testing.T, rng *rand.Rand, s Store, model map[string]string, keys int, deletions float64) {
	t.Helper()
	b := s.Batch()
	for range rng.IntN(20) {
		key := fmt.Sprintf("r%02d", rng.IntN(keys))
		if rng.Float64() < deletions {
			check(t, b.Delete([]byte(key)))
			delete(model, key)
		} else {
			value := strings.Repeat("v", rng.IntN(2000))
			check(t, b.Set([]byte(key), []byte(value)))
			model[key] = value
		}
		if rng.IntN(3) == 0 {
			_, err := b.Get([]byte(key))
			check(t, err)
		}
	}
	check(t, b.Commit())
}

// under returns Pebble's own keys in a table.
func under(t *testing.T, p *Pebble, table byte) (keys []string) {
	t.Helper()
	_, err := scanRange(p.db, []byte{table}, []byte{table + 1}, func(key, _ []byte) bool {
		keys = append(keys, string(key))
		return true
	})
	check(t, err)
	return keys
}

func TestGenerationsEndWithTheirLastKey(t *testing.T) {
	const keys, together = 100, 10
	disk := vfs.NewMem()
	open := func() *Pebble {
		p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: together, buildAtOnce: true})
		check(t, err)
		return p
	}
	p := open()
	for i := range keys {
		fill(t, p, fmt.Sprintf("r%03d", i), "v")
	}
	if got := len(p.ages.all); got != keys/together {
		t.Fatalf("%d generations of %d keys for %d", got, together, keys)
	}
	remove := func(from, to int) {
		for i := from; i < to; i++ {
			b := p.Batch()
			check(t, b.Delete(fmt.Appendf(nil, "r%03d", i)))
			check(t, b.Commit())
		}
		fill(t, p, "a", "v") // what was emptied is dropped with the batch that follows
	}
	remove(0, 45)
	if got := len(p.ages.all); got != 7 {
		t.Errorf("%d generations are left, want six with keys and the current one", got)
	}
	check(t, p.Sync())
	check(t, p.Close())
	p = open()
	remove(45, 50) // of a generation whose file has all ten
	remove(50, 60)
	check(t, p.Sync())
	check(t, p.Close())
	p = open()
	defer func() { check(t, p.Close()) }()
	fill(t, p, "a", "v")
	if got := len(p.ages.all); got != 5 {
		t.Errorf("%d generations are left, want four with keys and the current one", got)
	}
	remove(60, keys)
	if got := len(p.ages.all); got != 1 {
		t.Errorf("%d generations are left, want the current one", got)
	}
	if left := slices.Concat(under(t, p, tableAged), under(t, p, tableFiled), under(t, p, tableTombstone)); len(left) > 0 {
		t.Errorf("%q are left over", left)
	}
	check(t, p.Sync())
	if left := rowFiles(t, p); len(left) > 0 {
		t.Errorf("files %q are left over", left)
	}
	for i := range p.ages.index.shards {
		if p.ages.index.shards[i].used > 0 {
			t.Fatal("hashes are left over")
		}
	}
}

// rowFiles returns the names of the files that generations have or had.
func rowFiles(t *testing.T, p *Pebble) (names []string) {
	t.Helper()
	all, err := p.fs.List(p.dir)
	check(t, err)
	for _, name := range all {
		if strings.HasSuffix(name, rowsSuffix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestAStoreOpensAfterEachBatch deletes nearly all that it makes, so that the generations that
// are left are often the current one alone.
func TestAStoreOpensAfterEachBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	disk, model := vfs.NewMem(), map[string]string{}
	for i := range 300 {
		p, err := OpenPebble("db", PebbleOptions{
			FS: disk, GenerationKeys: 1 + rng.IntN(4), spareGenerations: 1 + rng.IntN(3), buildAtOnce: rng.IntN(2) == 0,
		})
		if err != nil {
			t.Fatalf("after %d batches: %v", i, err)
		}
		changeAtRandom(t, rng, p, model, 20, 0.8)
		check(t, p.Sync())
		check(t, p.Close())
		p, err = OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: true})
		if err != nil {
			t.Fatalf("after %d batches: %v", i+1, err)
		}
		wantAll(t, p, model)
		check(t, p.Close())
	}
}

// TestALargeValueFillsAGeneration bounds what is sorted in the current one, and read at a start.
func TestALargeValueFillsAGeneration(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationBytes: 1000})
	for i := range 10 {
		fill(t, p, fmt.Sprint("r", i), "small")
	}
	if got := len(p.ages.all); got != 1 {
		t.Errorf("10 small values are in %d generations", got)
	}
	for i := range 10 {
		fill(t, p, fmt.Sprint("rl", i), strings.Repeat("v", 1000))
	}
	if got := len(p.ages.all); got != 10 {
		t.Errorf("10 large values are in %d generations, want one each", got)
	}
	fill(t, p, "rl9", strings.Repeat("w", 1000)) // which is in the current one
	fill(t, p, "r", "v")
	if got := len(p.ages.all); got != 11 {
		t.Errorf("after a large value was replaced there are %d generations, want 11", got)
	}
}

// TestGoldenGenerations freezes how Pebble's own keys and values are made of the store's.
func TestGoldenGenerations(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 3})
	fill(t, p, "d", "due", "ra", "1")
	fill(t, p, "oa", "2")
	fill(t, p, "ub", "3")
	var all []byte
	show := func(key, value []byte) bool {
		all = append(append(append(append(all, key...), '='), value...), '\n')
		return true
	}
	_, err := scanRange(p.db, nil, nil, show)
	check(t, err)
	gone := tombstone{300, 400}
	show(gone.key(7), gone.value())
	filed := fileMark{number: 7, rows: 300, had: 400, digest: 1 << 62}
	show(filed.key(), filed.value())
	golden(t, "generations", all)
}
