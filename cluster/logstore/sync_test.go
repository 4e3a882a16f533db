//go:build linux && !nosync

package logstore

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft-wal/types"
)

// counting is a file that counts its whole syncs, and the next of which fails
// with err.
type counting struct {
	types.WritableFile
	whole int
	err   error
}

func (c *counting) Sync() error {
	c.whole++
	return c.err
}

func TestAFileIsSyncedAsAWholeUntilThatSucceeds(t *testing.T) {
	fails := errors.New("input/output error")
	c := &counting{err: fails}
	f := &dataFile{WritableFile: c}
	if err := f.Sync(); !errors.Is(err, fails) || f.whole {
		t.Fatalf("error %v, whole %v", err, f.whole)
	}
	c.err = nil
	if err := f.Sync(); err != nil || c.whole != 2 {
		t.Fatalf("error %v, %d whole syncs; want 2", err, c.whole)
	}
}

func TestTheDataOfAFileIsSyncedByItself(t *testing.T) {
	fs := diskFS()
	dir := t.TempDir()
	created, err := fs.Create(dir, "a", 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := fs.OpenWriter(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []types.WritableFile{created, opened} {
		// Only the file itself has a descriptor to sync the data of.
		c := &counting{WritableFile: f.(*dataFile).WritableFile}
		f := &dataFile{WritableFile: c}
		for range 3 {
			if _, err := f.WriteAt([]byte("entry"), 0); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if c.whole != 3 {
			t.Errorf("a file that shows no descriptor was synced %d times; want 3", c.whole)
		}
	}
	for _, f := range []types.WritableFile{created, opened} {
		for range 2 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err == nil {
			t.Error("a closed file was synced")
		}
	}
}
