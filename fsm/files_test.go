//go:build !wasip1

package fsm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// recordedFile notes the writes that reach a file, and fails once it has room
// for no more.
type recordedFile struct {
	vfs.File
	writes []int
	room   int
}

var errNoRoom = errors.New("no room")

func (f *recordedFile) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errNoRoom
	}
	f.writes = append(f.writes, len(p))
	return f.File.Write(p)
}

func recorded(t *testing.T, room int) (f *politeFile, to *recordedFile, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	file, err := vfs.Default.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() }) // where the test did not
	to = &recordedFile{File: file, room: room}
	return &politeFile{File: to, wrote: giveWay}, to, path
}

func TestAFileIsWrittenInWholePieces(t *testing.T) {
	f, to, path := recorded(t, 1<<30)
	var want []byte
	write := func(n int) {
		t.Helper()
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rand.Uint32())
		}
		want = append(want, p...)
		if wrote, err := f.Write(p); wrote != n || err != nil {
			t.Fatalf("%d of %d bytes, %v", wrote, n, err)
		}
	}
	write(0)
	for range 100 {
		write(1 + rand.IntN(16<<10))
	}
	write(3*pieceBytes + 1)
	if _, err := f.SyncTo(pieceBytes); err != nil { // it is there already
		t.Fatal(err)
	}
	for i, n := range to.writes {
		if n != pieceBytes {
			t.Errorf("write %d is of %d bytes, not a piece", i, n)
		}
	}
	// What must be there is written at once, and the next piece ends where it would have.
	for _, reach := range []func() error{f.Sync, f.SyncData,
		func() error { _, err := f.SyncTo(int64(len(want))); return err }} {
		write(10)
		if err := reach(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes of %d are in the file, %v", len(got), len(want), err)
		}
	}
	write(10)
	if info, err := f.Stat(); err != nil || info.Size() != int64(len(want)) {
		t.Errorf("size %v, %v; want %d", info, err, len(want))
	}
	to.writes = nil
	write(pieceBytes)
	if total := int64(len(want)); len(to.writes) != 1 || (total-int64(len(f.gathered)))%pieceBytes != 0 {
		t.Errorf("writes %v of %d bytes, %d gathered: no end of a piece", to.writes, total, len(f.gathered))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d are in the closed file, %v", len(got), len(want), err)
	}
}

// fullySynced syncs all that it has whenever it is to sync something, as on file
// systems without sync_file_range.
type fullySynced struct{ vfs.File }

func (f fullySynced) SyncTo(int64) (bool, error) { return true, f.File.Sync() }

func TestNothingGatheredCountsAsSynced(t *testing.T) {
	f, _, _ := recorded(t, 1<<30)
	f.File = fullySynced{f.File}
	if _, err := f.Write(make([]byte, pieceBytes+1)); err != nil {
		t.Fatal(err)
	}
	if full, err := f.SyncTo(pieceBytes); full || err != nil {
		t.Errorf("full: %t, %v, though a byte is not written", full, err)
	}
	if full, err := f.SyncTo(pieceBytes + 1); !full || err != nil {
		t.Errorf("full: %t, %v, of all there is", full, err)
	}
}

func TestAFileThatTakesNoMoreSaysSo(t *testing.T) {
	for name, reach := range map[string]func(*politeFile) error{
		"write":     func(f *politeFile) error { _, err := f.Write(make([]byte, pieceBytes)); return err },
		"sync":      (*politeFile).Sync,
		"sync data": (*politeFile).SyncData,
		"sync to":   func(f *politeFile) error { _, err := f.SyncTo(pieceBytes); return err },
		"stat":      func(f *politeFile) error { _, err := f.Stat(); return err },
		"close":     (*politeFile).Close,
	} {
		f, to, _ := recorded(t, 0)
		if _, err := f.Write([]byte("gathered")); err != nil {
			t.Fatal(err)
		}
		if err := reach(f); !errors.Is(err, errNoRoom) || slices.Max(append(to.writes, 0)) > 0 {
			t.Errorf("%s: %v", name, err)
		}
		to.room = 1 << 30 // too late
		if err := f.Sync(); !errors.Is(err, errNoRoom) {
			t.Errorf("a sync after a %s that failed: %v", name, err)
		}
	}
}

// openRowsFS counts the row files that are open.
type openRowsFS struct {
	vfs.FS
	open atomic.Int64
}

func (f *openRowsFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, o...)
	if err != nil || !strings.HasSuffix(name, rowsSuffix) {
		return file, err
	}
	f.open.Add(1)
	return openRowsFile{file, f}, nil
}

type openRowsFile struct {
	vfs.File
	fs *openRowsFS
}

func (f openRowsFile) Close() error {
	f.fs.open.Add(-1)
	return f.File.Close()
}
