package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

const maxRounds = 100

// gatewayCommand compares a service reached directly with the same service
// behind the gateways of a cluster, and accepts no failure.
type gatewayCommand struct {
	clusterOptions
	Connections []int         `default:"1,64" help:"Connections, each with one request at a time."`
	Rounds      int           `default:"6" help:"Times that everything is measured, by turns; at one connection, each through another node."`
	Duration    time.Duration `default:"3s" help:"Measured time of each turn."`
	Warmup      time.Duration `default:"500ms" help:"Time before it, with load and without measurement."`
	Timeout     time.Duration `default:"15s" help:"After which a request's connection is given up."`
	ValueBytes  byteRange     `default:"300-500" help:"Size of a request's body, uniform in this range."`
	Keys        int           `default:"2000" help:"Keys that replays are spread over, recorded beforehand."`
	JSON        bool          `name:"json" help:"Print one JSON object a row instead of the table."`
}

func (g *gatewayCommand) loadOptions() loadOptions {
	return loadOptions{
		Work: []string{workNew, workReplay}, Connections: g.Connections, Duration: g.Duration, Warmup: g.Warmup,
		Timeout: g.Timeout, ValueBytes: g.ValueBytes, Keys: g.Keys,
	}
}

// Run starts service and cluster, measures, prints, and removes what it started.
func (g *gatewayCommand) Run(ctx context.Context, to streams) (err error) {
	options := g.loadOptions()
	err = options.check()
	if g.Rounds < 1 || g.Rounds > maxRounds {
		err = errors.Join(err, fmt.Errorf("--rounds %d is not within 1 and %d", g.Rounds, maxRounds))
	}
	if err != nil {
		return err
	}
	service, err := startUpstream(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	return g.withCluster(ctx, to, "http://"+service.addr, func(c *localCluster) error {
		m := newComparison(options, g.Rounds, service.addr, c.gateways(), to.progress)
		rows, err := m.run(ctx)
		if err != nil {
			return err
		}
		if g.JSON {
			return printRowsAsJSON(to.out, rows)
		}
		return printRows(to.out, rows)
	})
}

// The ways to the service that are compared, in the order of their turns.
const (
	direct = iota // the others are compared with it
	firstRun
	replayed
)

var paths = []string{direct: "direct", firstRun: "gateway, first run", replayed: "gateway, replay"}

// comparison measures the same service over each path, by turns.
type comparison struct {
	connections     []int
	rounds          int
	direct, through *bench
	progress        io.Writer
	cells           int
}

func newComparison(options loadOptions, rounds int, service string, gateways []string, progress io.Writer) *comparison {
	m := &comparison{
		connections: options.Connections, rounds: rounds, progress: progress,
		direct: newBench(options, []string{service}, nil), through: newBench(options, gateways, nil),
	}
	m.direct.charges, m.through.charges = true, true
	return m
}

// row is what one path came to at one number of connections.
type row struct {
	Connections int    `json:"connections"`
	Path        string `json:"path"`
	// P50 is the median latency in milliseconds, PerSecond the requests
	// answered in a second.
	P50       spread `json:"p50_ms"`
	PerSecond spread `json:"requests_per_second"`
	// Added is the median latency less that of the direct path in the same
	// round; nil for the direct path itself.
	Added *spread `json:"added_p50_ms,omitempty"`
}

// run measures every round and sums them up.
func (m *comparison) run(ctx context.Context) ([]row, error) {
	fmt.Fprintf(m.progress, "recording %d keys to replay\n", m.through.options.Keys)
	if err := m.through.recordAll(ctx); err != nil {
		return nil, fmt.Errorf("record keys to replay: %w", err)
	}
	measured := make([][]series, len(m.connections))
	for round := range m.rounds {
		fmt.Fprintf(m.progress, "round %d of %d\n", round+1, m.rounds)
		for i, connections := range m.connections {
			turns, err := m.round(ctx, connections)
			if err != nil {
				return nil, err
			}
			if round == 0 {
				measured[i] = make([]series, len(paths))
			}
			for path, c := range turns {
				measured[i][path].add(c, turns[direct])
			}
		}
		m.through.addrs = append(m.through.addrs[1:], m.through.addrs[0])
	}
	var rows []row
	for i, connections := range m.connections {
		for path, s := range measured[i] {
			rows = append(rows, s.row(connections, path))
		}
	}
	return rows, nil
}

// series is what one path came to, round after round.
type series struct{ p50, perSecond, added []float64 }

func (s *series) add(c, direct cell) {
	s.p50 = append(s.p50, c.P50)
	s.perSecond = append(s.perSecond, c.PerSecond)
	s.added = append(s.added, c.P50-direct.P50)
}

func (s *series) row(connections, path int) row {
	r := row{Connections: connections, Path: paths[path], P50: spreadOf(s.p50), PerSecond: spreadOf(s.perSecond)}
	if path != direct {
		added := spreadOf(s.added)
		r.Added = &added
	}
	return r
}

// round measures each path once at one number of connections.
func (m *comparison) round(ctx context.Context, connections int) ([]cell, error) {
	turns := make([]cell, len(paths))
	for path, name := range paths {
		b, work := m.through, workNew
		switch path {
		case direct:
			b = m.direct
		case replayed:
			work = workReplay
		}
		m.cells++
		c, err := b.runCell(ctx, m.cells, work, connections)
		switch {
		case err != nil:
			return nil, fmt.Errorf("measure %s at %d connections: %w", name, connections, err)
		case len(c.Failures) > 0:
			return nil, fmt.Errorf("measure %s at %d connections: requests failed: %s; the first: %s", name, connections, tell(c.Failures), c.FirstFailure)
		case c.Operations == 0:
			return nil, fmt.Errorf("measure %s at %d connections: nothing was answered", name, connections)
		}
		turns[path] = c
	}
	return turns, nil
}

// spread is what several rounds came to.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf sums up at least one value.
func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

func printRowsAsJSON(w io.Writer, rows []row) error {
	for _, r := range rows {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return fmt.Errorf("print result: %w", err)
		}
	}
	return nil
}

// printRows prints a table: of each number the median of the rounds, and the
// least and the greatest of them.
func printRows(w io.Writer, rows []row) error {
	const format = "%11s  %-18s  %8s %15s  %8s %15s  %12s %15s\n"
	_, err := fmt.Fprintf(w, format, "connections", "path", "p50 ms", "min–max", "req/s", "min–max", "added p50 ms", "min–max")
	for _, r := range rows {
		added, addedRange := "-", "-"
		if r.Added != nil {
			added, addedRange = r.Added.tell("%.3f")
		}
		p50, p50Range := r.P50.tell("%.3f")
		rate, rateRange := r.PerSecond.tell("%.0f")
		if err == nil {
			_, err = fmt.Fprintf(w, format, fmt.Sprint(r.Connections), r.Path, p50, p50Range, rate, rateRange, added, addedRange)
		}
	}
	if err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

func (s spread) tell(format string) (median, between string) {
	return fmt.Sprintf(format, s.Median), fmt.Sprintf(format+"–"+format, s.Min, s.Max)
}
