package logstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestDamagedFilesAreFound damages one file of a log of 60 entries at a time,
// in many places. The log may refuse to open or to verify, or be whole; it may
// not panic, return another entry, or end early.
func TestDamagedFilesAreFound(t *testing.T) {
	const last = 60
	for _, kind := range kinds {
		origin := filepath.Join(t.TempDir(), "log")
		s := mustOpen(t, origin, kind, small(t))
		fill(t, s, 1, last)
		check(t, s.Close())
		names, err := os.ReadDir(origin)
		check(t, err)
		for _, name := range names {
			found, whole := 0, 0
			for _, damage := range damages(t, filepath.Join(origin, name.Name())) {
				dir := filepath.Join(t.TempDir(), "log")
				check(t, os.CopyFS(dir, os.DirFS(origin)))
				check(t, os.WriteFile(filepath.Join(dir, name.Name()), damage.data, 0o600))
				err := examine(dir, kind, last)
				switch {
				case errors.Is(err, errChanged):
					t.Errorf("%s, %s: %s: %v", kind, name.Name(), damage.what, err)
				case err != nil:
					found++
				default:
					whole++
				}
				check(t, os.RemoveAll(dir))
			}
			t.Logf("%s, %s: found %d, harmless %d", kind, name.Name(), found, whole)
			if found == 0 {
				t.Errorf("%s, %s: no damage was found", kind, name.Name())
			}
		}
	}
}

type damage struct {
	what string
	data []byte
}

func damages(t *testing.T, file string) (all []damage) {
	data, err := os.ReadFile(file)
	check(t, err)
	for i := range 120 {
		at := i * len(data) / 120
		flipped := append([]byte(nil), data...)
		flipped[at] ^= 1 << (i % 8)
		all = append(all, damage{fmt.Sprintf("bit %d of byte %d flipped", i%8, at), flipped})
		if i%10 == 0 {
			all = append(all, damage{fmt.Sprintf("cut to %d bytes", at), data[:at]})
			zeroed := append([]byte(nil), data...)
			clear(zeroed[at:min(at+512, len(data))])
			all = append(all, damage{fmt.Sprintf("512 bytes from %d zeroed", at), zeroed})
		}
	}
	return all
}

var errChanged = errors.New("changed")

// examine does what a node does at its start.
func examine(dir, kind string, last uint64) error {
	s, err := Open(dir, kind, Options{CacheEntries: 2})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Verify(1); err != nil {
		return err
	}
	if got, err := s.LastIndex(); err != nil || got != last {
		return fmt.Errorf("%w: the log ends with entry %d, %v", errChanged, got, err)
	}
	for index := uint64(1); index <= last; index++ {
		if err := checkEntry(s, index); err != nil {
			return fmt.Errorf("%w: %w", errChanged, err)
		}
	}
	return nil
}

func TestChangedEntryIsNotReturnedAndIsFatal(t *testing.T) {
	for _, cached := range []bool{true, false} {
		var fatal []error
		b := raft.NewInmemStore()
		o := Options{OnFatal: func(err error) { fatal = append(fatal, err) }}
		s := memoryStore(t, b, o)
		log := entry(4)
		check(t, s.StoreLog(log))
		if !cached {
			s = memoryStore(t, b, o)
		}
		log.Data[0] ^= 1
		got := raft.Log{Index: 77}
		if err := s.GetLog(4, &got); !errors.Is(err, ErrCorrupt) {
			t.Errorf("error %v", err)
		}
		if got.Index != 77 || got.Data != nil {
			t.Errorf("the changed entry was returned: %v", got)
		}
		_ = s.GetLog(4, &got)
		if len(fatal) != 1 || !errors.Is(fatal[0], ErrCorrupt) {
			t.Errorf("fatal reports: %v, want one", fatal)
		}
		if err := s.Verify(0); cached != (err == nil) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("verify: %v", err)
		}
	}
}

// TestSealCutShort writes an index to the end of a file and tears it, as a
// crash in the middle of the append does.
func TestSealCutShort(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := mustOpen(t, dir, "wal", small(t))
	var full string
	index := uint64(0)
	for full == "" { // until a file holds an index
		index++
		check(t, s.StoreLog(entry(index)))
		check(t, s.Close())
		files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
		check(t, err)
		f, err := os.Open(files[len(files)-1])
		check(t, err)
		_, at, whole, err := readSeal(f)
		check(t, errors.Join(err, f.Close()))
		if whole {
			full = files[len(files)-1]
			f, err := os.OpenFile(full, os.O_RDWR, 0)
			check(t, err)
			_, err = f.WriteAt([]byte{0xff, 0xff}, at+frameHead)
			check(t, errors.Join(err, f.Close()))
			break
		}
		s = mustOpen(t, dir, "wal", small(t))
	}
	// The append was never acknowledged.
	m, err := openMark(dir, "wal")
	check(t, err)
	check(t, m.lower(index-1))
	check(t, m.Close())

	s = mustOpen(t, dir, "wal", small(t))
	wantEntries(t, s, 1, index-1)
	fill(t, s, index, index+50)
	check(t, s.Close())
	s = mustOpen(t, dir, "wal", small(t))
	wantEntries(t, s, 1, index+50)
	check(t, s.Close())
}

// hungStore is a log whose writes wait.
type hungStore struct {
	*raft.InmemStore
	wait chan struct{}
}

func (h *hungStore) StoreLogs(logs []*raft.Log) error {
	<-h.wait
	return h.InmemStore.StoreLogs(logs)
}

func (h *hungStore) DeleteRange(min, max uint64) error {
	<-h.wait
	return h.InmemStore.DeleteRange(min, max)
}

func (*hungStore) Close() error { return nil }

type memory struct{ *raft.InmemStore }

func (memory) Close() error { return nil }

func memoryStore(t *testing.T, b raft.LogStore, o Options) *Store {
	t.Helper()
	m, err := openMark(t.TempDir(), "wal")
	check(t, err)
	t.Cleanup(func() { check(t, m.Close()) })
	closing, ok := b.(Backend)
	if !ok {
		closing = memory{b.(*raft.InmemStore)}
	}
	s, err := newStore(closing, m, o.withDefaults())
	check(t, err)
	return s
}

func TestStalledAppendIsSeenAndAtTheLimitFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fatal atomic.Int32
		h := &hungStore{InmemStore: raft.NewInmemStore(), wait: make(chan struct{})}
		s := memoryStore(t, h, Options{OnFatal: func(error) { fatal.Add(1) }})
		want := func(stalled time.Duration, reports int32) {
			t.Helper()
			synctest.Wait()
			if s.Stalled() != stalled || fatal.Load() != reports {
				t.Errorf("stalled %v with %d reports, want %v with %d", s.Stalled(), fatal.Load(), stalled, reports)
			}
		}
		want(0, 0)
		done := make(chan error)
		go func() { done <- s.StoreLog(entry(1)) }()
		synctest.Wait()
		time.Sleep(9999 * time.Millisecond)
		want(9999*time.Millisecond, 0)
		h.wait <- struct{}{}
		check(t, <-done)
		time.Sleep(time.Minute)
		want(0, 0)

		go func() { done <- s.StoreLog(entry(2)) }()
		synctest.Wait()
		time.Sleep(20 * time.Second)
		want(20*time.Second, 1)
		h.wait <- struct{}{}
		check(t, <-done)
		if s.Err() == nil || s.StoreLog(entry(3)) == nil {
			t.Error("a log that hung is written to")
		}
	})
}

func TestHungDeleteIsFatalButNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fatal atomic.Int32
		h := &hungStore{InmemStore: raft.NewInmemStore(), wait: make(chan struct{})}
		check(t, h.InmemStore.StoreLog(entry(1)))
		s := memoryStore(t, h, Options{HangLimit: time.Second, OnFatal: func(error) { fatal.Add(1) }})
		done := make(chan error)
		go func() { done <- s.DeleteRange(1, 1) }()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.Stalled() != 0 || fatal.Load() != 1 {
			t.Errorf("stalled %v with %d reports, want none with 1", s.Stalled(), fatal.Load())
		}
		h.wait <- struct{}{}
		check(t, <-done)
	})
}
