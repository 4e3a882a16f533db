//go:build !wasip1

package fsm

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// privateFS keeps files and directories to their owner: Pebble asks for 0666
// and 0755 and has no setting for it.
type privateFS struct{ vfs.FS }

func (fs privateFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	return private(f, err, name)
}

func (fs privateFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return private(f, err, name)
}

func (fs privateFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, c)
	return private(f, err, newname)
}

func (fs privateFS) Lock(name string) (io.Closer, error) {
	f, err := fs.FS.Lock(name)
	return private(f, err, name)
}

func (fs privateFS) MkdirAll(dir string, _ os.FileMode) error { return fs.FS.MkdirAll(dir, 0o700) }

func (fs privateFS) Unwrap() vfs.FS { return fs.FS }

// politeFS makes files that are written as politeFile does.
type politeFS struct {
	vfs.FS
	pacing *pacing
}

func (fs politeFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	return &politeFile{File: f, wrote: fs.pacing.of(c)}, nil
}

// Open implements vfs.FS. A table that is to be read from its beginning to its end is read by
// a compaction (see PebbleOptions.pebble), which writes nothing as long as all that it meets
// was deleted. Blocks that it finds in the cache, and what is copied by Read, are not paced.
func (fs politeFS) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, options...)
	if err != nil || !slices.Contains(options, vfs.SequentialReadsOption) {
		return f, err
	}
	return &politeReads{File: f, read: fs.pacing.of(compactionCategory)}, nil
}

func (fs politeFS) Unwrap() vfs.FS { return fs.FS }

// politeReads is a file that gives way to others as it is read, by one goroutine at a time.
type politeReads struct {
	vfs.File
	read  func(n int64) // called after each politeBytes
	since int
}

// ReadAt implements io.ReaderAt.
func (f *politeReads) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.File.ReadAt(p, offset)
	if f.since += n; f.since >= politeBytes {
		f.read(int64(f.since))
		f.since = 0
	}
	return n, err
}

// politeFile is a file that is written from its beginning to its end: a table,
// for the most part. It belongs to one goroutine at a time. Until it is closed,
// nobody else reads more of it than was synced, as a checkpoint does of the
// manifest.
//
// It gathers what is written into pieces of whole blocks of the file system:
// Pebble writes 4 KiB and some odd rest at a time (objstorageprovider's
// bufio.Writer), and a write that begins or ends within a block has the kernel
// clear the rest of it. In pieces a MiB costs a quarter of the time.
//
// And it gives way to others. Flushes and compactions compute for seconds on end: on
// a node with one processor each step of a commit would wait until they are
// preempted, 10 ms later.
type politeFile struct {
	vfs.File
	wrote    func(n int64) // called after a write, once politeBytes have come
	gathered []byte        // what is yet to be written
	written  int64         // bytes that are
	since    int           // bytes that came since it last gave way
	failed   error         // of a write: some of what it took is in no file
}

const (
	pieceBytes = 256 << 10
	// politeBytes is about half a millisecond of a flush's work.
	politeBytes = 32 << 10
)

func (f *politeFile) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		// However much was written before its time: a piece ends with a block.
		room := pieceBytes - int((f.written+int64(len(f.gathered)))%pieceBytes)
		taken := min(len(p), room)
		f.gathered = append(f.gathered, p[:taken]...)
		n, p = n+taken, p[taken:]
		if taken == room {
			if err := f.flush(); err != nil {
				return n, err
			}
		}
		if f.since += taken; f.since >= politeBytes {
			f.wrote(int64(f.since))
			f.since = 0
		}
	}
	return n, nil
}

// flush writes what was gathered. After an error it fails for ever: a sync that
// is tried again must not succeed without what could not be written.
func (f *politeFile) flush() error {
	if f.failed != nil || len(f.gathered) == 0 {
		return f.failed
	}
	n, err := f.File.Write(f.gathered)
	f.written += int64(n)
	f.gathered, f.failed = f.gathered[:0], err
	return err
}

// Sync implements vfs.File.
func (f *politeFile) Sync() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.Sync()
}

// SyncData implements vfs.File.
func (f *politeFile) SyncData() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.SyncData()
}

// SyncTo implements vfs.File.
func (f *politeFile) SyncTo(length int64) (fullSync bool, err error) {
	if length > f.written {
		if err := f.flush(); err != nil {
			return false, err
		}
	}
	fullSync, err = f.File.SyncTo(length)
	return fullSync && len(f.gathered) == 0, err
}

// Stat implements vfs.File.
func (f *politeFile) Stat() (vfs.FileInfo, error) {
	if err := f.flush(); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Close implements vfs.File.
func (f *politeFile) Close() error { return errors.Join(f.flush(), f.File.Close()) }

// private narrows the mode of the file just opened. Its directory, 0700,
// keeps others out before that.
func private[F io.Closer](f F, err error, name string) (F, error) {
	if err != nil {
		return f, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		var none F
		return none, errors.Join(err, f.Close())
	}
	return f, nil
}
