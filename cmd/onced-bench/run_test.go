package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// short makes cells that take no time.
var short = []string{"--duration", "300ms", "--warmup", "20ms", "--keys", "30"}

// runBench runs the program, with short cells unless args say otherwise, and
// returns what it printed.
func runBench(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, progress bytes.Buffer
	err = run(ctx, slices.Concat(args[:1], short, args[1:]), &out, &progress)
	return out.String(), progress.String(), err
}

// cells reads lines of JSON.
func cells(t *testing.T, lines string) []cell {
	t.Helper()
	var all []cell
	for decoder := json.NewDecoder(strings.NewReader(lines)); decoder.More(); {
		var c cell
		if err := decoder.Decode(&c); err != nil {
			t.Fatalf("read result: %v in %q", err, lines)
		}
		all = append(all, c)
	}
	return all
}

func TestLoadRunsEveryCell(t *testing.T) {
	a, b := newFake(t), newFake(t)
	out, _, err := runBench(t.Context(), "load", "--addrs", a.addr+","+b.addr, "--work", "new,claim", "--connections", "1,4",
		"--json", "--pids", strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	var ran []string
	for _, c := range cells(t, out) {
		ran = append(ran, c.Work+" "+strconv.Itoa(c.Connections))
		if c.Operations == 0 || len(c.Failures) != 0 || c.ClientCPU == nil || c.ServerCPU == nil || c.P50 > c.P99 || c.P99 > c.P999 || c.P999 > c.Max || c.Max == 0 {
			t.Errorf("cell %+v", c)
		}
	}
	if want := []string{"new 1", "new 4", "claim 1", "claim 4"}; !slices.Equal(ran, want) {
		t.Errorf("cells %q; want %q", ran, want)
	}
	if len(a.requests) == 0 || len(b.requests) == 0 {
		t.Error("a node was left out")
	}
}

func TestReplaysRepeatWhatWasRecorded(t *testing.T) {
	f := newFake(t)
	out, progress, err := runBench(t.Context(), "load", "--addrs", f.addr, "--work", "replay,replay", "--connections", "3")
	if err != nil || strings.Count(out, "replay ") != 2 {
		t.Fatalf("error %v, table:\n%s", err, out)
	}
	if len(f.requests) != 30 || strings.Count(progress, "creating 30 keys") != 1 {
		t.Errorf("%d keys, progress %q; want 30 made once", len(f.requests), progress)
	}
}

func TestRefusalsAreCountedAndNoError(t *testing.T) {
	f := newFake(t)
	served := 0
	f.bend = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		served++
		switch served % 4 {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1:
			w.WriteHeader(http.StatusConflict)
		case 2:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	out, progress, err := runBench(t.Context(), "load", "--addrs", f.addr, "--work", "new", "--connections", "2", "--json")
	if err != nil {
		t.Fatal(err)
	}
	c := cells(t, out)[0]
	for _, kind := range []string{"409", "503", "connection"} {
		if c.Failures[kind] == 0 {
			t.Errorf("failures %v; want some of %s", c.Failures, kind)
		}
	}
	if c.Operations == 0 || !strings.Contains(progress, "first failure: ") {
		t.Errorf("%d operations, progress %q", c.Operations, progress)
	}
}

func TestWrongAnswerIsAnError(t *testing.T) {
	f := newFake(t)
	served := 0
	f.bend = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		served++
		return served == 5 // 200 and no body
	}
	out, _, err := runBench(t.Context(), "load", "--addrs", f.addr, "--work", "new", "--connections", "1", "--json")
	if err == nil || !strings.Contains(err.Error(), "1 wrong answer") {
		t.Errorf("error %v; want one of a wrong answer", err)
	}
	if c := cells(t, out)[0]; c.Failures["wrong"] != 1 {
		t.Errorf("failures %v; want wrong:1", c.Failures)
	}
}

func TestNothingDoneIsAnError(t *testing.T) {
	if _, _, err := runBench(t.Context(), "load", "--addrs", refusing(t), "--work", "new", "--connections", "1"); err == nil {
		t.Error("no error although nothing answers")
	}
}

func TestOpenLoopCountsWhatItCouldNotBegin(t *testing.T) {
	f := newFake(t)
	out, _, err := runBench(t.Context(), "load", "--addrs", f.addr, "--work", "new", "--connections", "1", "--rate", "1000000", "--json")
	if err != nil {
		t.Fatal(err)
	}
	c := cells(t, out)[0]
	if began := int64(len(f.requests)); c.Rate != 1_000_000 || c.Failures["unsent"]+began != 320_000 {
		t.Errorf("%d begun and %d unsent of 320,000 due", began, c.Failures["unsent"])
	}
	// Its one connection falls behind at once; from when they were due, the
	// latencies grow as long as the cell.
	if c.Max < 50 {
		t.Errorf("longest latency %v ms: not measured from when the operation was due", c.Max)
	}
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	f := newFake(t)
	out, _, err := runBench(t.Context(), "load", "--addrs", f.addr, "--work", "new", "--connections", "8", "--rate", "100", "--json")
	if err != nil {
		t.Fatal(err)
	}
	c := cells(t, out)[0]
	if began := int64(len(f.requests)); began+c.Failures["unsent"] != 32 {
		t.Errorf("%d begun, failures %v; want 32 due", began, c.Failures)
	}
}

func TestInterruptEndsTheRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := newFake(t)
	f.bend = func(http.ResponseWriter, *http.Request, []byte) bool {
		cancel()
		return false
	}
	_, _, err := runBench(ctx, "load", "--addrs", f.addr, "--work", "new", "--connections", "4", "--duration", "1h")
	if err == nil || err.Error() != "interrupted" {
		t.Errorf("error %v", err)
	}
}

func TestArgumentsOutOfBoundsAreRefused(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"beyond loopback", []string{"load", "--addrs", "127.0.0.1:8001,192.0.2.1:80"}, "192.0.2.1:80 is not a port on loopback"},
		{"any address", []string{"load", "--addrs", "0.0.0.0:80"}, "not a port on loopback"},
		{"a name", []string{"load", "--addrs", "localhost:8001"}, "localhost:8001"},
		{"port 0", []string{"load", "--addrs", "127.0.0.1:0"}, "not a port on loopback"},
		{"no such process", []string{"load", "--pids", "1073741824"}, "process 1073741824"},
		{"work", []string{"load", "--work", "old"}, `"old" is none of`},
		{"no connection", []string{"load", "--connections", "0"}, "--connections 0"},
		{"too many connections", []string{"local", "--connections", "5000"}, "--connections 5000"},
		{"too many cells", []string{"local", "--connections", strings.Repeat("1,", 64) + "1"}, "number of cells"},
		{"no time", []string{"load", "--duration", "1ms"}, "--duration 1ms"},
		{"a day", []string{"load", "--duration", "24h"}, "--duration 24h"},
		{"negative warm-up", []string{"load", "--warmup=-1s"}, "--warmup -1s"},
		{"timeout", []string{"load", "--timeout", "1h"}, "--timeout 1h"},
		{"rate", []string{"load", "--rate=-1"}, "--rate -1"},
		{"keys", []string{"load", "--keys", "0"}, "--keys 0"},
		{"sizes upside down", []string{"load", "--value-bytes", "500-300"}, "500-300"},
		{"size too small", []string{"load", "--value-bytes", "1"}, "not a range within"},
		{"size of nothing", []string{"load", "--value-bytes", "300-"}, `""`},
		{"all mistakes at once", []string{"load", "--keys", "0", "--rate=-1"}, "--rate -1 is not within 0 and 1000000\n--keys 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := runBench(t.Context(), test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v; want one with %q", err, test.want)
			}
		})
	}
}

func TestHelpIsNoError(t *testing.T) {
	out, _, err := runBench(t.Context(), "local", "--help")
	if err != nil || !strings.Contains(out, "--value-bytes") {
		t.Errorf("error %v, printed %q", err, out)
	}
}

func TestLocalRunsItsOwnCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, _, err := runBench(t.Context(), "local", "--dir", dir, "--work", "new,replay,claim", "--connections", "3", "--duration", "1s", "--json")
	if err != nil {
		t.Fatal(err)
	}
	all := cells(t, out)
	if len(all) != 3 {
		t.Fatalf("%d cells; want 3", len(all))
	}
	for _, c := range all {
		if c.Operations == 0 || len(c.Failures) != 0 || c.ServerCPU == nil {
			t.Errorf("cell %+v", c)
		}
	}
	wantEmpty(t, dir)
}

func TestLocalReportsANodeThatDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	_, _, err := runBench(t.Context(), "local", "--dir", dir, "--serve-arg=--no-such-flag")
	if err == nil || !strings.Contains(err.Error(), "ended before it was ready") || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("error %v; want one that names the flag", err)
	}
	if _, _, err := runBench(t.Context(), "local", "--dir", dir, "--onced", filepath.Join(dir, "none")); err == nil {
		t.Error("no error without a binary")
	}
	wantEmpty(t, dir)
}

// onWrite is a writer that calls a function.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestInterruptedLocalLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := run(ctx, []string{"local", "--dir", dir}, io.Discard, onWrite(cancel))
	if err == nil || err.Error() != "interrupted" {
		t.Errorf("error %v; want that of an interrupt", err)
	}
	wantEmpty(t, dir)
}

// wantEmpty checks that a run left nothing.
func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}
