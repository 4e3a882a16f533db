package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"
)

func TestIntervalsCountByWhenOperationsWereDue(t *testing.T) {
	const ms = time.Millisecond
	i := newIntervals(noon, 250*ms)
	i.add(noon.Add(-1), noon, done) // before the first part
	i.add(noon, noon.Add(10*ms), done)
	i.add(noon.Add(249*ms), noon.Add(2249*ms), done) // a stall that ends in another part
	i.add(noon.Add(750*ms), noon.Add(751*ms), done)
	i.add(noon.Add(500*ms), noon.Add(501*ms), "503")
	all := i.merge(func(_, _ time.Duration) bool { return true })
	if all.TotalCount() != 3 {
		t.Errorf("%d operations; want 3", all.TotalCount())
	}
	first := i.merge(func(from, _ time.Duration) bool { return from == 0 })
	if first.TotalCount() != 2 || first.Max() < 1_980_000 {
		t.Errorf("first part has %d, at most %d us; want 2 and the stall", first.TotalCount(), first.Max())
	}
	if want := []int64{0, 0, 1, 0}; !slices.Equal(i.failures, want) {
		t.Errorf("failures %v; want %v", i.failures, want)
	}
	points := i.quantiles(100)
	if len(points) != 2 || points[0].X != 0.125 || points[1].X != 0.875 {
		t.Errorf("points %v; want one for each part with an operation", points)
	}
}

func TestTallyCountsInIntervalsToo(t *testing.T) {
	tally := newTally(noon.Add(time.Second), noon.Add(2*time.Second))
	tally.also = newIntervals(noon, time.Second)
	tally.add(noon, noon.Add(time.Millisecond), done, nil) // in the warm-up
	tally.add(noon.Add(time.Second), noon.Add(1001*time.Millisecond), done, nil)
	if n := tally.also.merge(func(_, _ time.Duration) bool { return true }).TotalCount(); n != 2 || tally.operations != 1 {
		t.Errorf("%d in intervals, %d in the window; want 2 and 1", n, tally.operations)
	}
}

func TestRowsCompareWithBefore(t *testing.T) {
	const second = time.Second
	i := newIntervals(noon, second)
	for n := range 20 { // 1 ms, but for the parts of the two events
		latency := time.Millisecond
		switch n {
		case 8:
			latency = 500 * time.Millisecond
		case 12, 15:
			latency = 40 * time.Millisecond
		}
		at := noon.Add(time.Duration(n) * second)
		i.add(at, at.Add(latency), done)
	}
	events := []event{
		{snapshotOf + "n2", 15*second + 1, 15*second + 2},
		{"leader killed", 8 * second, 8*second + second/2},
		{snapshotOf + "n1", 12*second + 1, 12*second + 2},
	}
	got := rows(workNew, i, events)
	if len(got) != 2 {
		t.Fatalf("rows %+v; want one for each kind of event", got)
	}
	near := func(v, want float64) bool { return v > want*0.98 && v < want*1.02 }
	if r := got[0]; r.Event != "leader killed" || r.At != 8 || r.Times != 1 || !near(r.Before, 1) || !near(r.During, 500) || !near(r.Worst, 500) {
		t.Errorf("row %+v", r)
	}
	if r := got[1]; r.Event != "snapshot" || r.Times != 2 || !near(r.Before, 1) || !near(r.During, 40) || !near(r.Worst, 40) {
		t.Errorf("row %+v", r)
	}
}

func TestTimelineRunsThroughItsEvents(t *testing.T) {
	t.Parallel()
	dir, plot := t.TempDir(), t.TempDir()+"/timeline.png"
	var out, progress bytes.Buffer
	err := run(lasting(t), []string{"timeline", "--dir", dir, "--rate", "50", "--replay-rate", "50", "--connections", "8", "--keys", "200",
		"--expiring", "200", "--between", "2s", "--plot", plot, "--json"}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	seen := map[string]int{}
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var r eventRow
		if err := decoder.Decode(&r); err != nil {
			t.Fatal(err)
		}
		seen[r.Event]++
	}
	for _, event := range []string{"leadership transferred", "leader killed", "killed node back", "expiry of 200"} {
		if seen[event] != 2 {
			t.Errorf("%s has %d rows; want one for each kind of work; all: %v", event, seen[event], seen)
		}
	}
	wantPlot(t, plot)
	wantEmpty(t, dir)
}
