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

// WritePlot draws, as a PNG, a panel for each kind of work: operations a second
// by connections, the median of each system with a bar from least to greatest.
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
	var panels []*plot.Plot
	for _, work := range works {
		p, err := panel(rows, work, systems, connections)
		if err != nil {
			return err
		}
		panels = append(panels, p)
	}
	img := vgimg.New(vg.Length(max(1, len(panels)))*6*vg.Inch, 4.5*vg.Inch)
	if len(panels) > 0 {
		grid := [][]*plot.Plot{panels}
		tiles := draw.Tiles{Rows: 1, Cols: len(panels), PadX: vg.Points(14), PadTop: vg.Points(6), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(10)}
		for i, canvas := range plot.Align(grid, tiles, draw.New(img))[0] {
			panels[i].Draw(canvas)
		}
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(w); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	return nil
}

// points are medians with bars.
type points struct {
	plotter.XYs
	plotter.YErrors
}

// panel draws one kind of work. Numbers of connections stand in equal steps.
func panel(rows []Row, work string, systems []string, connections []int) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = work, "connections", "operations/s"
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for i, system := range systems {
		var drawn points
		for _, r := range rows {
			if r.Work != work || r.System != system {
				continue
			}
			x := float64(slices.Index(connections, r.Connections)) + 0.04*float64(i) // so that bars do not cover each other
			drawn.XYs = append(drawn.XYs, plotter.XY{X: x, Y: r.PerSecond.Median})
			drawn.YErrors = append(drawn.YErrors, struct{ Low, High float64 }{
				r.PerSecond.Median - r.PerSecond.Least, r.PerSecond.Greatest - r.PerSecond.Median,
			})
		}
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
	p.Y.Min = 0
	return p, nil
}
