package main

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestBallastIsHeldUnlessTheCollectorIsSet(t *testing.T) {
	for name, tc := range map[string]struct {
		variable string
		want     bool
	}{
		"nothing is set":    {"", true},
		"GOGC is set":       {"GOGC", false},
		"GOMEMLIMIT is set": {"GOMEMLIMIT", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			if tc.variable != "" {
				t.Setenv(tc.variable, "100")
			}
			before := allocated()
			release := tendCollector()
			held := allocated()-before >= ballastBytes*9/10 // other tests may free something
			release()
			if held != tc.want {
				t.Errorf("held: %v, want %v", held, tc.want)
			}
			if after := allocated(); after-before >= ballastBytes*9/10 {
				t.Errorf("%d bytes are held after the release", after-before)
			}
		})
	}
}

func TestPercentOfGarbage(t *testing.T) {
	for held, want := range map[uint64]int{
		0: 100, ballastBytes: 100, mostGarbage: 100, mostGarbage + 1: 95, 2 * mostGarbage: 50, 3 * mostGarbage: 30, 1 << 40: leastPercent,
	} {
		if got := percentFor(held); got != want {
			t.Errorf("%d bytes held: %d %%, want %d", held, got, want)
		}
	}
}

// TestTheCollectorFollowsWhatIsHeld: it is set only where that has changed something, and at
// the end as it was.
func TestTheCollectorFollowsWhatIsHeld(t *testing.T) {
	held := []uint64{0, mostGarbage, 2 * mostGarbage, 2 * mostGarbage, ballastBytes}
	looks, percent := 0, 77
	var set []int
	c := collector{
		held: func() uint64 { looks++; return held[looks-1] },
		setPercent: func(p int) int {
			was := percent
			percent, set = p, append(set, p)
			return was
		},
	}
	stop, ticks := make(chan struct{}), make(chan time.Time)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.tend(stop, ticks)
	}()
	for range held[1:] {
		ticks <- time.Time{}
	}
	close(stop)
	<-ended
	if want := []int{100, 50, 100, 77}; !slices.Equal(set, want) {
		t.Errorf("it was set to %v, want %v", set, want)
	}
}

func TestHeldBytesAreWhatTheCollectorFound(t *testing.T) {
	ballast := make([]byte, ballastBytes)
	runtime.GC()
	if held := heldBytes(); held < ballastBytes || held > ballastBytes*16 {
		t.Errorf("%d bytes; %d are held at least", held, ballastBytes)
	}
	runtime.KeepAlive(ballast)
}

// allocated returns the bytes that are in use.
func allocated() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
