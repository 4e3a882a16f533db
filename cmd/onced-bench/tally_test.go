package main

import (
	"errors"
	"math"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestTallyCountsItsWindow(t *testing.T) {
	const second = time.Second
	tests := []struct {
		name         string
		begun, ended time.Duration // after the window's start
		operations   int64
		latencies    int64
	}{
		{"in the warm-up", -second, -1, 0, 0},
		{"begun in the warm-up", -second, 0, 1, 1},
		{"inside", second, 2 * second, 1, 1},
		{"ended with the window", 7 * second, 8 * second, 0, 1},
		{"ended after it", 7 * second, 9 * second, 0, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tally := newTally(noon, noon.Add(8*second))
			tally.add(noon.Add(test.begun), noon.Add(test.ended), done, nil)
			if tally.operations != test.operations || tally.latency.TotalCount() != test.latencies {
				t.Errorf("%d operations, %d latencies; want %d and %d", tally.operations, tally.latency.TotalCount(), test.operations, test.latencies)
			}
		})
	}
}

func TestTurnsAreComparedTogetherAndOneByOne(t *testing.T) {
	of := func(milliseconds ...int) (ts turns) {
		for _, ms := range milliseconds {
			tally := newTally(noon, noon.Add(time.Second))
			for range min(ms, 1) * 100 { // of one in which nothing took any time, nothing is known
				tally.add(noon, noon.Add(time.Duration(ms)*time.Millisecond), done, nil)
			}
			ts.add(tally)
		}
		return ts
	}
	with, without := of(20, 0, 30, 5), of(10, 10, 0, 10)
	ratios := with.to(without)
	if len(ratios) != 2 || math.Abs(ratios[0]-2) > 0.01 || math.Abs(ratios[1]-0.5) > 0.01 {
		t.Errorf("turn by turn %v; want about 2 and 0.5", ratios)
	}
	if p99 := with.p99(); math.Abs(p99-30) > 0.1 {
		t.Errorf("p99 of all %v ms; want about 30", p99)
	}
	if with.operations != 300 {
		t.Errorf("%d operations; want 300", with.operations)
	}
}

func TestTallyCountsFailuresByKind(t *testing.T) {
	tally := newTally(noon, noon.Add(time.Second))
	busy, bad := errors.New("busy"), errors.New("bad")
	tally.add(noon.Add(-time.Second), noon, "503", busy)
	tally.add(noon, noon, "409", errors.New("in progress"))
	tally.add(noon, noon, "503", errors.New("busy again"))
	if tally.firstFailure != busy {
		t.Errorf("first failure %v; want %v", tally.firstFailure, busy)
	}
	tally.add(noon, noon, wrong, bad)
	tally.add(noon, noon, wrong, errors.New("bad again"))
	if tally.firstFailure != bad {
		t.Errorf("first failure %v; want the first wrong answer", tally.firstFailure)
	}
	tally.fail(unsent, 5)
	tally.fail(timedOut, 0)
	if got, want := tell(tally.failures), "409:1 503:2 unsent:5 wrong:2"; got != want {
		t.Errorf("failures %s; want %s", got, want)
	}
	if tally.operations != 0 || tally.latency.TotalCount() != 0 {
		t.Error("failures count as operations")
	}
}

func TestQuantiles(t *testing.T) {
	tally := newTally(noon, noon.Add(time.Minute))
	for i := 1; i <= 10_000; i++ { // 0.01 ms to 100 ms
		tally.add(noon, noon.Add(time.Duration(i)*10*time.Microsecond), done, nil)
	}
	for percent, want := range map[float64]float64{50: 50, 99: 99, 99.9: 99.9, 100: 100} {
		if got := tally.milliseconds(percent); math.Abs(got-want) > want/1000 {
			t.Errorf("quantile %v is %v ms; want %v", percent, got, want)
		}
	}
	tally.add(noon, noon.Add(2*longestLatency), done, nil)
	if got, want := tally.milliseconds(100), longestLatency.Seconds()*1000; math.Abs(got-want) > want/1000 {
		t.Errorf("beyond the longest: %v ms; want %v", got, want)
	}
}

func TestPerThousand(t *testing.T) {
	cost := 3 * time.Second
	if got := perThousand(&cost, 20_000); got == nil || *got != 0.15 {
		t.Errorf("3 s for 20,000 is %v a thousand; want 0.15", got)
	}
	if perThousand(nil, 1) != nil || perThousand(&cost, 0) != nil {
		t.Error("a quotient of nothing")
	}
}

func TestScheduleIsEven(t *testing.T) {
	for _, rate := range []int64{1, 3, 7, 1000, 999_999, maxRate} {
		for _, length := range []time.Duration{1, time.Millisecond, time.Second - 1, time.Second, 1500*time.Millisecond + 1, time.Hour} {
			s := schedule{from: noon, to: noon.Add(length), rate: rate}
			total := s.total()
			if !s.due(total-1).Before(s.to) || s.due(total).Before(s.to) {
				t.Errorf("rate %d over %s: operation %d of %d is due at %s, the one after it at %s", rate, length,
					total, total, s.due(total-1).Sub(noon), s.due(total).Sub(noon))
			}
			exact := float64(rate) * length.Seconds()
			if math.Abs(float64(total)-exact) >= 1 {
				t.Errorf("rate %d over %s: %d operations; want %v", rate, length, total, exact)
			}
		}
	}
	s := schedule{from: noon, to: noon.Add(time.Hour), rate: 3}
	if got, want := s.due(4).Sub(noon), time.Second+333_333_333; got != want {
		t.Errorf("operation 4 at 3 a second is due after %s; want %s", got, want)
	}
}
