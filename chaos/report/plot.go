package report

import (
	"fmt"
	"image/color"
	"io"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
)

// most slots of time that a plot has.
const mostSlots = 600

var (
	answersColour = color.RGBA{0x1f, 0x4e, 0x8c, 0xff}
	p50Colour     = color.RGBA{0x2e, 0x7d, 0x32, 0xff}
	p99Colour     = color.RGBA{0xe0, 0x7b, 0x00, 0xff}
	failedColour  = color.RGBA{0xc6, 0x28, 0x28, 0xff}
	bandColour    = color.NRGBA{0x40, 0x40, 0x40, 0x30}
	idleColour    = color.RGBA{0xd0, 0xd0, 0xd0, 0xff}

	// nodeColours are those of leaders, by the place of the node.
	nodeColours = []color.RGBA{
		{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff},
		{0xcc, 0x79, 0xa7, 0xff}, {0xf0, 0xe4, 0x42, 0xff}, {0x56, 0xb4, 0xe9, 0xff}, {0x80, 0x60, 0x40, 0xff},
	}
)

func colourOf(h *history.History, node string) color.RGBA {
	if i := slices.Index(h.Run.Nodes, node); i >= 0 {
		return nodeColours[i%len(nodeColours)]
	}
	return idleColour
}

// series is a history in slots of equal time.
type series struct {
	slot           history.Nano
	end            history.Nano
	answers, fails []float64 // in a second
	latencies      [][]history.Nano
}

func seriesOf(h *history.History) *series {
	s := &series{slot: history.Span(time.Second / 2)}
	for _, c := range h.Calls {
		s.end = max(s.end, c.Begin)
		if c.End != history.Never {
			s.end = max(s.end, c.End)
		}
	}
	if h.End != nil {
		s.end = max(s.end, h.End.At)
	}
	if s.end/s.slot > mostSlots {
		s.slot = s.end / mostSlots
	}
	n := int(s.end/s.slot) + 1
	s.answers, s.fails, s.latencies = make([]float64, n), make([]float64, n), make([][]history.Nano, n)
	perSecond := float64(time.Second) / float64(s.slot)
	for _, c := range h.Calls {
		switch {
		case c.Answer == nil:
			s.fails[c.Begin/s.slot] += perSecond
		case !check.Succeeded(c):
			s.fails[c.End/s.slot] += perSecond
		default:
			s.answers[c.End/s.slot] += perSecond
			s.latencies[c.End/s.slot] = append(s.latencies[c.End/s.slot], c.End-c.Begin)
		}
	}
	return s
}

// points returns a value for each slot, at its middle in seconds.
func (s *series) points(value func(i int) float64) plotter.XYs {
	xys := make(plotter.XYs, len(s.answers))
	for i := range xys {
		xys[i].X = (time.Duration(s.slot) * time.Duration(2*i+1) / 2).Seconds()
		xys[i].Y = value(i)
	}
	return xys
}

// quantile is that of the latencies in a slot, in milliseconds.
func (s *series) quantile(q float64) func(int) float64 {
	return func(i int) float64 {
		all := s.latencies[i]
		if len(all) == 0 {
			return 0
		}
		slices.Sort(all)
		return float64(all[int(q*float64(len(all)-1))]) / 1e6
	}
}

// plotTo draws throughput, latency and failures over time as a PNG, with faults
// as bands and a strip for who led.
func plotTo(w io.Writer, h *history.History) error {
	s := seriesOf(h)
	throughput, err := s.panel(h, "answers/s", line{s.points(func(i int) float64 { return s.answers[i] }), answersColour, ""})
	if err != nil {
		return err
	}
	throughput.Add(leaders{h, s.end})
	for _, n := range h.Run.Nodes {
		throughput.Legend.Add(n+" leads", swatch{colourOf(h, n)})
	}
	latency, err := s.panel(h, "latency, ms",
		line{s.points(s.quantile(0.99)), p99Colour, "p99"}, line{s.points(s.quantile(0.5)), p50Colour, "median"})
	if err != nil {
		return err
	}
	failures, err := s.panel(h, "failures/s", line{s.points(func(i int) float64 { return s.fails[i] }), failedColour, ""})
	if err != nil {
		return err
	}
	failures.X.Label.Text = "seconds since the run began; grey: a fault"
	panels := [][]*plot.Plot{{throughput}, {latency}, {failures}}
	img := vgimg.New(11*vg.Inch, 7*vg.Inch)
	tiles := draw.Tiles{Rows: len(panels), Cols: 1, PadY: vg.Points(8), PadTop: vg.Points(6), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(10)}
	for i, canvas := range plot.Align(panels, tiles, draw.New(img)) {
		panels[i][0].Draw(canvas[0])
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(w); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	return nil
}

type line struct {
	points plotter.XYs
	colour color.Color
	name   string
}

func (s *series) panel(h *history.History, label string, lines ...line) (*plot.Plot, error) {
	p := plot.New()
	p.Y.Label.Text = label
	p.Legend.Top = true
	p.Add(bands{h.Faults}, plotter.NewGrid())
	for _, l := range lines {
		drawn, err := plotter.NewLine(l.points)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", label, err)
		}
		drawn.Color, drawn.Width = l.colour, vg.Points(1)
		p.Add(drawn)
		if l.name != "" {
			p.Legend.Add(l.name, drawn)
		}
	}
	p.X.Min, p.X.Max, p.Y.Min = 0, time.Duration(s.end).Seconds(), 0
	p.Y.Max = max(p.Y.Max, 1)
	return p, nil
}

// bands are the faults.
type bands struct{ faults []*history.Fault }

// Plot draws them.
func (b bands) Plot(c draw.Canvas, p *plot.Plot) {
	for _, f := range b.faults {
		fill(c, p, f.Begin, f.End, bandColour, c.Min.Y, c.Max.Y)
	}
}

// leaders is a strip that says who led.
type leaders struct {
	h   *history.History
	end history.Nano
}

// Plot draws it.
func (l leaders) Plot(c draw.Canvas, p *plot.Plot) {
	for i, leader := range l.h.Leaders {
		until := l.end
		if i+1 < len(l.h.Leaders) {
			until = l.h.Leaders[i+1].At
		}
		fill(c, p, leader.At, until, colourOf(l.h, leader.Node), c.Min.Y, c.Min.Y+vg.Points(6))
	}
}

func fill(c draw.Canvas, p *plot.Plot, from, to history.Nano, colour color.Color, low, high vg.Length) {
	x, _ := p.Transforms(&c)
	at := func(n history.Nano) vg.Length {
		return min(max(x(time.Duration(n).Seconds()), c.Min.X), c.Max.X)
	}
	left, right := at(from), at(to)
	right = max(right, left+vg.Points(0.5))
	c.FillPolygon(colour, []vg.Point{{X: left, Y: low}, {X: right, Y: low}, {X: right, Y: high}, {X: left, Y: high}})
}

// swatch is a colour in a legend.
type swatch struct{ colour color.Color }

// Thumbnail draws it.
func (s swatch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(s.colour, []vg.Point{{X: c.Min.X, Y: c.Min.Y}, {X: c.Max.X, Y: c.Min.Y}, {X: c.Max.X, Y: c.Max.Y}, {X: c.Min.X, Y: c.Max.Y}})
}
