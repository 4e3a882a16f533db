package cluster

import (
	"testing"
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
