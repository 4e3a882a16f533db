//go:build !wasip1

package fsm

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestKeysThatStayLeaveGenerationsThatHaveFew has one key in ten stay, so that all
// generations would.
func TestKeysThatStayLeaveGenerationsThatHaveFew(t *testing.T) {
	const together, spare = 10, 3
	disk, model := vfs.NewMem(), map[string]string{}
	open := func(readOnly bool) *Pebble {
		p, err := OpenPebble("db", PebbleOptions{
			FS: disk, GenerationKeys: together, spareGenerations: spare, ReadOnly: readOnly, buildAtOnce: true,
		})
		check(t, err)
		return p
	}
	p := open(false)
	set := func(b Batch, key, value string) {
		check(t, b.Set([]byte(key), []byte(value)))
		model[key] = value
	}
	for i := range 1000 {
		b := p.Batch()
		set(b, fmt.Sprintf("r%03d", i), fmt.Sprint("v", i))
		if gone := i - 25; gone >= 0 && gone%10 != 0 {
			check(t, b.Delete(fmt.Appendf(nil, "r%03d", gone)))
			delete(model, fmt.Sprintf("r%03d", gone))
		}
		set(b, "r000", fmt.Sprint("again", i)) // wherever it is
		check(t, b.Commit())
		if i%100 == 99 {
			check(t, p.Sync())
			check(t, p.Close())
			r := open(true)
			wantAll(t, r, model)
			check(t, r.Close())
			p = open(false)
		}
		// One may have just begun, and one be about to be dropped.
		if got, most := len(p.ages.all), spare+2*len(model)/together+2; got > most {
			t.Fatalf("after %d keys, of which %d stayed, there are %d generations, want at most %d", i, len(model), got, most)
		}
	}
	defer func() { check(t, p.Close()) }()
	if marks := len(under(t, p, tableFiled)); marks != len(p.ages.all)-1 {
		t.Errorf("%d generations have %d files", len(p.ages.all), marks)
	}
}

// A count that is too high would keep a generation, and have no other emptied, for ever.
func TestAGenerationThatHasFewerKeysThanCountedIsCorrupt(t *testing.T) {
	const together = 5
	p := openPebble(t, t.TempDir(), PebbleOptions{GenerationKeys: together, spareGenerations: 1})
	b := p.Batch()
	for i := range 3 * together {
		fill(t, p, fmt.Sprintf("r%02d", i), "v")
		if i%together > 0 {
			check(t, b.Delete(fmt.Appendf(nil, "r%02d", i)))
		}
	}
	check(t, b.Commit())
	for _, g := range p.ages.all {
		g.keys++
	}
	b = p.Batch()
	check(t, b.Set([]byte("rx"), []byte("v")))
	if err := b.Commit(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("it says %v, want ErrCorrupt", err)
	}
}

// TestReadersBesideGenerationsThatComeAndGo has keys of which each is always there read beside
// others that are made and deleted, so that generations begin and end. Some stay
// for long, so that keys move.
func TestReadersBesideGenerationsThatComeAndGo(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		t.Run(fmt.Sprint("files at once: ", atOnce), func(t *testing.T) { testReadersBesideGenerations(t, atOnce) })
	}
}

func testReadersBesideGenerations(t *testing.T, atOnce bool) {
	p := openPebble(t, "db", PebbleOptions{
		FS: vfs.NewMem(), GenerationKeys: 4, MemTableBytes: 64 << 10, spareGenerations: 2, buildAtOnce: atOnce,
	})
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
				if n%10 > 0 {
					continue
				}
				if got := scan(t, p, "rs", "rt"); len(got) != len(steady) {
					t.Errorf("a scan sees %q", got)
				}
			}
		})
	}
	const short, long = 7, 200
	for i := range 2500 {
		b := p.Batch()
		check(t, b.Set(fmt.Append(nil, "rm", i), []byte("v")))
		if (i-short)%8 != 0 {
			check(t, b.Delete(fmt.Append(nil, "rm", i-short)))
		}
		if (i-long)%8 == 0 {
			check(t, b.Delete(fmt.Append(nil, "rm", i-long)))
		}
		check(t, b.Commit())
	}
	close(stop)
	readers.Wait()
	const live = 20 + short + long/8
	if got := len(p.ages.all); got > 2+2*live/4+2 {
		t.Errorf("%d generations for %d keys", got, live)
	}
	if p.ages.moves < 100 {
		t.Errorf("keys moved %d times", p.ages.moves)
	}
}

// TestAKeyThatMovesAllTheTimeIsAlwaysFound moves a key with each batch, so that it often has
// left the place that it is said to be in when it is looked for there.
func TestAKeyThatMovesAllTheTimeIsAlwaysFound(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		t.Run(fmt.Sprint("files at once: ", atOnce), func(t *testing.T) { testAKeyThatMovesAllTheTime(t, atOnce) })
	}
}

func testAKeyThatMovesAllTheTime(t *testing.T, atOnce bool) {
	p, err := OpenPebble("db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 1, spareGenerations: -10, buildAtOnce: atOnce})
	check(t, err)
	defer func() { check(t, p.Close()) }()
	fill(t, p, "rs", "v", "rx0", "v", "rx1", "v", "rx2", "v")
	const moves = 4_000
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for p.ages.movesSoFar() < moves && !t.Failed() {
				wantValue(t, p, "rs", []byte("v"))
			}
		})
	}
	for i := 0; p.ages.movesSoFar() < moves && !t.Failed(); i++ {
		if i > 4*moves {
			t.Errorf("%d batches moved it %d times", i, p.ages.movesSoFar())
		}
		b := p.Batch()
		for n := range 3 { // made and deleted by turns
			if key := fmt.Append(nil, "rx", n); i%2 == 0 {
				check(t, b.Delete(key))
			} else {
				check(t, b.Set(key, []byte("v")))
			}
		}
		check(t, b.Commit())
		if i%100 == 0 {
			check(t, p.Sync()) // else what was dropped makes reading slow
		}
	}
	readers.Wait()
}

func (s *generations) movesSoFar() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.moves
}

// Who finds nothing while keys move waits until they have, and looks again; others do not wait.
func TestWhoFindsNothingWaitsForKeysThatMove(t *testing.T) {
	p := openPebble(t, t.TempDir(), PebbleOptions{})
	fill(t, p, "r", "v")
	gone := []removal{{key: "r1", hash: 1, place: place{generation: p.ages.current()}}}
	for _, test := range []struct {
		changes
		waits bool
	}{{changes{come: []uint64{1}}, false}, {changes{moved: []uint64{1}, gone: gone}, true}} {
		_, before := p.ages.where(nil, 1)
		check(t, p.ages.commit(test.changes, func() error {
			wantValue(t, p, "r", []byte("v"))
			free := p.ages.moving.TryRLock()
			if free {
				p.ages.moving.RUnlock()
			}
			if free == test.waits {
				t.Errorf("while %+v is committed, who finds nothing may look again at once: %v", test.changes, free)
			}
			_, during := p.ages.where(nil, 1)
			if (during != before) != test.waits {
				t.Errorf("while %+v is committed, who looks before can tell: %v", test.changes, during != before)
			}
			before = during
			return nil
		}))
		if p.ages.movedSince(before) != test.waits {
			t.Errorf("after %+v, who looks meanwhile can tell: %v", test.changes, !test.waits)
		}
	}
}

// TestFilesOfWhichMuchHasBeenDeletedGo has large values go that are few among the keys.
func TestFilesOfWhichMuchHasBeenDeletedGo(t *testing.T) {
	const large, spare = 10_000, 2
	p := openPebble(t, "db", PebbleOptions{FS: vfs.NewMem(), GenerationKeys: 10, spareGenerations: spare, buildAtOnce: true})
	rng := rand.New(rand.NewPCG(13, 14))
	model := map[string]string{}
	for i := range 400 {
		key, value := fmt.Sprintf("r%03d", i), "small"
		if i%10 == 0 {
			value = noise(rng, large)
		}
		fill(t, p, key, value)
		model[key] = value
		if gone := fmt.Sprintf("r%03d", i-50); i >= 50 && i%10 == 0 {
			remove(t, p, gone)
			delete(model, gone)
		}
	}
	check(t, p.Sync())
	size := int64(0)
	for _, f := range p.ages.files() {
		size += f.size
	}
	// Five large values are left, and as much may be dead; beside the generations that are spared.
	if most := int64(2*5+spare+2) * large; size > most {
		t.Errorf("files take %d bytes, want at most %d", size, most)
	}
	wantAll(t, p, model)
}

// TestGenerationsStayFewForWhatTheyHave has keys written to again and again, so that
// generations end with few keys, or lose them to later ones.
func TestGenerationsStayFewForWhatTheyHave(t *testing.T) {
	const spare, together = 3, 50
	for name, test := range map[string]struct {
		bytes, keys, batches, writes int
	}{
		"few new keys among many writes":  {500, 300, 6000, 1},
		"many keys written to in a batch": {1 << 20, 1000, 300, 200},
	} {
		t.Run(name, func(t *testing.T) {
			p := openPebble(t, "db", PebbleOptions{
				FS: vfs.NewMem(), GenerationKeys: together, GenerationBytes: test.bytes, spareGenerations: spare, buildAtOnce: true,
			})
			rng := rand.New(rand.NewPCG(17, 18))
			model := map[string]string{}
			for n := range test.batches {
				newest := min(test.keys, 1+n*test.writes/10)
				b := p.Batch()
				for range test.writes {
					// The newest are written to most.
					key := fmt.Sprintf("r%04d", newest-1-min(newest-1, int(rng.ExpFloat64()*float64(test.writes))))
					value := fmt.Sprintf("%030d", rng.Int())
					check(t, b.Set([]byte(key), []byte(value)))
					model[key] = value
				}
				check(t, b.Commit())
			}
			size := 0
			for key, value := range model {
				size += len(key) + len(value)
			}
			// Files may have as much that was deleted as what is left.
			if got, most := len(p.ages.all), spare+2*(len(model)/together+2*size/test.bytes+1)+2; got > most {
				t.Errorf("%d keys are in %d generations, want at most %d", len(model), got, most)
			}
			wantAll(t, p, model)
		})
	}
}
