package cluster

import (
	"slices"
	"sync"
	"time"
)

// clock knows cluster time on this node: as the leader it computes the time to
// stamp, elsewhere it follows what the leader tells.
//
// The leader stamps the highest time that a majority of the voters' clocks
// have reached, so no single clock can end anything early or hold time back.
// A voter that was not heard in this term, or not lately, is taken to be where
// cluster time was, and has run on to: else, while it is away, one clock an hour
// behind would hold time back, and leases granted meanwhile would end at once
// when it is back; and what a clock showed that was wrong would count for ever
// beside another that goes wrong later.
type clock struct {
	wall func() time.Time // may be wrong, and may step
	self string

	mu sync.Mutex
	// readings are the peers' wall clocks as this node heard them in the
	// current term. Between readings they are taken to run on by this node's
	// monotonic clock.
	readings map[string]reading
	voters   []string
	heard    reading // the leader's time, as last told
	floor    reading // the time of the last entry applied
}

// lately is how old a reading may be. A voter that answers is heard ten times a
// second.
const lately = 3 * time.Second

type reading struct {
	ms int64
	at time.Time // of receipt: so the sum is never ahead of the far clock
}

func (r reading) now() int64 {
	if r.at.IsZero() {
		return 0
	}
	return r.ms + time.Since(r.at).Milliseconds()
}

func newClock(self string, wall func() time.Time) *clock {
	return &clock{wall: wall, self: self, readings: map[string]reading{}}
}

// reset forgets the readings: a new leader grants nothing before it has heard
// a majority in its own term.
func (c *clock) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readings = map[string]reading{}
}

func (c *clock) setVoters(ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.voters = ids
}

// read takes in a peer's wall clock.
func (c *clock) read(peer string, ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readings[peer] = reading{ms, time.Now()}
}

// hear takes in the leader's time.
func (c *clock) hear(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ms != c.heard.now() { // else a part of a millisecond is lost each time
		c.heard = reading{ms, time.Now()}
	}
}

// applied takes in the time of an applied entry.
func (c *clock) applied(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor = reading{max(c.floor.ms, ms), time.Now()}
}

// stamp returns the time for an entry, and false while fewer than a majority
// of the voters' clocks are known.
func (c *clock) stamp() (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.majority()
}

func (c *clock) majority() (int64, bool) {
	var known [8]int64
	times := known[:0]
	heard := 0 // in this term
	for _, id := range c.voters {
		if id == c.self {
			times = append(times, c.wall().UnixMilli())
			heard++
		} else if r, ok := c.readings[id]; ok {
			if time.Since(r.at) <= lately {
				times = append(times, r.now())
			}
			heard++
		}
	}
	quorum := len(c.voters)/2 + 1
	if heard < quorum {
		return 0, false
	}
	if at, ok := c.ranOnTo(); ok {
		for len(times) < len(c.voters) {
			times = append(times, at)
		}
	}
	if len(times) < quorum {
		return 0, false
	}
	slices.Sort(times)
	return times[len(times)-quorum], true
}

// ranOnTo is where cluster time was when this node last knew it, and has run on
// to. After a start nobody has told it yet; then the last entry did.
func (c *clock) ranOnTo() (int64, bool) {
	if !c.heard.at.IsZero() {
		return c.heard.now(), true
	}
	return c.floor.now(), c.floor.ms > 0
}

// now estimates cluster time: what the leader stamps at this moment, or
// somewhat less.
func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.floor.ms, c.heard.now())
}

// skew is how far this node's wall clock is ahead of cluster time, and false
// before cluster time is known.
func (c *clock) skew() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard.at.IsZero() {
		return 0, false
	}
	return time.Duration(c.wall().UnixMilli()-c.heard.now()) * time.Millisecond, true
}
