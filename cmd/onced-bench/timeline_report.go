package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"image/color"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// beforeEvent is how long before an event its latency is compared with.
const beforeEvent = 5 * time.Second

// eventRow is what an event did to the latency of one kind of work. Latency is
// that of the operations due before and during it.
type eventRow struct {
	Event   string  `json:"event"`
	Work    string  `json:"work"`
	At      float64 `json:"at_seconds"` // the first, of several
	Times   int     `json:"times"`
	Seconds float64 `json:"seconds"` // all together
	// Before is of the five seconds before; of events that happen by
	// themselves, of all parts of time in which nothing happens.
	Before   float64 `json:"p99_before_ms"`
	During   float64 `json:"p99_during_ms"`
	Worst    float64 `json:"max_during_ms"`
	Failures int64   `json:"failures_of_whole_run"`
}

// happened groups events: those that happen by themselves by their kind.
func happened(events []event) [][]event {
	kind := func(e event) string {
		for _, own := range []string{snapshotOf, compactionOf} {
			if strings.HasPrefix(e.name, own) {
				return own
			}
		}
		return e.name
	}
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.from, b.from) })
	var groups [][]event
	for _, e := range events {
		i := slices.IndexFunc(groups, func(g []event) bool { return kind(g[0]) == kind(e) })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], e)
	}
	return groups
}

// within tells whether a part of time touches any of the events.
func within(events []event) func(from, to time.Duration) bool {
	return func(from, to time.Duration) bool {
		return slices.ContainsFunc(events, func(e event) bool { return e.from < to && from <= e.to })
	}
}

// rows says of each group of events what it did to one kind of work.
func rows(work string, i *intervals, events []event) []eventRow {
	var all []eventRow
	for _, g := range happened(events) {
		row := eventRow{Event: g[0].name, Work: work, At: g[0].from.Seconds(), Times: len(g)}
		before := func(from, to time.Duration) bool { return from >= g[0].from-beforeEvent && to <= g[0].from }
		for own, name := range map[string]string{snapshotOf: "snapshot", compactionOf: "compaction"} {
			if strings.HasPrefix(row.Event, own) {
				row.Event = name
				before = func(from, to time.Duration) bool { return !within(events)(from, to) }
			}
		}
		for _, e := range g {
			row.Seconds += (e.to - e.from).Seconds()
		}
		during := i.merge(within(g))
		row.Before = float64(i.merge(before).ValueAtQuantile(99)) / 1000
		row.During, row.Worst = float64(during.ValueAtQuantile(99))/1000, float64(during.Max())/1000
		for _, n := range i.failures {
			row.Failures += n
		}
		all = append(all, row)
	}
	return all
}

// report prints what each event did, and draws the plot.
func (r *timelineRun) report(w io.Writer) error {
	all := slices.Concat(rows(workNew, r.made, r.events), rows(workReplay, r.replays, r.events))
	slices.SortStableFunc(all, func(a, b eventRow) int { return cmp.Compare(a.At, b.At) })
	var err error
	if r.JSON {
		for _, row := range all {
			err = cmp.Or(err, json.NewEncoder(w).Encode(row))
		}
	} else {
		err = writeEventTable(w, all)
	}
	for i, work := range []string{workNew, workReplay} {
		fmt.Fprintf(r.progress, "%s: %d done, failures %s\n", work, r.tallies[i].operations, tell(r.tallies[i].failures))
	}
	if err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	if r.Plot == "" {
		return nil
	}
	return writeFile(r.Plot, r.plotTo)
}

func writeEventTable(w io.Writer, all []eventRow) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "at s\tevent\ttimes\ts\twork\tp99 before ms\tp99 during ms\tmax ms")
	for _, r := range all {
		fmt.Fprintf(t, "%.1f\t%s\t%d\t%.2f\t%s\t%.2f\t%.2f\t%.2f\n", r.At, r.Event, r.Times, r.Seconds, r.Work, r.Before, r.During, r.Worst)
	}
	return t.Flush()
}

// plotTo draws the latency over time as a PNG, with events as bands.
func (r *timelineRun) plotTo(w io.Writer) error {
	var panels [][]*plot.Plot
	for _, work := range []struct {
		name string
		of   *intervals
	}{{"new keys, ms", r.made}, {"replays, ms", r.replays}} {
		p, err := panel(work.name, false,
			curve{"max", worstColour, work.of.quantiles(100)}, curve{"p99", slowColour, work.of.quantiles(99)},
			curve{"median", newColour, work.of.quantiles(50)})
		if err != nil {
			return err
		}
		p.Y.Scale, p.Y.Tick.Marker, p.Y.Min = plot.LogScale{}, plot.LogTicks{Prec: -1}, 0.01
		p.X.Min, p.X.Max = 0, r.lasts().Seconds()
		p.Add(eventBands(r.events))
		panels = append(panels, []*plot.Plot{p})
	}
	panels[len(panels)-1][0].X.Label.Text = "seconds; grey: leader or expiry, blue: snapshot, green: compaction"
	return writePanels(w, panels)
}

// eventBands are events in a plot over seconds.
type eventBands []event

// Plot draws them.
func (b eventBands) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	for _, e := range b {
		colour := color.NRGBA{0x40, 0x40, 0x40, 0x40}
		switch {
		case strings.HasPrefix(e.name, snapshotOf):
			colour = color.NRGBA{0x20, 0x50, 0xc0, 0x40}
		case strings.HasPrefix(e.name, compactionOf):
			colour = color.NRGBA{0x20, 0xa0, 0x40, 0x28}
		}
		left := min(max(x(e.from.Seconds()), c.Min.X), c.Max.X)
		right := min(max(x(e.to.Seconds()), left+vg.Points(1)), c.Max.X)
		c.FillPolygon(colour, []vg.Point{{X: left, Y: c.Min.Y}, {X: right, Y: c.Min.Y}, {X: right, Y: c.Max.Y}, {X: left, Y: c.Max.Y}})
	}
}
