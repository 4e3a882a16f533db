//go:build !wasip1

package state

import (
	"runtime"
	"time"
)

const (
	// restShare is how many times as long as it has worked the store's background
	// work rests: it takes a quarter of a processor at most.
	restShare = 3
	// leastWork is how long it works until it rests: timers are not much finer.
	leastWork = time.Millisecond
	// longestRest bounds a rest after work that was interrupted for long.
	longestRest = 20 * time.Millisecond
)

// pace implements fsm.PebbleOptions.Pace. Where requests take most of what the processors
// can do, a second of work in one go, on each of the nodes at the same time, has them
// queue up for as long.
func pace() (pause func()) {
	began := time.Now()
	return func() {
		worked := time.Since(began)
		if worked < leastWork {
			runtime.Gosched()
			return
		}
		time.Sleep(min(restShare*worked, longestRest))
		began = time.Now()
	}
}
