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
	pause := time.NewTimer(0)
	defer pause.Stop()
	for end := time.Now().Add(sweepFor); time.Now().Before(end); {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		now, ok := n.clock.stamp()
		if !ok {
			return
		}
		since, due, err := n.state.Due(now)
		if err != nil || !due {
			return // a broken store is reported by who applies
		}
		began := time.Now()
		o, err := n.Propose(ctx, &fsm.Command{Kind: fsm.Kind_EXPIRE, Limit: sweepLimit})
		if err != nil {
			return
		}
		n.met.expired.Add(float64(o.Count))
		if o.Count < sweepLimit {
			return
		}
		pause.Reset(sweepPause(time.Since(began), time.Duration(now-since)*time.Millisecond))
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
