package standings

import (
	"bytes"
	"image/png"
	"strings"
	"testing"
)

func TestSpreadOf(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		want   Spread
	}{
		"none": {nil, Spread{}},
		"one":  {[]float64{4}, Spread{4, 4, 4, 1}},
		"odd":  {[]float64{9, 1, 2}, Spread{2, 1, 9, 3}},
		"even": {[]float64{8, 1, 2, 4}, Spread{3, 1, 8, 4}},
	} {
		if got := SpreadOf(c.values); got != c.want {
			t.Errorf("%s: %+v; want %+v", name, got, c.want)
		}
	}
}

// measured are two rounds of two systems, in which the second had no CPU time.
func measured() []Cell {
	cpu := 0.5
	return []Cell{
		{System: "onced", Round: 1, Work: "new", Connections: 16, PerSecond: 100, P50: 1, P99: 2, P999: 3, ServerCPU: &cpu},
		{System: "etcd", Round: 1, Work: "new", Connections: 16, PerSecond: 50, P50: 2},
		{System: "etcd", Round: 2, Work: "new", Connections: 16, PerSecond: 60, P50: 4},
		{System: "onced", Round: 2, Work: "new", Connections: 16, PerSecond: 300, P50: 3, P99: 2, P999: 3, ServerCPU: &cpu},
		{System: "onced", Round: 1, Work: "replay", Connections: 16, PerSecond: 7},
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	rows := Summarize(measured(), "onced")
	if len(rows) != 3 {
		t.Fatalf("%d rows; want 3", len(rows))
	}
	onced, etcd := rows[0], rows[1]
	if onced.System != "onced" || onced.PerSecond != (Spread{200, 100, 300, 2}) || onced.ServerCPU.Rounds != 2 || onced.Ratio != (Spread{1, 1, 1, 2}) {
		t.Errorf("onced: %+v", onced)
	}
	if etcd.System != "etcd" || etcd.Ratio != (Spread{0.35, 0.2, 0.5, 2}) || etcd.ServerCPU.Rounds != 0 || etcd.P50 != (Spread{3, 2, 4, 2}) {
		t.Errorf("etcd: %+v", etcd)
	}
	if rows[2].Work != "replay" {
		t.Errorf("last row is of %q; want replay", rows[2].Work)
	}
}

func TestTableAndCSV(t *testing.T) {
	var table, lines bytes.Buffer
	if err := WriteTable(&table, Summarize(measured(), "onced")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"200 (100–300)", "0.35 (0.20–0.50)", " - "} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table has no %q:\n%s", want, table.String())
		}
	}
	if err := WriteCSV(&lines, measured()); err != nil {
		t.Fatal(err)
	}
	if got := lines.String(); strings.Count(got, "\n") != 6 || !strings.Contains(got, "etcd,2,new,16,60,4,0,0,,\n") {
		t.Errorf("CSV:\n%s", got)
	}
}

func TestPlotIsAPictureWithARowForEachWork(t *testing.T) {
	heights := map[string]int{}
	for name, cells := range map[string][]Cell{"one": measured()[:4], "two": measured()} {
		var drawn bytes.Buffer
		if err := WritePlot(&drawn, Summarize(cells, "onced")); err != nil {
			t.Fatal(err)
		}
		picture, err := png.Decode(&drawn)
		if err != nil {
			t.Fatal(err)
		}
		heights[name] = picture.Bounds().Dy()
	}
	if heights["two"] != 2*heights["one"] {
		t.Errorf("heights %v; want two rows twice as high as one", heights)
	}
}
