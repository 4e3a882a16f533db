// Package measure takes the figures that say how a cluster comes through a
// fault: the time without a success and the failures that clients see, the time
// until a cluster is back, and what a power cut takes. It judges no history.
package measure

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Span is a duration; in JSON it is text, as "412ms".
type Span time.Duration

func (s Span) String() string { return time.Duration(s).Round(time.Millisecond).String() }

// MarshalText writes it to the millisecond.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Figure sums up one thing that was timed several times.
type Figure struct {
	Times  int  `json:"times"`
	Median Span `json:"median"`
	P90    Span `json:"p90"`
	Worst  Span `json:"worst"`
}

// Sum sums up times by nearest rank: each figure is one that was measured. Of
// none it is zero.
func Sum(times []time.Duration) Figure {
	if len(times) == 0 {
		return Figure{}
	}
	sorted := slices.Sorted(slices.Values(times))
	rank := func(share float64) Span {
		return Span(sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)])
	}
	return Figure{len(sorted), rank(0.5), rank(0.9), rank(1)}
}

// call is one call of a client, by offsets from the begin of the load.
type call struct {
	client     int
	sent, done time.Duration
	failure    string // empty for a success
}

// window is a part of the load's time.
type window struct{ begin, end time.Duration }

// longestGap is the longest time between two successes of which a part is in w.
// Calls may come in any order. Before the first success and after the last there
// is no gap, but what is known of it: none.
func longestGap(calls []call, w window) (longest time.Duration) {
	var moments []time.Duration
	for _, c := range calls {
		if c.failure == "" {
			moments = append(moments, c.done)
		}
	}
	slices.Sort(moments)
	for i := 1; i < len(moments); i++ {
		if from, to := moments[i-1], moments[i]; to >= w.begin && from <= w.end {
			longest = max(longest, to-from)
		}
	}
	return longest
}

// Failures counts failed calls by what was wrong with them.
type Failures map[string]int

// failed counts the calls that ended in w, and the failures among them.
func failed(calls []call, w window) (made int, f Failures) {
	f = Failures{}
	for _, c := range calls {
		if c.done < w.begin || c.done > w.end {
			continue
		}
		made++
		if c.failure != "" {
			f[c.failure]++
		}
	}
	return made, f
}

// add adds the counts of others.
func (f Failures) add(others Failures) {
	for what, n := range others {
		f[what] += n
	}
}

// Total is how many there are.
func (f Failures) Total() (n int) {
	for _, count := range f {
		n += count
	}
	return n
}

// String tells the count, and the kinds, the most frequent first.
func (f Failures) String() string {
	kinds := make([]string, 0, len(f))
	for what := range f {
		kinds = append(kinds, what)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Or(cmp.Compare(f[b], f[a]), strings.Compare(a, b)) })
	for i, what := range kinds {
		kinds[i] = fmt.Sprintf("%d %s", f[what], what)
	}
	if len(kinds) == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", f.Total(), strings.Join(kinds, ", "))
}

// table writes rows under a heading, in columns.
func table(to io.Writer, heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// Result is what a measurement came to.
type Result interface {
	// Print writes it for people.
	Print(io.Writer) error
}

// Write writes a result, for people or as JSON.
func Write(to io.Writer, r Result, asJSON bool) error {
	if !asJSON {
		return r.Print(to)
	}
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
