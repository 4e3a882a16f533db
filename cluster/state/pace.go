//go:build !wasip1

package state

import (
	"runtime"
	"time"
)

const (
	// paceBytes is how much the store's background work of one kind reads and writes in a
	// second, where a processor could do several times as much.
	paceBytes = 16 << 20
	// leastRest is the shortest rest: timers are not much finer.
	leastRest = time.Millisecond
	// longestRest bounds one rest, for who waits for the work to end.
	longestRest = 50 * time.Millisecond
	// mostLate bounds how late it may be and still make up for it.
	mostLate = 50 * time.Millisecond
)

// pace implements fsm.PebbleOptions.Pace: the work is done at paceBytes a second at most.
// Where requests take most of what the processors can do, some tenths of a second of work
// in one go, on each of the nodes at the same time, have them queue up for as long.
func pace() (pause func(n int64)) { return paced(time.Now, time.Sleep) }

func paced(now func() time.Time, sleep func(time.Duration)) (pause func(n int64)) {
	due := now() // when what was done so far should have been, at the earliest
	return func(n int64) {
		due = due.Add(time.Duration(n * int64(time.Second) / paceBytes))
		switch early := due.Sub(now()); {
		case early >= leastRest:
			sleep(min(early, longestRest))
		case early < -mostLate:
			due = now().Add(-mostLate)
			fallthrough
		default:
			runtime.Gosched()
		}
	}
}
