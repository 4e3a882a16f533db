package cluster

import (
	"errors"
	"sync"
	"time"
)

const (
	// maxLag is how long a ready node may be behind the leader, or without a
	// word from one, before it is not ready.
	maxLag = 10 * time.Second
	// closeUp is how little it must be behind to count as caught up.
	closeUp = time.Second
)

// readiness judges whether this node should be sent requests: from when it has
// first caught up with the leader, through elections too, until it drains or
// has been behind for maxLag. A node that hears no leader is behind: it was cut
// off or removed.
type readiness struct {
	applied func() uint64
	now     func() time.Time

	mu       sync.Mutex
	caughtUp bool
	target   uint64    // what the leader had applied when it last told
	told     time.Time // when that was
	// goal is an earlier target: how long it takes to get there is how far
	// behind the node is. A target that moves on says nothing about that.
	goal     uint64
	since    time.Time // when goal was told
	draining bool
}

var (
	errNotCaughtUp = errors.New("this node has not caught up with the leader yet")
	errBehind      = errors.New("this node is more than 10 s behind the leader")
	errUnled       = errors.New("this node has not heard from a leader for 10 s")
	errDraining    = errors.New("this node is stopping")
)

// leaderApplied takes in how far the leader is.
func (r *readiness) leaderApplied(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, applied := r.now(), r.applied()
	if r.late(now, applied) != nil {
		r.caughtUp = false
	}
	if applied >= r.goal {
		r.caughtUp = r.caughtUp || r.goal > 0 && now.Sub(r.since) <= closeUp
		r.goal, r.since = index, now
	}
	r.target, r.told = index, now
	r.caughtUp = r.caughtUp || index > 0 && applied >= index
}

// late says why a node that had caught up has not any more, or nil.
func (r *readiness) late(now time.Time, applied uint64) error {
	switch {
	case now.Sub(r.told) > maxLag:
		return errUnled
	case applied < r.goal && now.Sub(r.since) > maxLag:
		return errBehind
	}
	return nil
}

// lag is how many entries this node is behind.
func (r *readiness) lag() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if applied := r.applied(); applied < r.target {
		return r.target - applied
	}
	return 0
}

func (r *readiness) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

func (r *readiness) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.draining:
		return errDraining
	case !r.caughtUp:
		return errNotCaughtUp
	}
	return r.late(r.now(), r.applied())
}
