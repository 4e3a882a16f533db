package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot/plotter"
)

// intervals count operations by when they were due, in equal parts of time: a
// stall shows in the parts whose operations it delayed.
type intervals struct {
	from time.Time
	each time.Duration

	mu       sync.Mutex
	latency  []*hdrhistogram.Histogram // microseconds; nil: none
	failures []int64
}

// newIntervals returns parts that begin at from. There are as many as there is
// something to count in, but what is due before from is left out.
func newIntervals(from time.Time, each time.Duration) *intervals {
	return &intervals{from: from, each: each}
}

// add counts an operation due and ended at the given times.
func (i *intervals) add(due, ended time.Time, result outcome) {
	if due.Before(i.from) {
		return
	}
	n := int(due.Sub(i.from) / i.each)
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.latency) <= n {
		i.latency, i.failures = append(i.latency, nil), append(i.failures, 0)
	}
	if result != done {
		i.failures[n]++
		return
	}
	if i.latency[n] == nil {
		i.latency[n] = hdrhistogram.New(1, longestLatency.Microseconds(), 2)
	}
	// Cannot fail: the value is within the histogram's range.
	_ = i.latency[n].RecordValue(min(ended.Sub(due), longestLatency).Microseconds())
}

// merge adds up the parts of which which says so, by when they begin and end,
// counted from the start.
func (i *intervals) merge(which func(from, to time.Duration) bool) *hdrhistogram.Histogram {
	i.mu.Lock()
	defer i.mu.Unlock()
	sum := hdrhistogram.New(1, longestLatency.Microseconds(), 2)
	for n, h := range i.latency {
		if from := time.Duration(n) * i.each; h != nil && which(from, from+i.each) {
			sum.Merge(h)
		}
	}
	return sum
}

// quantiles returns a quantile of each part in milliseconds, at its middle in
// seconds. Parts without an operation are left out.
func (i *intervals) quantiles(percent float64) plotter.XYs {
	i.mu.Lock()
	defer i.mu.Unlock()
	var points plotter.XYs
	for n, h := range i.latency {
		if h == nil {
			continue
		}
		middle := time.Duration(n)*i.each + i.each/2
		points = append(points, plotter.XY{X: middle.Seconds(), Y: float64(h.ValueAtQuantile(percent)) / 1000})
	}
	return points
}
