package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// scaleLevel is what was measured with so many keys stored. Of nodes, it is
// the most that any took.
type scaleLevel struct {
	Keys   uint64  `json:"keys"`
	Stored float64 `json:"stored"` // when the disk was read

	FillPerSecond float64 `json:"fill_keys_per_second"` // 0: nothing was left to fill

	New     sideBySide `json:"new"`
	Replays sideBySide `json:"replays"` // of any key
	Newest  sideBySide `json:"newest_replays"`

	ResidentMiB      float64 `json:"resident_mib"`
	AnonymousMiB     float64 `json:"resident_anonymous_mib"`
	MappedMiB        float64 `json:"resident_file_mib"`
	StateBytesPerKey float64 `json:"state_bytes_per_key"`
	DiskPerPayload   float64 `json:"state_bytes_per_payload_byte"`
	LogMiB           float64 `json:"log_mib"`

	Snapshots       float64  `json:"snapshots"` // of all nodes; the two below are their means
	SnapshotSeconds *float64 `json:"snapshot_seconds"`
	SnapshotMiB     *float64 `json:"snapshot_mib"`

	CatchUpSeconds     float64  `json:"catch_up_seconds"`
	CatchUpMBPerSecond *float64 `json:"catch_up_mb_per_second"` // null: it was sent the log
	RestartSeconds     float64  `json:"restart_seconds"`
	KilledSeconds      float64  `json:"restart_after_kill_seconds"`

	P99WithoutExpiry  float64 `json:"p99_ms_without_expiry"` // of a claim and its completion
	P99WithExpiry     float64 `json:"p99_ms_with_expiry"`
	P99RatioByExpiry  *spread `json:"p99_ratio_by_expiry"` // with to without, turn by turn; null: not measured
	EndingPerSecond   float64 `json:"ending_per_second"`
	SweptAfterSeconds float64 `json:"last_swept_after_seconds"`

	Failures     map[string]int64 `json:"failures"`
	FirstFailure string           `json:"first_failure,omitempty"`
}

// snapshotSums are what the nodes' metrics say of all their snapshots.
type snapshotSums struct{ count, seconds, bytes float64 }

func (l *scaleLevel) noteSnapshots(before, after snapshotSums) {
	l.Snapshots = after.count - before.count
	if l.Snapshots > 0 {
		seconds := (after.seconds - before.seconds) / l.Snapshots
		mebi := (after.bytes - before.bytes) / l.Snapshots / (1 << 20)
		l.SnapshotSeconds, l.SnapshotMiB = &seconds, &mebi
	}
}

func (l *scaleLevel) noteFailures(tallies ...*tally) {
	for _, t := range tallies {
		for kind, n := range t.failures {
			l.Failures[kind] += n
		}
		if t.firstFailure != nil && l.FirstFailure == "" {
			l.FirstFailure = t.firstFailure.Error()
		}
	}
}

// scaleRow is one measure over all levels.
type scaleRow struct {
	name   string
	value  func(*scaleLevel) *float64 // nil: not measured
	digits int
	target string // empty: there is none
	met    func(value float64) bool
}

const flatWithin = 1.2 // times what a small cluster does, or its reciprocal

func atMost(most float64) func(float64) bool { return func(v float64) bool { return v <= most } }

func notSlower(v float64) bool { return v >= 1/flatWithin }

// flatRows are those of one kind of work beside a small cluster.
func flatRows(work string, of func(*scaleLevel) *sideBySide) []scaleRow {
	return []scaleRow{
		{work + "/s", func(l *scaleLevel) *float64 { return &of(l).PerSecond }, 0, "", nil},
		{"  times a small cluster's", func(l *scaleLevel) *float64 { return &of(l).RateToSmall }, 2, "flat within 20 %", notSlower},
		{"  p99 ms", func(l *scaleLevel) *float64 { return &of(l).P99 }, 2, "", nil},
		{"  times a small cluster's", func(l *scaleLevel) *float64 { return &of(l).P99ToSmall }, 2, "flat within 20 %", atMost(flatWithin)},
	}
}

// scaleRows are the rows of the table, in order.
func scaleRows() []scaleRow {
	of := func(get func(*scaleLevel) float64) func(*scaleLevel) *float64 {
		return func(l *scaleLevel) *float64 { v := get(l); return &v }
	}
	moved := func(l *scaleLevel) *float64 {
		if l.P99WithoutExpiry == 0 || l.P99WithExpiry == 0 {
			return nil
		}
		v := l.P99WithExpiry / l.P99WithoutExpiry
		return &v
	}
	byTurn := func(get func(*spread) float64) func(*scaleLevel) *float64 {
		return func(l *scaleLevel) *float64 {
			if l.P99RatioByExpiry == nil {
				return nil
			}
			v := get(l.P99RatioByExpiry)
			return &v
		}
	}
	return slices.Concat([]scaleRow{
		{"filling, keys/s", of(func(l *scaleLevel) float64 { return l.FillPerSecond }), 0, "", nil},
	}, flatRows("new keys", func(l *scaleLevel) *sideBySide { return &l.New }),
		flatRows("replays of any key", func(l *scaleLevel) *sideBySide { return &l.Replays }), []scaleRow{
			{"  read from disk, KiB each", func(l *scaleLevel) *float64 { return l.Replays.DiskKiB }, 2, "", nil},
		}, flatRows("replays of the newest", func(l *scaleLevel) *sideBySide { return &l.Newest }), []scaleRow{
			{"resident, MiB a node", of(func(l *scaleLevel) float64 { return l.ResidentMiB }), 0, "at most 1,024", atMost(1024)},
			{"  anonymous", of(func(l *scaleLevel) float64 { return l.AnonymousMiB }), 0, "", nil},
			{"  of files", of(func(l *scaleLevel) float64 { return l.MappedMiB }), 0, "", nil},
			{"state on disk, bytes/key", of(func(l *scaleLevel) float64 { return l.StateBytesPerKey }), 0, "", nil},
			{"  times key and response", of(func(l *scaleLevel) float64 { return l.DiskPerPayload }), 2, "at most 2.5", atMost(2.5)},
			{"log on disk, MiB", of(func(l *scaleLevel) float64 { return l.LogMiB }), 0, "", nil},
			{"snapshots", of(func(l *scaleLevel) float64 { return l.Snapshots }), 0, "", nil},
			{"  mean s", func(l *scaleLevel) *float64 { return l.SnapshotSeconds }, 3, "", nil},
			{"  mean MiB written", func(l *scaleLevel) *float64 { return l.SnapshotMiB }, 1, "", nil},
			{"new node caught up, s", of(func(l *scaleLevel) float64 { return l.CatchUpSeconds }), 2, "", nil},
			{"  by snapshot, MB/s", func(l *scaleLevel) *float64 { return l.CatchUpMBPerSecond }, 1, "", nil},
			{"restart to ready, s", of(func(l *scaleLevel) float64 { return l.RestartSeconds }), 2, "at most 5", atMost(5)},
			{"  after kill -9, s", of(func(l *scaleLevel) float64 { return l.KilledSeconds }), 2, "at most 5", atMost(5)},
			{"claimed and completed, p99 ms, nothing ends", of(func(l *scaleLevel) float64 { return l.P99WithoutExpiry }), 2, "", nil},
			{"  p99 ms, as many end as come", of(func(l *scaleLevel) float64 { return l.P99WithExpiry }), 2, "", nil},
			{"  times that without", moved, 2, "at most 1.2", atMost(flatWithin)},
			{"  turn by turn, median", byTurn(func(s *spread) float64 { return s.Median }), 2, "at most 1.2", atMost(flatWithin)},
			{"    least", byTurn(func(s *spread) float64 { return s.Min }), 2, "", nil},
			{"    greatest", byTurn(func(s *spread) float64 { return s.Max }), 2, "", nil},
			{"  as many a second", of(func(l *scaleLevel) float64 { return l.EndingPerSecond }), 0, "", nil},
			{"  last gone after, s", of(func(l *scaleLevel) float64 { return l.SweptAfterSeconds }), 2, "at most 2", atMost(2)},
		})
}

// report prints the levels and draws the plot.
func (s *scaleCommand) report(to streams, levels []scaleLevel) error {
	if s.JSON {
		for _, l := range levels {
			if err := json.NewEncoder(to.out).Encode(l); err != nil {
				return fmt.Errorf("print result: %w", err)
			}
		}
	} else if err := writeScaleTable(to.out, levels); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	if s.Plot == "" {
		return nil
	}
	return writeFile(s.Plot, func(w io.Writer) error { return plotScale(w, levels) })
}

// writeScaleTable writes a row a measure and a column a level.
func writeScaleTable(w io.Writer, levels []scaleLevel) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "keys")
	for _, l := range levels {
		fmt.Fprintf(t, "\t%s", count(float64(l.Keys)))
	}
	fmt.Fprintln(t, "\ttarget")
	for _, row := range scaleRows() {
		fmt.Fprint(t, row.name)
		for i := range levels {
			fmt.Fprintf(t, "\t%s", optional("%."+strconv.Itoa(row.digits)+"f", row.value(&levels[i])))
		}
		fmt.Fprintf(t, "\t%s\n", row.verdict(levels))
	}
	fmt.Fprint(t, "failures")
	for _, l := range levels {
		fmt.Fprintf(t, "\t%s", tell(l.Failures))
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// verdict says what the target is, and at which levels it was missed.
func (r scaleRow) verdict(levels []scaleLevel) string {
	if r.target == "" {
		return ""
	}
	var missed []string
	for i := range levels {
		v := r.value(&levels[i])
		if v == nil {
			return r.target + ": not measured"
		}
		if !r.met(*v) {
			missed = append(missed, count(float64(levels[i].Keys)))
		}
	}
	if len(missed) == 0 {
		return r.target + ": met"
	}
	return r.target + ": not met at " + strings.Join(missed, " and ")
}

// count writes a whole number with commas.
func count(v float64) string {
	s := strconv.FormatInt(int64(v), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeFile makes a file of what write writes.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create plot: %w", err)
	}
	err = write(f)
	if e := f.Close(); err == nil && e != nil {
		err = fmt.Errorf("write plot: %w", e)
	}
	return err
}
