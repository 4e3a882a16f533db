package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestASweepLeavesTheLogToOthersUntilItIsFarBehind(t *testing.T) {
	const took = 12 * time.Millisecond
	for _, test := range []struct{ behind, want time.Duration }{
		{-time.Second, 36 * time.Millisecond}, // the clock of the stamp is another's
		{0, 36 * time.Millisecond},
		{15 * time.Second, 36 * time.Millisecond},
		{30 * time.Second, 12 * time.Millisecond},
		{45 * time.Second, 4 * time.Millisecond},
		{time.Minute, 0},
		{1000 * time.Hour, 0},
	} {
		if got := sweepPause(took, test.behind); got.Round(time.Microsecond) != test.want {
			t.Errorf("%v behind it pauses %v; want %v", test.behind, got, test.want)
		}
	}
}

func TestASweepEnds(t *testing.T) {
	const took = 10 * time.Millisecond
	whole := func(int) (uint32, error) { return sweepLimit, nil }
	for name, test := range map[string]struct {
		behind  time.Duration
		due     int // how often there is something
		expire  func(entry int) (uint32, error)
		stop    time.Duration // 0: never
		entries int
	}{
		"at once where nothing is due":                      {0, 0, whole, 0, 0},
		"when nothing more is due":                          {0, 3, whole, 0, 3},
		"with the first entry that is not full":             {0, 9, func(entry int) (uint32, error) { return sweepLimit - uint32(entry), nil }, 0, 2},
		"when an entry fails":                               {0, 9, func(int) (uint32, error) { return 0, errors.New("deposed") }, 0, 1},
		"after a second, though more is due":                {0, 1 << 20, whole, 0, int(sweepFor/(4*took)) + 1},
		"after a second, though it is far behind":           {farBehind, 1 << 20, whole, 0, int(sweepFor / took)},
		"when the leadership ends, in the midst of a pause": {0, 1 << 20, whole, 2 * took, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.stop > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.stop)
					defer cancel()
				}
				asked, entries := 0, 0
				sweepPaced(ctx, func() (time.Duration, bool) {
					asked++
					return test.behind, asked <= test.due
				}, func() (uint32, error) {
					time.Sleep(took)
					entries++
					return test.expire(entries - 1)
				})
				if entries != test.entries {
					t.Errorf("%d entries; want %d", entries, test.entries)
				}
			})
		})
	}
}
