package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// ballastBytes are kept allocated and never touched, so that they take address
	// space and no memory. The collector runs when what is allocated has doubled and
	// counts them as well: with few keys stored, 25 MiB, it ran eight times a second
	// under load, which cost a tenth of the new keys (docs/performance.md). A node may have so
	// much more garbage instead.
	ballastBytes = 64 << 20
	// mostGarbage is about what may gather before the collector runs. It would be as
	// much as is held, which with many keys is mostly the index of their hashes.
	mostGarbage = 2 * ballastBytes
	// leastPercent bounds how often it runs for that: where more than five times
	// mostGarbage is held, a fifth of it may gather.
	leastPercent = 20
	// collectorEvery is the time between two looks at how much is held.
	collectorEvery = 5 * time.Second
)

// collector is how the garbage collector is seen and set.
type collector struct {
	held       func() uint64               // bytes that it found in use when it last ran
	setPercent func(percent int) (old int) // debug.SetGCPercent
}

// tendCollector has the garbage collector run about as often with millions of keys as
// with none, until release is called; or leaves it alone, if the environment says how it
// is to run. It is set for the whole process.
func tendCollector() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	ballast := make([]byte, ballastBytes)
	stop := make(chan struct{})
	var tending sync.WaitGroup
	tending.Go(func() {
		ticks := time.NewTicker(collectorEvery)
		defer ticks.Stop()
		collector{heldBytes, debug.SetGCPercent}.tend(stop, ticks.C)
	})
	return func() {
		close(stop)
		tending.Wait()
		runtime.KeepAlive(ballast)
	}
}

// tend sets the percentage by what is held, at each tick until stop is closed. Then it
// is again what it was.
func (c collector) tend(stop <-chan struct{}, ticks <-chan time.Time) {
	percent := percentFor(c.held())
	was := c.setPercent(percent)
	defer func() { c.setPercent(was) }()
	for {
		select {
		case <-stop:
			return
		case <-ticks:
		}
		if now := percentFor(c.held()); now != percent {
			percent = now
			c.setPercent(percent)
		}
	}
}

// percentFor returns the GOGC by which mostGarbage gathers beside so many bytes that
// are held: never more than Go's own 100, in steps of 5.
func percentFor(held uint64) int {
	if held <= mostGarbage {
		return 100
	}
	return max(leastPercent, int(100*mostGarbage/held)/5*5)
}

func heldBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
