//go:build linux

package fault

import (
	"context"
	"math"
	"time"
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
// over. The node itself is asked whether it has seen it.
func (f *injection) skew(ctx context.Context, offset func(since time.Duration) time.Duration) error {
	m := f.any()
	f.on(m)
	f.later(func(context.Context) error {
		if !m.Up() { // its next clock is right
			return nil
		}
		return m.SetClock(0)
	})
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for since := time.Duration(0); since < f.hold; since = time.Since(began) {
		if err := m.SetClock(offset(since)); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	bound, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	seen, err := m.Metric(bound, "onced_clock_skew_seconds")
	if err != nil {
		return err
	}
	if want := offset(f.hold).Seconds(); math.Abs(seen-want) < math.Abs(want)/2 {
		f.saw("the clock of %s was off by %.3fs", m.Name(), seen)
	}
	return nil
}
