//go:build !wasip1

package state

import (
	"runtime"
	"time"
)

const (
	// paceBytes is how much of a file the store's background work writes in a second,
	// where a processor could write several times as much.
	paceBytes = 32 << 20
	// leastRest is the shortest rest: timers are not much finer.
	leastRest = time.Millisecond
	// longestRest bounds one rest, for who waits for the work to end.
	longestRest = 50 * time.Millisecond
	// mostLate bounds how late it may be and still make up for it.
	mostLate = 50 * time.Millisecond
)

// pace implements fsm.PebbleOptions.Pace: all rests of a file together last no longer
// than paceBytes allow for. Where requests take most of what the processors can do, some
// tenths of a second of work in one go, on each of the nodes at the same time, have them
// queue up for as long.
func pace() (pause func(written int64)) { return paced(time.Now, time.Sleep) }

func paced(now func() time.Time, sleep func(time.Duration)) (pause func(written int64)) {
	began := now()
	return func(written int64) {
		due := time.Duration(written * int64(time.Second) / paceBytes)
		early := due - now().Sub(began)
		switch {
		case early >= leastRest:
			sleep(min(early, longestRest))
		case early < -mostLate:
			began = now().Add(-due - mostLate)
			fallthrough
		default:
			runtime.Gosched()
		}
	}
}
