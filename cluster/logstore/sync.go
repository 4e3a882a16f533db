//go:build !nosync && !wasip1

package logstore

import (
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// diskFS is the disk.
func diskFS() types.VFS { return dataFS{fs.New()} }

// dataFS has each file synced as a whole once, and from then on its data alone:
// where blocks are overwritten that were written before, nothing else has to
// reach the disk but the time of the last change, which nobody reads, and which
// raft-wal's fsync has the file system commit its journal for.
type dataFS struct{ types.VFS }

func (d dataFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.VFS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	return &dataFile{WritableFile: f}, nil
}

func (d dataFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &dataFile{WritableFile: f}, nil
}

type dataFile struct {
	types.WritableFile
	whole bool // synced with all that belongs to it
}

// Sync implements types.WritableFile. Like every Sync there, it is called by one
// goroutine at a time.
func (f *dataFile) Sync() error {
	if f.whole {
		return syncData(f.WritableFile)
	}
	if err := f.WritableFile.Sync(); err != nil {
		return err
	}
	f.whole = true
	return nil
}
