//go:build !wasip1

package logstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft-wal/types"
)

// removal removes files in the background, one after the other.
//
// raft-wal 0.4.2 removes the segments that a truncation leaves empty while it holds
// the lock that appends wait for, and syncs the directory after each: after a
// snapshot, of some twenty, for 200 to 300 ms. No sync is needed: a segment that
// is there again after a power cut is not in the list of segments, so raft-wal
// removes it when it opens the log.
type removal struct {
	types.VFS
	log    hclog.Logger
	remove func(path string) error // os.Remove

	mu      sync.Mutex
	doomed  []string // paths
	running bool     // a goroutine removes them
	closed  bool     // and is to end
	wg      sync.WaitGroup
}

func newRemoval(fs types.VFS, log hclog.Logger) *removal {
	return &removal{VFS: fs, log: log, remove: os.Remove}
}

// Delete implements types.VFS: it has the file removed.
func (r *removal) Delete(dir, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doomed = append(r.doomed, filepath.Join(dir, name))
	if !r.running && !r.closed {
		r.running = true
		r.wg.Go(r.run)
	}
	return nil
}

func (r *removal) run() {
	for path, found := r.next(); found; path, found = r.next() {
		// The log goes on: it takes room on the disk, and no more.
		if err := r.remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.log.Error("an old segment cannot be removed", "error", err)
		}
	}
}

// next takes the first of the files, and ends the removing if there is none, or r is
// being closed.
func (r *removal) next() (path string, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.doomed) == 0 {
		r.running = false
		return "", false
	}
	path, r.doomed = r.doomed[0], r.doomed[1:]
	return path, true
}

// close ends the removing. What is left is removed with the next start.
func (r *removal) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
