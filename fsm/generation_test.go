//go:build !wasip1

package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
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
		p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: together})
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
	remove(45, 50) // of a generation whose seal has all ten
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
	if got := len(p.ages.all); got != 2 {
		t.Errorf("%d generations are left, want the current one and the one before", got)
	}
	before := p.ages.all[0].number
	want := []string{string(sealKey(before)), string(countKey(before))}
	if left := slices.Concat(under(t, p, tableAged), under(t, p, tableSeal), under(t, p, tableCount)); !slices.Equal(left, want) {
		t.Errorf("%q are left over, want %q", left, want)
	}
	for i := range p.ages.index.shards {
		if p.ages.index.shards[i].used > 0 {
			t.Fatal("hashes are left over")
		}
	}
}

// TestAStoreOpensAfterEachBatch deletes nearly all that it makes, so that the generations that
// are left are often the current one alone.
func TestAStoreOpensAfterEachBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	disk, model := vfs.NewMem(), map[string]string{}
	for i := range 300 {
		p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 1 + rng.IntN(4), spareGenerations: 1 + rng.IntN(3)})
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
	fill(t, p, "rl9", strings.Repeat("w", 1000), "rl8", "w") // of which the first is in the current one
	fill(t, p, "r", "v")
	if got := len(p.ages.all); got != 11 {
		t.Errorf("after a large value was replaced there are %d generations, want 11", got)
	}
}

func TestAKeyStaysInItsGeneration(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 2})
	for i := range 9 {
		fill(t, p, fmt.Sprint("r", i), "v")
	}
	fill(t, p, "r0", "again", "r4", "again")
	if got := len(under(t, p, tableAged)); got != 9 {
		t.Errorf("9 keys are stored %d times", got)
	}
	wantValue(t, p, "r0", []byte("again"))
}

func TestDamageToWhatIsWrittenOfGenerations(t *testing.T) {
	second := sealKey(2)
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, db *pebble.DB, value []byte)
		says   string
	}{
		{"a bit of it flips", func(t *testing.T, db *pebble.DB, value []byte) {
			value[rand.IntN(len(value))] ^= 1 << rand.IntN(8)
			check(t, db.Set(second, value, pebble.NoSync))
		}, "digest differs"},
		{"part of a hash", func(t *testing.T, db *pebble.DB, value []byte) {
			value = value[:len(value)-1]
			seal(value, second)
			check(t, db.Set(second, value, pebble.NoSync))
		}, "part of a hash"},
		{"it is lost", func(t *testing.T, db *pebble.DB, _ []byte) { check(t, db.Delete(second, pebble.NoSync)) }, "hashes of its generation are missing"},
		{"the last is lost", func(t *testing.T, db *pebble.DB, _ []byte) { check(t, db.Delete(sealKey(3), pebble.NoSync)) }, "hashes of a generation that is counted are missing"},
		{"the last is lost with its count", func(t *testing.T, db *pebble.DB, _ []byte) {
			check(t, db.Delete(sealKey(3), pebble.NoSync))
			check(t, db.Delete(countKey(3), pebble.NoSync))
		}, "hashes of the generation before are missing"},
		{"the count is lost", func(t *testing.T, db *pebble.DB, _ []byte) { check(t, db.Delete(countKey(2), pebble.NoSync)) }, "count of its generation is missing"},
		{"a bit of the count flips", func(t *testing.T, db *pebble.DB, _ []byte) {
			value := sealCount(2, 5)
			value[rand.IntN(len(value))] ^= 1 << rand.IntN(8)
			check(t, db.Set(countKey(2), value, pebble.NoSync))
		}, "digest differs"},
		{"part of a count", func(t *testing.T, db *pebble.DB, _ []byte) {
			value := sealCount(2, 5)
			value = value[:len(value)-1]
			seal(value, countKey(2))
			check(t, db.Set(countKey(2), value, pebble.NoSync))
		}, "too long or too short"},
		{"the count is none", func(t *testing.T, db *pebble.DB, _ []byte) {
			check(t, db.Set(countKey(2), sealCount(2, 0), pebble.NoSync))
		}, "not how many keys"},
		{"the count is above that of the hashes", func(t *testing.T, db *pebble.DB, _ []byte) {
			check(t, db.Set(countKey(2), sealCount(2, 6), pebble.NoSync))
		}, "not how many keys"},
		{"the count is below that of the keys", func(t *testing.T, db *pebble.DB, _ []byte) {
			check(t, db.Set(countKey(2), sealCount(2, 4), pebble.NoSync))
		}, "has 5 keys, not 4"},
		{"a key of another version", func(t *testing.T, db *pebble.DB, _ []byte) { check(t, db.Set([]byte("rns\x00k"), nil, pebble.NoSync)) }, "another version"},
		{"another hash", func(t *testing.T, db *pebble.DB, value []byte) {
			clear(value[len(value)-8:])
			seal(value, second)
			check(t, db.Set(second, value, pebble.NoSync))
		}, "do not have it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk := vfs.NewMem()
			p, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 5})
			check(t, err)
			for i := range 18 {
				fill(t, p, fmt.Sprint("r", i), "v")
			}
			value, err := p.get(second)
			check(t, err)
			test.damage(t, p.db, bytes.Clone(value))
			check(t, p.Sync())
			check(t, p.Close())
			for _, way := range []string{"scan", "walk"} {
				p, err := OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: true})
				if err == nil {
					err = errors.Join(waysThrough(p)[way](func(_, _ []byte) bool { return true }), p.Close())
				}
				if err == nil || !strings.Contains(err.Error(), test.says) || !errors.Is(err, ErrCorrupt) && test.says != "another version" {
					t.Errorf("%s: it says %v, want %q", way, err, test.says)
				}
			}
		})
	}
}

// TestGoldenGenerations freezes how Pebble's own keys and values are made of the store's.
func TestGoldenGenerations(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 2})
	fill(t, p, "d", "due", "ra", "1")
	fill(t, p, "oa", "2")
	fill(t, p, "ub", "3")
	var all []byte
	_, err := scanRange(p.db, nil, nil, func(key, value []byte) bool {
		all = append(append(append(append(all, key...), '='), value...), '\n')
		return true
	})
	check(t, err)
	golden(t, "generations", all)
}
