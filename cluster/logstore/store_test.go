package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

var kinds = []string{"wal", "bolt"}

// small makes the wal kind change files every few entries.
func small(t *testing.T) Options {
	return Options{
		SegmentBytes: 4096,
		CacheEntries: 2,
		OnFatal:      func(err error) { t.Errorf("fatal: %v", err) },
	}
}

func mustOpen(t *testing.T, dir, kind string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, kind, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func entry(index uint64) *raft.Log {
	return &raft.Log{
		Index: index,
		Term:  index/10 + 1,
		Type:  []raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogConfiguration}[index%3],
		Data:  bytes.Repeat([]byte{byte(index)}, int(index*37%300)),
	}
}

// fill appends the entries from first to last, a few at a time.
func fill(t *testing.T, s *Store, first, last uint64) {
	t.Helper()
	for first <= last {
		var logs []*raft.Log
		for range first%3 + 1 {
			if first <= last {
				logs = append(logs, entry(first))
				first++
			}
		}
		check(t, s.StoreLogs(logs))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantEntries checks that the log holds the entries from first to last, no
// others, and none changed.
func wantEntries(t *testing.T, s *Store, first, last uint64) {
	t.Helper()
	gotFirst, err := s.FirstIndex()
	check(t, err)
	gotLast, err := s.LastIndex()
	check(t, err)
	if gotFirst != first || gotLast != last {
		t.Fatalf("the log is [%d, %d], want [%d, %d]", gotFirst, gotLast, first, last)
	}
	for index := first; index <= last && index > 0; index++ {
		if err := checkEntry(s, index); err != nil {
			t.Error(err)
		}
	}
	for _, index := range []uint64{first - 1, last + 1} {
		if index > 0 && !errors.Is(s.GetLog(index, &raft.Log{}), raft.ErrLogNotFound) {
			t.Errorf("entry %d is there", index)
		}
	}
	if first > 0 {
		check(t, s.Verify(first))
	}
	check(t, s.Verify(0))
}

func checkEntry(s *Store, index uint64) error {
	var got raft.Log
	if err := s.GetLog(index, &got); err != nil {
		return err
	}
	want := entry(index)
	if got.Index != index || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
		return fmt.Errorf("entry %d has changed", index)
	}
	return nil
}

func TestLogKinds(t *testing.T) {
	cases := map[string]func(t *testing.T, dir, kind string){
		"an empty log has neither first nor last":       testEmpty,
		"what was stored comes back, reopened too":      testReopen,
		"it ends at each place in a file":               testReopenAnywhere,
		"the end can be cut off and grown again":        testDeleteEnd,
		"the beginning can be cut off":                  testDeleteBeginning,
		"all can be deleted, and a later entry comes":   testDeleteAll,
		"gaps are taken by bolt alone":                  testGap,
		"what is not there is deleted already":          testDeleteNothing,
		"what a snapshot contains is forgotten":         testForget,
		"files are the owner's alone":                   testModes,
		"a received entry is checked before it is kept": testReceived,
		"an entry too large to read back is refused":    testTooLarge,
		"the other kind is refused":                     testOtherKind,
		"it verifies from any index on":                 testVerifyFrom,
	}
	for _, kind := range kinds {
		for name, test := range cases {
			t.Run(kind+"/"+name, func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "log"), kind) })
		}
	}
}

func testEmpty(t *testing.T, dir, kind string) {
	for range 2 {
		s := mustOpen(t, dir, kind, small(t))
		wantEntries(t, s, 0, 0)
		check(t, s.Verify(7))
		check(t, s.Close())
	}
}

func testReopen(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	fill(t, s, 1, 100)
	wantEntries(t, s, 1, 100)
	check(t, s.Close())
	if err := s.GetLog(50, &raft.Log{}); err == nil {
		t.Error("a closed log was read")
	}
	s = mustOpen(t, dir, kind, small(t))
	wantEntries(t, s, 1, 100)
	fill(t, s, 101, 200)
	wantEntries(t, s, 1, 200)
	check(t, s.Close())
}

// testReopenAnywhere closes the log after each append: also right after one
// that filled a file, before the next one was begun.
func testReopenAnywhere(t *testing.T, dir, kind string) {
	for index := uint64(1); index <= 120; index++ {
		s := mustOpen(t, dir, kind, small(t))
		check(t, s.StoreLog(entry(index)))
		check(t, s.Close())
	}
	s := mustOpen(t, dir, kind, small(t))
	wantEntries(t, s, 1, 120)
	check(t, s.Close())
}

func testDeleteEnd(t *testing.T, dir, kind string) {
	for _, last := range []uint64{199, 150, 101, 1} {
		s := mustOpen(t, dir, kind, small(t))
		had, err := s.LastIndex()
		check(t, err)
		fill(t, s, had+1, 200)
		check(t, s.DeleteRange(last+1, 200))
		wantEntries(t, s, 1, last)
		check(t, s.Close())
		s = mustOpen(t, dir, kind, small(t))
		wantEntries(t, s, 1, last)
		fill(t, s, last+1, last+1)
		wantEntries(t, s, 1, last+1)
		check(t, s.Close())
	}
}

func testDeleteBeginning(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, Options{CacheEntries: 2}) // all in one file
	fill(t, s, 1, 9)
	check(t, s.DeleteRange(1, 4))
	wantEntries(t, s, 5, 9)
	check(t, s.DeleteRange(5, 9))
	check(t, s.Close())

	s = mustOpen(t, dir, kind, small(t))
	fill(t, s, 1, 300)
	for _, last := range []uint64{1, 2, 150, 299} {
		check(t, s.DeleteRange(1, last))
		wantEntries(t, s, last+1, 300)
		if err := s.Verify(last); err == nil {
			t.Errorf("entry %d is missing and nothing was said", last)
		}
		check(t, s.Close())
		s = mustOpen(t, dir, kind, small(t))
		wantEntries(t, s, last+1, 300)
	}
	check(t, s.Close())
}

func testDeleteAll(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	fill(t, s, 1, 50)
	check(t, s.DeleteRange(1, 50))
	wantEntries(t, s, 0, 0)
	check(t, s.Close())
	s = mustOpen(t, dir, kind, small(t))
	wantEntries(t, s, 0, 0)
	fill(t, s, 1000, 1100)
	wantEntries(t, s, 1000, 1100)
	check(t, s.Close())
	s = mustOpen(t, dir, kind, small(t))
	wantEntries(t, s, 1000, 1100)
	check(t, s.Close())
}

// Raft compacts beside the installing of a snapshot, and asks for what has gone by then.
func testDeleteNothing(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	check(t, s.DeleteRange(0, 9))
	fill(t, s, 10, 20)
	for _, r := range [][2]uint64{{0, 9}, {1, 5}, {9, 9}, {21, 30}} {
		check(t, s.DeleteRange(r[0], r[1]))
		wantEntries(t, s, 10, 20)
	}
	check(t, s.DeleteRange(0, 12))
	wantEntries(t, s, 13, 20)
	check(t, s.DeleteRange(18, 30))
	wantEntries(t, s, 13, 17)
	check(t, s.Close())
}

func testForget(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	check(t, s.Forget(5))
	fill(t, s, 1, 10)
	check(t, s.Forget(0))
	wantEntries(t, s, 1, 10)
	check(t, s.Forget(4))
	wantEntries(t, s, 5, 10)
	s.Contained(func() (uint64, uint64) { return 4, 7 })
	var place raft.Log
	check(t, s.GetLog(4, &place))
	if place.Index != 4 || place.Term != 7 {
		t.Errorf("the place behind which the log begins is %+v", place)
	}
	for _, index := range []uint64{0, 3, 11} {
		if err := s.GetLog(index, &place); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("entry %d: %v", index, err)
		}
	}
	check(t, s.Forget(99))
	if first, err := s.FirstIndex(); first != 0 || err != nil {
		t.Errorf("the log begins with entry %d, %v", first, err)
	}
	check(t, s.StoreLog(entry(100)))
	check(t, s.Close())
}

func testGap(t *testing.T, dir, kind string) {
	o := small(t)
	o.OnFatal = nil
	s := mustOpen(t, dir, kind, o)
	defer s.Close()
	fill(t, s, 1, 5)
	err := s.StoreLog(entry(9))
	if kind == "wal" {
		if err == nil || s.Err() == nil {
			t.Errorf("a gap was taken: %v", err)
		}
		if s.StoreLog(entry(6)) == nil {
			t.Error("a write was taken after a failed one")
		}
		return
	}
	check(t, err)
	check(t, s.Verify(9))
	if err := s.Verify(5); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "entry 6 is missing") {
		t.Errorf("verify across the gap: %v", err)
	}
}

func testModes(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	stable, err := OpenStable(dir)
	check(t, err)
	check(t, stable.Close())
	fill(t, s, 1, 50)
	check(t, s.Close())
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		check(t, err)
		info, err := d.Info()
		check(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	}))
}

func testReceived(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	defer s.Close()
	good := entry(1)
	check(t, s.StoreLog(good))
	if len(good.Extensions) != 8 {
		t.Fatalf("the entry's digest is %x", good.Extensions)
	}
	for name, damage := range map[string]func(*raft.Log){
		"data":     func(l *raft.Log) { l.Data[5] ^= 1 },
		"term":     func(l *raft.Log) { l.Term++ },
		"type":     func(l *raft.Log) { l.Type = raft.LogNoop },
		"digest":   func(l *raft.Log) { l.Extensions[3] ^= 1 },
		"a length": func(l *raft.Log) { l.Extensions = l.Extensions[:7] },
	} {
		sent := entry(2)
		stamp(sent)
		damage(sent)
		if err := s.StoreLogs([]*raft.Log{sent}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("damaged %s: error %v", name, err)
		}
	}
	check(t, s.Err())
	sent := entry(2)
	stamp(sent)
	check(t, s.StoreLog(sent))
	wantEntries(t, s, 1, 2)
}

func testTooLarge(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	defer s.Close()
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 1, Data: make([]byte, MaxEntry+1)}); err == nil {
		t.Error("it was taken")
	}
	check(t, s.Err())
	wantEntries(t, s, 0, 0)
}

func testOtherKind(t *testing.T, dir, kind string) {
	check(t, mustOpen(t, dir, kind, small(t)).Close())
	other := map[string]string{"wal": "bolt", "bolt": "wal"}[kind]
	if _, err := Open(dir, other, small(t)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("made as kind %q", kind)) {
		t.Errorf("opened as %s: error %v", other, err)
	}
	if _, err := Open(dir, "paper", small(t)); err == nil {
		t.Error("an unknown kind was opened")
	}
	check(t, mustOpen(t, dir, kind, small(t)).Close())
}

func testVerifyFrom(t *testing.T, dir, kind string) {
	s := mustOpen(t, dir, kind, small(t))
	defer s.Close()
	fill(t, s, 1, 20)
	for _, from := range []uint64{0, 1, 20, 21, 100} {
		if err := s.Verify(from); err != nil {
			t.Errorf("from %d: %v", from, err)
		}
	}
}

func TestBoltTellsASecondProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := mustOpen(t, dir, "bolt", small(t))
	defer s.Close()
	if _, err := Open(dir, "bolt", small(t)); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second opening: %v", err)
	}
}

func TestStableStoreKeepsTermAndVote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stable")
	s, err := OpenStable(dir)
	check(t, err)
	if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("an absent key: %v, and raft compares the text", err)
	}
	check(t, s.SetUint64([]byte("CurrentTerm"), 7))
	check(t, s.Close())
	// A making of the file that was cut short is no obstacle.
	check(t, os.WriteFile(filepath.Join(dir, stableFile+".new"), []byte("half"), 0o600))
	s, err = OpenStable(dir)
	check(t, err)
	if term, err := s.GetUint64([]byte("CurrentTerm")); err != nil || term != 7 {
		t.Errorf("term %d, %v, want 7", term, err)
	}
	check(t, s.Close())
	check(t, os.Truncate(filepath.Join(dir, stableFile), 100))
	if _, err := OpenStable(dir); err == nil {
		t.Error("a truncated file was opened")
	}
}

func TestLostStableStoreBesideALogIsRefused(t *testing.T) {
	for _, kind := range kinds {
		dir := filepath.Join(t.TempDir(), "log")
		s := mustOpen(t, dir, kind, small(t))
		stable, err := OpenStable(dir)
		check(t, err)
		check(t, stable.Close())
		fill(t, s, 1, 5)
		check(t, s.Close())
		check(t, os.Remove(filepath.Join(dir, stableFile)))
		if _, err := OpenStable(dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v", kind, err)
		}
	}
}

func TestLostLogBesideAStableStoreIsRefused(t *testing.T) {
	for _, kind := range kinds {
		dir := filepath.Join(t.TempDir(), "log")
		s := mustOpen(t, dir, kind, small(t))
		stable, err := OpenStable(dir)
		check(t, err)
		check(t, stable.Close())
		fill(t, s, 1, 5)
		check(t, s.Close())
		names, err := os.ReadDir(dir)
		check(t, err)
		for _, name := range names {
			if name.Name() != stableFile {
				check(t, os.Remove(filepath.Join(dir, name.Name())))
			}
		}
		if _, err := Open(dir, kind, small(t)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v", kind, err)
		}
	}
}
