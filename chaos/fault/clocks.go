//go:build linux

package fault

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/onced/onced/chaos/node"
)

// clockStep moves the clock of one node by up to a day, ahead or behind.
func clockStep(ctx context.Context, f *injection) error {
	offset := time.Minute + time.Duration(f.chance.Int64N(int64(25*time.Hour)))
	if f.chance.IntN(2) == 0 {
		offset = -offset
	}
	return f.skew(ctx, func(time.Duration) time.Duration { return offset })
}

// clockDrift makes the clock of one node run up to twice as fast, or stand
// nearly still.
func clockDrift(ctx context.Context, f *injection) error {
	rate := 0.4 + 0.5*f.chance.Float64()
	if f.chance.IntN(2) == 0 {
		rate = -rate
	}
	return f.skew(ctx, func(since time.Duration) time.Duration { return time.Duration(rate * float64(since)) })
}

// skew has the clock of a node be off by what offset says, until the fault is
// over. The node itself is asked whether it has seen it. Where another fault has
// ended or paused it meanwhile, the next node is taken.
func (f *injection) skew(ctx context.Context, offset func(since time.Duration) time.Duration) error {
	m := f.any()
	f.on(m)
	first := m
	f.later(func(context.Context) error { return setClock(first, 0) })
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	seen := 0.0
	for n, since := 1, time.Duration(0); since < f.hold; n, since = n+1, time.Since(began) {
		if next := f.awake(m); seen == 0 && next != m {
			m = next
			f.on(m)
			f.later(func(context.Context) error { return setClock(next, 0) })
		}
		if err := setClock(m, offset(since)); err != nil {
			return err
		}
		if n%10 == 0 {
			seen = max(seen, seenSkew(ctx, m, offset(time.Since(began))))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if seen > 0 {
		f.saw("the clock of %s was off by %.3fs, by its own word", m.Name(), seen)
	}
	return nil
}

// awake is m if it runs, and else the first node that does.
func (f *injection) awake(m *Member) *Member {
	for _, candidate := range append([]*Member{m}, f.Nodes...) {
		if candidate.Up() && !candidate.Paused() {
			return candidate
		}
	}
	return m
}

// setClock sets the clock of a node, if it is up.
func setClock(m *Member, offset time.Duration) error {
	if err := m.SetClock(offset); !errors.Is(err, node.ErrNotUp) {
		return err
	}
	return nil
}

// seenSkew is how far, in seconds, a node takes its clock to be off, if that is
// about want, and 0 otherwise.
func seenSkew(ctx context.Context, m *Member, want time.Duration) float64 {
	ctx, cancel := context.WithTimeout(ctx, answerWithin/4)
	defer cancel()
	seen, err := m.Metric(ctx, "onced_clock_skew_seconds")
	if err != nil || math.Abs(seen-want.Seconds()) > math.Abs(want.Seconds())/2 {
		return 0
	}
	return math.Abs(seen)
}
