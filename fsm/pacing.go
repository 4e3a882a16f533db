//go:build !wasip1

package fsm

import (
	"runtime"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The categories of the files that are written in the background: the first two are
// named by Pebble, getDiskWriteCategoryForCompaction.
const (
	flushCategory      vfs.DiskWriteCategory = "pebble-memtable-flush"
	compactionCategory vfs.DiskWriteCategory = "pebble-compaction"
	rowsCategory       vfs.DiskWriteCategory = "onced-rows"
)

const (
	// urgentSublevels is the depth of level 0 from which on compactions are not paced:
	// they begin at 2, and writes wait for them from 24 on.
	urgentSublevels = 8
	// urgentMemTables is the same for flushes; from 4 on writes wait.
	urgentMemTables = 3
)

// pacing is of what a store does in the background.
type pacing struct {
	begin  func() (pause func()) // PebbleOptions.Pace
	db     atomic.Pointer[pebble.DB]
	closes atomic.Bool // whoever closes it waits for what goes on
}

// of returns what a file of category c calls after each politeBytes. Where nothing else
// is asked for it gives way to the other goroutines of the process alone.
func (p *pacing) of(c vfs.DiskWriteCategory) func() {
	switch c {
	case flushCategory, compactionCategory, rowsCategory:
	default:
		return runtime.Gosched
	}
	if p.begin == nil || p.urgent() {
		return runtime.Gosched
	}
	pause := p.begin()
	return func() {
		if p.closes.Load() {
			pause = runtime.Gosched
		}
		pause()
	}
}

// urgent tells whether writes would soon have to wait for the background.
func (p *pacing) urgent() bool {
	db := p.db.Load()
	if db == nil {
		return false // it is being opened, and takes no writes yet
	}
	m := db.Metrics()
	return m.Levels[0].Sublevels >= urgentSublevels || m.MemTable.Count >= urgentMemTables
}
