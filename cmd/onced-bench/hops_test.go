package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

// traced is a trace of two new keys, one of them forwarded, in milliseconds.
func traced() *trace {
	ms := func(count, total float64) timing { return timing{count, total / 1000} }
	return &trace{
		cell: cell{Connections: 2, PerSecond: 100, Mean: 10},
		leader: timings{"http": ms(1, 7), "queue": ms(2, 2), "commit": ms(1, 4), "write": ms(1, 2),
			"replicate": ms(2, 6), "apply": ms(1, 0.5)},
		followers: timings{"http": ms(1, 9), "forward": ms(1, 7), "write": ms(2, 3)},
	}
}

func TestTheHopsAddUpToTheWhole(t *testing.T) {
	var sum float64
	all := map[string]float64{}
	for _, h := range traced().hops() {
		all[h.name] = h.ms
		if !strings.HasPrefix(h.name, " ") {
			sum += h.ms
		}
	}
	if math.Abs(sum-10) > 1e-9 {
		t.Errorf("they add up to %v ms: %v", sum, all)
	}
	for name, want := range map[string]float64{
		"client, and its connection to a node": 2, "node: read, check, encode, answer": 2,
		"to the leader and back, 2.00 ms for 50 % of them": 1, "leader: wait for a log entry": 1,
		"leader: the entry, of 2 commands, until it is applied": 4, "  to a follower's disk and back": 3, "    follower's log write and sync": 1.5,
	} {
		if got, ok := all[name]; !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: %v ms, want %v; all: %v", name, got, want, all)
		}
	}
}

func TestATraceOfTwoLeadersIsRefused(t *testing.T) {
	two, none := traced(), traced()
	two.followers["queue"] = timing{1, 0.001}
	none.leader["commit"] = timing{}
	for name, of := range map[string]*trace{"two leaders": two, "another leader": none} {
		if err := of.check(); err == nil || !strings.Contains(err.Error(), "leader changed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTimesAreReadFromMetrics(t *testing.T) {
	at := func(text string) timings { return timingsOf(parseMetrics([]byte(text))) }
	got := timings{}
	got.add(at(`onced_http_request_seconds_sum{route="/create"} 5
onced_http_request_seconds_count{route="/create"} 12
onced_commit_seconds_sum 2
onced_commit_seconds_count 4`), at(`onced_http_request_seconds_sum{route="/create"} 2
onced_http_request_seconds_count{route="/create"} 2`))
	if got["http"] != (timing{10, 3}) || got["commit"] != (timing{4, 2}) || got["commit"].mean() != 500 || got["queue"].mean() != 0 {
		t.Errorf("%v", got)
	}
}

func TestHopsAreTracedThroughARealCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out, progress bytes.Buffer
	if err := run(lasting(t), []string{"hops", "--dir", dir, "--connections", "1,8", "--duration", "500ms", "--warmup", "0s"}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if n := strings.Count(out.String(), "to a follower's disk and back"); n != 2 {
		t.Errorf("%d tables; want 2:\n%s", n, out.String())
	}
	if strings.Contains(out.String(), "0.00 ms    leader's log write") {
		t.Errorf("no log was written:\n%s", out.String())
	}
	wantEmpty(t, dir)
	for _, args := range [][]string{{"--connections", "0"}, {"--duration", "1ms"}, {"--warmup", "-1s"}} {
		if err := run(t.Context(), append([]string{"hops"}, args...), &out, &progress); err == nil {
			t.Errorf("hops %v is accepted", args)
		}
	}
}
