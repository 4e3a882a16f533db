//go:build !wasip1

package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
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
				s, err := OpenPebble("db", PebbleOptions{FS: disk, GenerationKeys: 1 + rng.IntN(12), MemTableBytes: 64 << 10, hash: hash})
				check(t, err)
				wantScan(t, s, "", "z", pairs(model)...)
				for range rng.IntN(15) {
					changeAtRandom(t, rng, s, model)
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
				wantScan(t, s, "", "z", pairs(model)...) // which checks the hashes
				check(t, s.Close())
			}
		})
	}
}

// changeAtRandom commits a batch that sets and deletes some of 60 keys, in s as in model.
func changeAtRandom(t *testing.T, rng *rand.Rand, s Store, model map[string]string) {
	t.Helper()
	b := s.Batch()
	for range rng.IntN(20) {
		key := fmt.Sprintf("r%02d", rng.IntN(60))
		if rng.IntN(5) < 2 {
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
	if got := len(p.ages.all); got != 1 {
		t.Errorf("%d generations are left, want the current one", got)
	}
	if left := append(under(t, p, tableAged), under(t, p, tableSeal)...); len(left) > 0 {
		t.Errorf("%q are left over", left)
	}
	for i := range p.ages.index.shards {
		if p.ages.index.shards[i].used > 0 {
			t.Fatal("hashes are left over")
		}
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
		{"the last is lost", func(t *testing.T, db *pebble.DB, _ []byte) { check(t, db.Delete(sealKey(3), pebble.NoSync)) }, "hashes of the generation before are missing"},
		{"a key of another version", func(t *testing.T, db *pebble.DB, _ []byte) { check(t, db.Set([]byte("rns\x00k"), nil, pebble.NoSync)) }, "another version"},
		{"a key is left out", func(t *testing.T, db *pebble.DB, value []byte) {
			value = value[:len(value)-8]
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
			p, err = OpenPebble("db", PebbleOptions{FS: disk, ReadOnly: true})
			if err == nil {
				err = errors.Join(p.Scan(nil, nil, func(_, _ []byte) bool { return true }), p.Close())
			}
			if err == nil || !strings.Contains(err.Error(), test.says) || !errors.Is(err, ErrCorrupt) && test.says != "another version" {
				t.Errorf("it says %v, want %q", err, test.says)
			}
		})
	}
}

// TestReadersBesideGenerationsThatComeAndGo has keys of which each is always there read beside
// others that are made and deleted, so that generations begin and end.
func TestReadersBesideGenerationsThatComeAndGo(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: 4, MemTableBytes: 64 << 10})
	steady := map[string]string{}
	for i := range 10 {
		steady[fmt.Sprint("rs", i)] = "v"
	}
	for key, value := range maps.All(steady) {
		fill(t, p, key, value, "rx"+key, "passes")
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				wantValue(t, p, fmt.Sprint("rs", n%10), []byte("v"))
				if got := scan(t, p, "rs", "rt"); len(got) != len(steady) {
					t.Errorf("a scan sees %q", got)
				}
			}
		})
	}
	for i := range 2000 {
		b := p.Batch()
		check(t, b.Delete(fmt.Append(nil, "rm", i-7)))
		check(t, b.Set(fmt.Append(nil, "rm", i), []byte("v")))
		check(t, b.Commit())
	}
	close(stop)
	readers.Wait()
	if got := len(p.ages.all); got > 20 {
		t.Errorf("%d generations for %d keys", got, 20+7)
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
