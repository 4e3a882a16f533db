package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// printer prints a cell.
type printer func(cell) error

// jsonPrinter prints each cell as a line of JSON.
func jsonPrinter(w io.Writer) printer {
	return func(c cell) error { return json.NewEncoder(w).Encode(c) }
}

const (
	headFormat = "%-6s %11s %10s %9s %9s %9s %9s %10s %10s %8s  %s\n"
	rowFormat  = "%-6s %11d %10.0f %9.2f %9.2f %9.2f %9.2f %10s %10s %8s  %s\n"
)

// tablePrinter prints each cell as a row under columns of fixed width, so that
// rows can be read as they come.
func tablePrinter(w io.Writer) printer {
	headed := false
	return func(c cell) error {
		if !headed {
			headed = true
			if _, err := fmt.Fprintf(w, headFormat, "work", "connections", "ops/s", "p50 ms", "p99 ms", "p99.9 ms",
				"max ms", "client CPU", "server CPU", "other %", "failures"); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(w, rowFormat, c.Work, c.Connections, c.PerSecond, c.P50, c.P99, c.P999, c.Max,
			optional("%.4f", c.ClientCPU), optional("%.4f", c.ServerCPU), optional("%.0f", c.OtherBusy), tell(c.Failures))
		return err
	}
}

// optional formats a number that may not have been measured.
func optional(format string, v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

// tell writes failures as "503:12 connection:3".
func tell(failures map[string]int64) string {
	if len(failures) == 0 {
		return "none"
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(failures)) {
		parts = append(parts, fmt.Sprintf("%s:%d", kind, failures[kind]))
	}
	return strings.Join(parts, " ")
}
