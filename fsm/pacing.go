//go:build !wasip1

package fsm

import (
	"runtime"
	"sync"
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
	// urgentMemTables is the same for flushes; writes wait for four full ones.
	urgentMemTables = 3
	// urgentEvery is after how many bytes of work it is looked whether it is urgent by now.
	urgentEvery = 1 << 20
)

// pacing is of what a store does in the background: of flushes, for which writes wait soonest,
// and of all the rest, which has the time of one kind of work however many go on.
type pacing struct {
	db             atomic.Pointer[pebble.DB]
	hurry          atomic.Bool // somebody waits for all that goes on
	flushes, other lane
}

// lane is work of which one piece is done after the other.
type lane struct {
	*pacing
	mu     sync.Mutex    // held by who rests, and so the others of the lane do
	pause  func(n int64) // nil: nothing is paced
	looked int64         // how many bytes have come since it was looked whether it is urgent
	urgent bool
}

// newPacing makes a pacing by PebbleOptions.Pace.
func newPacing(pace func() func(int64)) *pacing {
	p := new(pacing)
	for _, l := range []*lane{&p.flushes, &p.other} {
		l.pacing, l.looked = p, urgentEvery
		if pace != nil {
			l.pause = pace()
		}
	}
	return p
}

// of returns what has to be called after each politeBytes, or more, of a file of category c,
// with how many came. What is not work of the background gives way to the other goroutines
// of the process alone.
func (p *pacing) of(c vfs.DiskWriteCategory) func(n int64) {
	switch c {
	case flushCategory:
		return p.flushes.did
	case compactionCategory, rowsCategory:
		return p.other.did
	}
	return giveWay
}

func giveWay(int64) { runtime.Gosched() }

// did has the work that it is called by wait, once n more bytes of it are done.
func (l *lane) did(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pause == nil || l.hurry.Load() {
		giveWay(n)
		return
	}
	// Seldom: it waits for a write of the manifest that is going on.
	if l.looked += n; l.looked >= urgentEvery {
		l.looked, l.urgent = 0, l.isUrgent()
	}
	if l.urgent {
		giveWay(n)
	} else {
		l.pause(n)
	}
}

// What parts of making a row file take, as many bytes of a file whose writing takes about as
// long: to pass a key in Pebble, to sort one into the directory, to find one in the new file.
const (
	passWork = 64
	sortWork = 32
	findWork = 256
)

// work is what one goroutine does beside reading and writing files. Where there is none, nil,
// it need not be paced.
type work struct {
	did   func(n int64) // see pacing.of
	since int64
}

// add counts n bytes more, and now and then waits.
func (w *work) add(n int64) {
	if w == nil {
		return
	}
	if w.since += n; w.since >= politeBytes {
		w.did(w.since)
		w.since = 0
	}
}

// isUrgent tells whether writes would soon have to wait for the background.
func (p *pacing) isUrgent() bool {
	db := p.db.Load()
	if db == nil {
		return false // it is being opened, and takes no writes yet
	}
	m := db.Metrics()
	return m.Levels[0].Sublevels >= urgentSublevels || m.MemTable.Count >= urgentMemTables
}
