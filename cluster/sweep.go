package cluster

import (
	"context"
	"time"

	"github.com/onced/onced/fsm"
)

const (
	// sweepLimit bounds what one expire entry may touch: each costs every node a
	// read and two writes, for which all behind it in the log wait.
	sweepLimit = 250
	// leastSweeping is the part of the time that sweeping takes at least, where
	// there is enough to sweep.
	leastSweeping = 0.25
	// farBehind is how long the first record has been due when the sweep no
	// longer leaves time to others.
	farBehind = time.Minute
	// sweepFor is how long one sweep lasts: the leader has other duties.
	sweepFor = time.Second
)

// sweep proposes expire entries until nothing is due, or sweepFor is over. A
// deposed leader's proposal fails by itself.
func (n *Node) sweep(ctx context.Context) {
	sweepPaced(ctx, n.behind, func() (uint32, error) {
		o, err := n.Propose(ctx, &fsm.Command{Kind: fsm.Kind_EXPIRE, Limit: sweepLimit})
		if err != nil {
			return 0, err
		}
		n.met.expired.Add(float64(o.Count))
		return o.Count, nil
	})
}

// behind returns for how long the first record has been due, and whether one is.
func (n *Node) behind() (behind time.Duration, due bool) {
	now, ok := n.clock.stamp()
	if !ok {
		return 0, false
	}
	since, due, err := n.state.Due(now)
	// A broken store is reported by who applies.
	return time.Duration(now-since) * time.Millisecond, err == nil && due
}

// sweepPaced calls expire, which returns how many records it touched, until there
// are no more of them, with pauses that leave the log to others. A pause
// that has begun within sweepFor is kept, or a slow log would be left to nobody.
func sweepPaced(ctx context.Context, behind func() (time.Duration, bool), expire func() (uint32, error)) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for end := time.Now().Add(sweepFor); time.Now().Before(end); {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		late, due := behind()
		if !due {
			return
		}
		began := time.Now()
		if count, err := expire(); err != nil || count < sweepLimit {
			return
		}
		pause.Reset(sweepPause(time.Since(began), late))
	}
}

// sweepPause is how long the sweep leaves the log to others after an entry that
// took so long: the further it is behind, the shorter. What has ended counts as
// ended whether it was swept or not, so a million keys that end at once are in no
// hurry; but they are swept as fast as others come to be due.
func sweepPause(took, behind time.Duration) time.Duration {
	part := min(max(leastSweeping, behind.Seconds()/farBehind.Seconds()), 1)
	return time.Duration(float64(took) * (1 - part) / part)
}
