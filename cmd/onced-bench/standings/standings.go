// Package standings sums up the same load on several systems, as a table, as
// CSV and as a plot.
package standings

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// Cell is what one system did in one round, of one kind of work at one number
// of connections.
type Cell struct {
	System               string
	Round                int
	Work                 string
	Connections          int
	PerSecond            float64
	P50, P99, P999       float64  // milliseconds
	ServerCPU, ClientCPU *float64 // seconds for 1,000 operations; nil where not measured
}

// Spread is the median of the rounds, and their least and greatest.
type Spread struct {
	Median, Least, Greatest float64
	Rounds                  int // that it is of; without any, nothing else counts
}

// SpreadOf returns the spread of values, in any order.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Least: sorted[0], Greatest: sorted[n-1], Rounds: n}
}

// Row is a system's rounds of one kind of work at one number of connections.
type Row struct {
	System      string
	Work        string
	Connections int

	PerSecond, P50, P99, P999, ServerCPU, ClientCPU Spread
	// Ratio is the operations a second in relation to the reference's of the
	// same round.
	Ratio Spread
}

// Summarize returns a row for each system, kind of work and number of
// connections, in the order in which these first appear; rows of the same work
// and connections stand together.
func Summarize(cells []Cell, reference string) []Row {
	var rows []Row
	var systems []string
	for _, c := range cells {
		if !slices.Contains(systems, c.System) {
			systems = append(systems, c.System)
		}
	}
	type load struct {
		work        string
		connections int
	}
	var loads []load
	for _, c := range cells {
		if l := (load{c.Work, c.Connections}); !slices.Contains(loads, l) {
			loads = append(loads, l)
		}
	}
	for _, l := range loads {
		for _, system := range systems {
			if r, found := rowOf(cells, reference, Row{System: system, Work: l.work, Connections: l.connections}); found {
				rows = append(rows, r)
			}
		}
	}
	return rows
}

// rowOf completes a row.
func rowOf(cells []Cell, reference string, r Row) (Row, bool) {
	var mine []Cell
	var ratios []float64
	base := make(map[int]float64) // by round
	for _, c := range cells {
		if c.Work != r.Work || c.Connections != r.Connections {
			continue
		}
		if c.System == reference {
			base[c.Round] = c.PerSecond
		}
		if c.System == r.System {
			mine = append(mine, c)
		}
	}
	for _, c := range mine {
		if base[c.Round] > 0 {
			ratios = append(ratios, c.PerSecond/base[c.Round])
		}
	}
	over := func(value func(Cell) *float64) Spread {
		var values []float64
		for _, c := range mine {
			if v := value(c); v != nil {
				values = append(values, *v)
			}
		}
		return SpreadOf(values)
	}
	r.PerSecond = over(func(c Cell) *float64 { return &c.PerSecond })
	r.P50 = over(func(c Cell) *float64 { return &c.P50 })
	r.P99 = over(func(c Cell) *float64 { return &c.P99 })
	r.P999 = over(func(c Cell) *float64 { return &c.P999 })
	r.ServerCPU = over(func(c Cell) *float64 { return c.ServerCPU })
	r.ClientCPU = over(func(c Cell) *float64 { return c.ClientCPU })
	r.Ratio = SpreadOf(ratios)
	return r, len(mine) > 0
}

// WriteTable writes a line for each row: the median, and the least and greatest
// of the rounds where there is more than one.
func WriteTable(w io.Writer, rows []Row) error {
	const format = "%-7s %11s  %-9s %22s %18s %20s %20s %22s %22s %17s\n"
	if _, err := fmt.Fprintf(w, format, "work", "connections", "system", "ops/s", "p50 ms", "p99 ms", "p99.9 ms",
		"server CPU", "client CPU", "to onced"); err != nil {
		return err
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, format, r.Work, strconv.Itoa(r.Connections), r.System, tell(r.PerSecond, 0), tell(r.P50, 2),
			tell(r.P99, 2), tell(r.P999, 2), tell(r.ServerCPU, 3), tell(r.ClientCPU, 3), tell(r.Ratio, 2)); err != nil {
			return err
		}
	}
	return nil
}

// tell writes a spread with a number of decimals, as "12 (10–15)".
func tell(s Spread, decimals int) string {
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', decimals, 64) }
	switch s.Rounds {
	case 0:
		return "-"
	case 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Least), number(s.Greatest))
}

// WriteCSV writes a line for each cell.
func WriteCSV(w io.Writer, cells []Cell) error {
	out := csv.NewWriter(w)
	lines := [][]string{{"system", "round", "work", "connections", "operations_per_second", "p50_ms", "p99_ms", "p999_ms",
		"server_cpu_seconds_per_1000", "client_cpu_seconds_per_1000"}}
	number := func(v *float64) string {
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'f', -1, 64)
	}
	for _, c := range cells {
		lines = append(lines, []string{c.System, strconv.Itoa(c.Round), c.Work, strconv.Itoa(c.Connections), number(&c.PerSecond),
			number(&c.P50), number(&c.P99), number(&c.P999), number(c.ServerCPU), number(c.ClientCPU)})
	}
	if err := out.WriteAll(lines); err != nil {
		return fmt.Errorf("write cells: %w", err)
	}
	return nil
}
