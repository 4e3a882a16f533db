package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// sample is a cell with every column filled.
func sample() cell {
	client, server, other := 0.01234, 0.2, 3.4
	return cell{
		Work: workNew, Connections: 64, Seconds: 8, Operations: 96_000, PerSecond: 12_000,
		Mean: 6.5, P50: 5.126, P99: 20.5, P999: 40, Max: 1234.5, Failures: map[string]int64{"connection": 3, "503": 12},
		ClientCPU: &client, ServerCPU: &server, OtherBusy: &other,
	}
}

func TestTableIsAligned(t *testing.T) {
	var out strings.Builder
	print := tablePrinter(&out)
	bare := cell{Work: workReplay, Connections: 4096, PerSecond: 1_000_000}
	for _, c := range []cell{sample(), bare} {
		if err := print(c); err != nil {
			t.Fatal(err)
		}
	}
	const want = "" +
		"work   connections      ops/s    p50 ms    p99 ms  p99.9 ms    max ms client CPU server CPU  other %  failures\n" +
		"new             64      12000      5.13     20.50     40.00   1234.50     0.0123     0.2000        3  503:12 connection:3\n" +
		"replay        4096    1000000      0.00      0.00      0.00      0.00          -          -        -  none\n"
	if out.String() != want {
		t.Errorf("table:\n%swant:\n%s", out.String(), want)
	}
}

func TestJSONIsOneLineACell(t *testing.T) {
	var out strings.Builder
	print := jsonPrinter(&out)
	for range 2 {
		if err := print(sample()); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines; want 2", len(lines))
	}
	const want = `{"work":"new","connections":64,"seconds":8,"operations":96000,"operations_per_second":12000,` +
		`"mean_ms":6.5,"p50_ms":5.126,"p99_ms":20.5,"p999_ms":40,"max_ms":1234.5,"failures":{"503":12,"connection":3},` +
		`"client_cpu_seconds_per_1000":0.01234,"server_cpu_seconds_per_1000":0.2,"other_busy_percent":3.4}`
	if lines[0] != want {
		t.Errorf("line:\n%s\nwant:\n%s", lines[0], want)
	}
	var back cell
	if err := json.Unmarshal([]byte(lines[1]), &back); err != nil || back.Operations != 96_000 {
		t.Errorf("read back %+v, error %v", back, err)
	}
}

// brokenPipe is a writer that nobody reads.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestPrintersReportErrors(t *testing.T) {
	for name, print := range map[string]printer{"table": tablePrinter(brokenPipe{}), "json": jsonPrinter(brokenPipe{})} {
		if err := print(sample()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
