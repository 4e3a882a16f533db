package state

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	if defaultDisk().(directories).pebble.Pace == nil {
		t.Error("the store of a node is not paced")
	}
	const step = paceBytes / 1000 // due a millisecond after the one before
	var now time.Time
	var slept time.Duration
	pause := paced(func() time.Time { return now }, func(d time.Duration) { slept, now = slept+d, now.Add(d) })
	work := func(steps int, each time.Duration) (rested time.Duration) {
		before := slept
		for range steps {
			now = now.Add(each)
			pause(step)
		}
		return slept - before
	}
	about := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want-2*leastRest || got > want+2*leastRest {
			t.Errorf("%s it rests for %v, want %v", what, got, want)
		}
	}
	about("in 100 ms, of which 25 are work,", work(100, time.Millisecond/4), 75*time.Millisecond)
	about("where the work itself is too slow", work(100, 3*time.Millisecond), 0)
	about("as it makes up for that", work(20, 0), 0)
	about("once it has made up for what it may", work(100, 0), 70*time.Millisecond)
	before := slept
	pause(paceBytes)
	if got := slept - before; got != longestRest {
		t.Errorf("after a second's work at once it rests for %v, want %v", got, longestRest)
	}
}
