//go:build nosync && !wasip1

package logstore

import (
	"fmt"
	"os"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// This file makes a binary that acknowledges what a power cut takes away: a test
// of power cuts that does not see it lose anything has proved nothing. No flag
// and no setting does the same.

func init() {
	fmt.Fprintln(os.Stderr, "onced: built with the tag nosync, for tests alone: a power cut loses what was acknowledged")
}

// diskFS is the disk without its syncs.
func diskFS() types.VFS { return unsyncedFS{fs.New()} }

type unsyncedFS struct{ types.VFS }

func (u unsyncedFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := u.VFS.Create(dir, name, size)
	return &unsyncedFile{WritableFile: f}, err
}

func (u unsyncedFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := u.VFS.OpenWriter(dir, name)
	return &unsyncedFile{WritableFile: f}, err
}

// unsyncedFile is synced once, so that it is there after a power cut, and not
// again.
type unsyncedFile struct {
	types.WritableFile
	exists bool
}

// Sync syncs the file the first time.
func (u *unsyncedFile) Sync() error {
	if u.exists {
		return nil
	}
	u.exists = true
	return u.WritableFile.Sync()
}
