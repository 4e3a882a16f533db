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
	// urgentSublevels is the depth of level 0 from which on nothing is paced: compactions
	// of it begin at 2, and writes wait for them from 24 on.
	urgentSublevels = 8
	// urgentMemTables is the same for flushes; from 4 on writes wait.
	urgentMemTables = 3
	// urgentEvery is after how many bytes of a file it is looked whether it is urgent by now.
	urgentEvery = 1 << 20
)

// pacing is of what a store does in the background.
type pacing struct {
	begin func() (pause func(written int64)) // PebbleOptions.Pace
	db    atomic.Pointer[pebble.DB]
	hurry atomic.Bool // somebody waits for all that goes on
}

// of returns what a file of category c calls after each politeBytes, with how many bytes
// have come. Where nothing else is asked for it gives way to the other goroutines of the
// process alone.
func (p *pacing) of(c vfs.DiskWriteCategory) func(written int64) {
	switch c {
	case flushCategory, compactionCategory, rowsCategory:
	default:
		return giveWay
	}
	if p.begin == nil || p.urgent() {
		return giveWay
	}
	pause, looked := p.begin(), int64(0)
	return func(written int64) {
		late := p.hurry.Load()
		if written-looked >= urgentEvery {
			looked, late = written, late || p.urgent()
		}
		if late {
			pause = giveWay
		}
		pause(written)
	}
}

func giveWay(int64) { runtime.Gosched() }

// urgent tells whether writes would soon have to wait for the background.
func (p *pacing) urgent() bool {
	db := p.db.Load()
	if db == nil {
		return false // it is being opened, and takes no writes yet
	}
	m := db.Metrics()
	return m.Levels[0].Sublevels >= urgentSublevels || m.MemTable.Count >= urgentMemTables
}
