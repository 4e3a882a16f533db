package standings

import (
	"fmt"
	"image/color"
	"io"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

var colours = []color.RGBA{
	{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff}, {0x80, 0x60, 0x40, 0xff},
}

// measure is what one column of panels shows.
type measure struct {
	label string
	log   bool // values of different orders of magnitude, none of them 0
	of    func(Row) Spread
}

var measures = []measure{
	{"operations/s", false, func(r Row) Spread { return r.PerSecond }},
	{"times the reference", false, func(r Row) Spread { return r.Ratio }},
	{"p50, ms", true, func(r Row) Spread { return r.P50 }},
	{"p99, ms", true, func(r Row) Spread { return r.P99 }},
	{"p99.9, ms", true, func(r Row) Spread { return r.P999 }},
	{"server CPU s/1,000", true, func(r Row) Spread { return r.ServerCPU }},
}

// WritePlot draws, as a PNG, a row of panels for each kind of work and a column for each
// measure, by connections: the median of each system with a bar from least to greatest.
func WritePlot(w io.Writer, rows []Row) error {
	var works, systems []string
	var connections []int
	for _, r := range rows {
		if !slices.Contains(works, r.Work) {
			works = append(works, r.Work)
		}
		if !slices.Contains(systems, r.System) {
			systems = append(systems, r.System)
		}
		if !slices.Contains(connections, r.Connections) {
			connections = append(connections, r.Connections)
		}
	}
	slices.Sort(connections)
	var grid [][]*plot.Plot
	for _, work := range works {
		var panels []*plot.Plot
		for _, m := range measures {
			p, err := panel(rows, work, m, systems, connections)
			if err != nil {
				return err
			}
			panels = append(panels, p)
		}
		grid = append(grid, panels)
	}
	if err := drawGrid(w, grid); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	return nil
}

// drawGrid draws panels, as many in each row.
func drawGrid(w io.Writer, grid [][]*plot.Plot) error {
	img := vgimg.New(vg.Length(len(measures))*4.5*vg.Inch, vg.Length(max(1, len(grid)))*4*vg.Inch)
	if len(grid) > 0 {
		tiles := draw.Tiles{
			Rows: len(grid), Cols: len(measures), PadX: vg.Points(14), PadY: vg.Points(14),
			PadTop: vg.Points(6), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(10),
		}
		for i, canvases := range plot.Align(grid, tiles, draw.New(img)) {
			for j, canvas := range canvases {
				grid[i][j].Draw(canvas)
			}
		}
	}
	_, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(w)
	return err
}

// points are medians with bars.
type points struct {
	plotter.XYs
	plotter.YErrors
}

// panel draws one measure of one kind of work. Numbers of connections stand in equal steps.
func panel(rows []Row, work string, m measure, systems []string, connections []int) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = work+": "+m.label, "connections", m.label
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for i, system := range systems {
		drawn := pointsOf(rows, work, system, m, connections, 0.04*float64(i)) // so that bars do not cover each other
		if len(drawn.XYs) == 0 {
			continue
		}
		line, marks, err := plotter.NewLinePoints(drawn.XYs)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", system, err)
		}
		bars, err := plotter.NewYErrorBars(drawn)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", system, err)
		}
		colour := colours[i%len(colours)]
		line.Color, marks.Color, bars.Color = colour, colour, colour
		p.Add(line, marks, bars)
		p.Legend.Add(system, line, marks)
	}
	var names []string
	for _, n := range connections {
		names = append(names, strconv.Itoa(n))
	}
	p.NominalX(names...)
	if m.log && p.Y.Min > 0 && p.Y.Min < p.Y.Max {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	} else {
		p.Y.Min = 0
	}
	return p, nil
}

// pointsOf are those of one system, moved to the right by shift.
func pointsOf(rows []Row, work, system string, m measure, connections []int, shift float64) (drawn points) {
	for _, r := range rows {
		s := m.of(r)
		if r.Work != work || r.System != system || s.Rounds == 0 || m.log && s.Least <= 0 {
			continue
		}
		x := float64(slices.Index(connections, r.Connections)) + shift
		drawn.XYs = append(drawn.XYs, plotter.XY{X: x, Y: s.Median})
		drawn.YErrors = append(drawn.YErrors, struct{ Low, High float64 }{s.Median - s.Least, s.Greatest - s.Median})
	}
	return drawn
}
