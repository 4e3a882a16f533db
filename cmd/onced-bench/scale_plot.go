package main

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

var (
	newColour    = color.RGBA{0x1f, 0x4e, 0x8c, 0xff}
	replayColour = color.RGBA{0x2e, 0x7d, 0x32, 0xff}
	worstColour  = color.RGBA{0xc6, 0x28, 0x28, 0xff}
	slowColour   = color.RGBA{0xe0, 0x7b, 0x00, 0xff}
)

// curve is a line in a plot.
type curve struct {
	name   string
	colour color.Color
	points plotter.XYs
}

// plotScale draws rate, latency, memory and restarts over the keys stored.
func plotScale(w io.Writer, levels []scaleLevel) error {
	over := func(name string, colour color.Color, value func(scaleLevel) float64) curve {
		c := curve{name: name, colour: colour}
		for _, l := range levels {
			c.points = append(c.points, plotter.XY{X: float64(l.Keys), Y: value(l)})
		}
		return c
	}
	var panels [][]*plot.Plot
	for _, p := range []struct {
		label  string
		curves []curve
	}{
		{"operations/s", []curve{
			over("new keys", newColour, func(l scaleLevel) float64 { return l.New.PerSecond }),
			over("replays of the newest", slowColour, func(l scaleLevel) float64 { return l.Newest.PerSecond }),
			over("replays of any key", replayColour, func(l scaleLevel) float64 { return l.Replays.PerSecond })}},
		{"p99, ms", []curve{
			over("new keys", newColour, func(l scaleLevel) float64 { return l.New.P99 }),
			over("replays of the newest", slowColour, func(l scaleLevel) float64 { return l.Newest.P99 }),
			over("replays of any key", replayColour, func(l scaleLevel) float64 { return l.Replays.P99 })}},
		{"resident, MiB", []curve{
			over("all", newColour, func(l scaleLevel) float64 { return l.ResidentMiB }),
			over("anonymous", slowColour, func(l scaleLevel) float64 { return l.AnonymousMiB })}},
		{"to ready, s", []curve{
			over("restart", newColour, func(l scaleLevel) float64 { return l.RestartSeconds }),
			over("after kill -9", worstColour, func(l scaleLevel) float64 { return l.KilledSeconds })}},
	} {
		drawn, err := panel(p.label, true, p.curves...)
		if err != nil {
			return err
		}
		if len(levels) > 1 {
			drawn.X.Scale, drawn.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		}
		panels = append(panels, []*plot.Plot{drawn})
	}
	panels[len(panels)-1][0].X.Label.Text = "keys stored"
	return writePanels(w, panels)
}

// panel is a plot of lines from 0 up, with a mark at each point if marked.
func panel(label string, marked bool, curves ...curve) (*plot.Plot, error) {
	p := plot.New()
	p.Y.Label.Text = label
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	for _, c := range curves {
		line, points, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", label, err)
		}
		line.Color, line.Width, points.Color = c.colour, vg.Points(1), c.colour
		p.Add(line)
		if marked {
			p.Add(points)
		}
		p.Legend.Add(c.name, line)
	}
	p.Y.Min = 0
	p.Y.Max = max(p.Y.Max, 1)
	return p, nil
}

// writePanels writes plots below each other as a PNG.
func writePanels(w io.Writer, panels [][]*plot.Plot) error {
	img := vgimg.New(11*vg.Inch, vg.Length(len(panels))*2.2*vg.Inch)
	tiles := draw.Tiles{Rows: len(panels), Cols: 1, PadY: vg.Points(8), PadTop: vg.Points(6), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(10)}
	for i, canvas := range plot.Align(panels, tiles, draw.New(img)) {
		panels[i][0].Draw(canvas[0])
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(w); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	return nil
}
