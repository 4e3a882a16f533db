package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longestLatency is the highest latency told apart from higher ones.
const longestLatency = time.Hour

// tally counts what the connections of one cell did. Operations that ended
// before its window are left out; failures count whenever they happen.
//
// One histogram serves all connections: one each would not fit the caches,
// and the lock is held for some ten nanoseconds an operation.
type tally struct {
	from, to time.Time // the window

	mu           sync.Mutex
	latency      *hdrhistogram.Histogram // microseconds
	operations   int64                   // done in the window
	failures     map[string]int64
	firstFailure error

	// also, unless nil, counts the same operations by when they began, those
	// outside the window too.
	also *intervals
}

// newTally returns a tally for the window.
func newTally(from, to time.Time) *tally {
	return &tally{
		from:     from,
		to:       to,
		latency:  hdrhistogram.New(1, longestLatency.Microseconds(), 3),
		failures: make(map[string]int64),
	}
}

// add counts an operation begun and ended at the given times. One still under
// way when the window closed counts as latency, so that a stall at the end
// shows, but not as throughput.
func (t *tally) add(begun, ended time.Time, result outcome, detail error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.also != nil {
		t.also.add(begun, ended, result)
	}
	if result != done {
		t.failures[string(result)]++
		if t.firstFailure == nil || (result == wrong && t.failures[string(wrong)] == 1) {
			t.firstFailure = detail
		}
		return
	}
	if ended.Before(t.from) {
		return
	}
	// Cannot fail: the value is within the histogram's range.
	_ = t.latency.RecordValue(min(ended.Sub(begun), longestLatency).Microseconds())
	if ended.Before(t.to) {
		t.operations++
	}
}

// fail counts n operations that were never begun.
func (t *tally) fail(result outcome, n int64) {
	if n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures[string(result)] += n
}

// perThousand returns cost per 1,000 operations, nil if there is no cost or no
// operation to relate it to.
func perThousand(cost *time.Duration, operations int64) *float64 {
	if cost == nil || operations == 0 {
		return nil
	}
	v := cost.Seconds() * 1000 / float64(operations)
	return &v
}

// milliseconds returns the latency that a share of the operations, in percent,
// did not exceed.
func (t *tally) milliseconds(percent float64) float64 {
	return float64(t.latency.ValueAtQuantile(percent)) / 1000
}

// turns add up the tallies of equal windows, and keep the p99 of each.
type turns struct {
	latency    *hdrhistogram.Histogram // nil: there was none
	operations int64
	p99s       []float64 // ms
}

func (ts *turns) add(t *tally) {
	if ts.latency == nil {
		ts.latency = hdrhistogram.New(1, longestLatency.Microseconds(), 3)
	}
	ts.latency.Merge(t.latency)
	ts.operations += t.operations
	ts.p99s = append(ts.p99s, t.milliseconds(99))
}

// p99 is that of all of them together, in ms.
func (ts *turns) p99() float64 { return float64(ts.latency.ValueAtQuantile(99)) / 1000 }

// to relates the p99 of each turn to that of the same turn of others, unless nothing was
// done in one of them.
func (ts *turns) to(others turns) (ratios []float64) {
	for i, other := range others.p99s {
		if other > 0 && ts.p99s[i] > 0 {
			ratios = append(ratios, ts.p99s[i]/other)
		}
	}
	return ratios
}

// schedule says when the operations of an open loop are due.
type schedule struct {
	from, to time.Time
	rate     int64 // operations a second
}

// due returns the time of operation n, counted from 0.
func (s schedule) due(n int64) time.Time {
	whole, part := n/s.rate, n%s.rate
	return s.from.Add(time.Duration(whole)*time.Second + time.Duration(part)*time.Second/time.Duration(s.rate))
}

// total returns how many operations are due before the end.
func (s schedule) total() int64 {
	length := int64(s.to.Sub(s.from))
	second := int64(time.Second)
	n := length / second * s.rate
	// The smallest n whose due time is not before the end.
	part := length % second * s.rate
	n += (part + second - 1) / second
	return n
}
