package logstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft-wal/fs"
)

const zeroedSize = 1<<20 + 512 // more than one step of writing

func newTestZeroed(t *testing.T, dir string) *zeroed {
	t.Helper()
	z, err := newZeroed(privateFS{fs.New()}, dir, zeroedSize, hclog.NewNullLogger())
	check(t, err)
	t.Cleanup(func() { check(t, z.close()) })
	return z
}

// wantsZeros fails the test unless the file holds a segment of zeros that is
// its owner's alone.
func wantsZeros(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	if !bytes.Equal(data, make([]byte, zeroedSize)) {
		t.Errorf("%s holds %d bytes that are not all zero, or not %d", path, len(data), zeroedSize)
	}
	info, err := os.Stat(path)
	check(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", path, info.Mode())
	}
}

func TestSegmentsAreMadeOfWrittenZeros(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, spareFile), []byte("half made, by one that was killed"), 0o600))
	z := newTestZeroed(t, dir)
	for _, name := range []string{"1.wal", "2.wal", "3.wal"} {
		f, err := z.Create(dir, name, zeroedSize)
		check(t, err)
		check(t, f.Sync())
		check(t, f.Close())
		wantsZeros(t, filepath.Join(dir, name))
		z.wg.Wait() // the next one is ready
		wantsZeros(t, z.path())
	}
}

func TestASegmentDoesNotWaitForTheSpare(t *testing.T) {
	dir := t.TempDir()
	z := newTestZeroed(t, dir)
	z.begun, z.making = true, true // and never done
	f, err := z.Create(dir, "1.wal", zeroedSize)
	check(t, err)
	check(t, f.Close())
	z.making = false
}

func TestASpareThatCannotBeMadeIsDoneWithout(t *testing.T) {
	dir := t.TempDir()
	z := newTestZeroed(t, dir)
	check(t, os.Mkdir(z.path(), 0o700)) // in its place
	f, err := z.Create(dir, "1.wal", zeroedSize)
	check(t, err)
	check(t, f.Close())
}

func TestASpareThatCannotBeNamedIsDoneWithout(t *testing.T) {
	dir := t.TempDir()
	z := newTestZeroed(t, dir)
	f, err := z.Create(dir, "1.wal", zeroedSize)
	check(t, err)
	check(t, f.Close())
	z.wg.Wait()
	check(t, os.Remove(z.path())) // as little use as where there are no links
	f, err = z.Create(dir, "2.wal", zeroedSize)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
	if !exists(filepath.Join(dir, "2.wal")) {
		t.Error("there is no segment")
	}
}

func TestANameThatIsTakenIsRefused(t *testing.T) {
	dir := t.TempDir()
	z := newTestZeroed(t, dir)
	check(t, os.WriteFile(filepath.Join(dir, "1.wal"), []byte("entries"), 0o600))
	if f, err := z.Create(dir, "1.wal", zeroedSize); err == nil {
		t.Errorf("made %v over a file that was there", f)
	}
	data, err := os.ReadFile(filepath.Join(dir, "1.wal"))
	check(t, err)
	if string(data) != "entries" {
		t.Errorf("the file that was there holds %d other bytes", len(data))
	}
}

func TestClosingLeavesNoSpare(t *testing.T) {
	dir := t.TempDir()
	z := newTestZeroed(t, dir)
	f, err := z.Create(dir, "1.wal", zeroedSize)
	check(t, err)
	check(t, f.Close())
	check(t, z.close())
	if exists(z.path()) {
		t.Error("the spare is still there")
	}
}

func TestOldSegmentsAreDroppedFromMemoryAndNewOnesStay(t *testing.T) {
	for name, fails := range map[string]error{"": nil, "one that is gone": os.ErrNotExist, "one that cannot be": os.ErrInvalid} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			z := newTestZeroed(t, dir)
			var made, dropped []string
			z.drop = func(path string) error {
				dropped = append(dropped, path)
				return fails
			}
			for n := range cachedSegments + 3 {
				z.mu.Lock()
				late := n == cachedSegments
				z.making = late // so the spare is not there, and the next makes up for it
				z.mu.Unlock()
				made = append(made, filepath.Join(dir, fmt.Sprint(n, ".wal")))
				f, err := z.Create(dir, filepath.Base(made[n]), zeroedSize)
				check(t, err)
				check(t, f.Close())
				z.wg.Wait()
				if old := max(0, len(made)-cachedSegments); !late && !slices.Equal(dropped, made[:old]) {
					t.Fatalf("of %v dropped %v", made, dropped)
				}
			}
			if !z.ready {
				t.Error("the next spare is not ready")
			}
		})
	}
}
