package state

import (
	"io"
	"log/slog"

	"github.com/onced/onced/fsm"
)

// Disk is where a State keeps its stores and the file that names the one that
// counts. A path names a store, whether it is in use, received or to be sent.
type Disk interface {
	// MakeDir makes the directory of the stores, in a parent that exists. It is
	// on disk when it returns.
	MakeDir(path string) error
	// Exists tells whether there is a store at path.
	Exists(path string) bool
	// Names are what is in the directory, in order.
	Names(dir string) ([]string, error)
	// Remove removes a store, or whatever else there is, if there is anything.
	Remove(path string) error
	// Rename moves a store within its directory. It is on disk when it returns.
	Rename(from, to string) error

	// ReadFile reads a file. The error is fs.ErrNotExist if there is none.
	ReadFile(path string) ([]byte, error)
	// WriteFile puts data into a file in one step, on disk when it returns.
	WriteFile(path string, data []byte) error

	// Open opens a store, which is made if it is missing.
	Open(path string, o StoreOptions) (Store, error)
	// Pack opens a store that is not open as a stream of known size, and removes
	// the store when the stream is closed.
	Pack(path string) (content io.ReadCloser, size int64, err error)
	// Unpack makes a store of the stream r, on disk when it returns. What is not
	// as it was packed is refused.
	Unpack(r io.Reader, path string) error
}

// Store is one store on a Disk.
type Store interface {
	fsm.Store
	// Checkpoint makes path, which must not exist, a store of its own with all
	// that was committed before the call and perhaps more, on disk when it
	// returns.
	Checkpoint(path string) error
	// Size is how many bytes the store takes on disk.
	Size() int64
	// Halted tells whether the store has failed so that some of its goroutines
	// stand still for ever.
	Halted() bool
}

// StoreOptions say how a store is opened.
type StoreOptions struct {
	// ReadOnly: it is there already, and is read only.
	ReadOnly bool
	// CacheBytes is the size of its cache; 0 is the disk's default.
	CacheBytes int64
	// Log takes errors of its background work. nil: discarded.
	Log *slog.Logger
	// OnFatal is told, at most once, that it can no longer be trusted. nil: panic.
	OnFatal func(error)
}
