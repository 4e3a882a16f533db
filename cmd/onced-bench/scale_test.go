package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLedgerKnowsAnswersToTheByte(t *testing.T) {
	l := new(ledger)
	random := rand.New(rand.NewPCG(1, 2))
	if _, found := l.pick(random, 1); found {
		t.Error("picked from nothing")
	}
	far := uint64(ledgerPage + 3) // on the second page
	l.next.Store(far)
	if got := l.take(); got != far {
		t.Errorf("took %d; want %d", got, far)
	}
	if known, _ := l.kept(far, nil); known {
		t.Error("an answer is known before it was kept")
	}
	l.keep(far, []byte("answer"))
	if known, same := l.kept(far, []byte("answer")); !known || !same {
		t.Errorf("known %v, same %v; want both", known, same)
	}
	if _, same := l.kept(far, []byte("answes")); same {
		t.Error("another answer is the same")
	}
	if _, same := l.kept(far-1, []byte("answer")); same {
		t.Error("the answer is another key's too")
	}
}

func TestLedgerPicksOnlyWhatIsKnown(t *testing.T) {
	l := new(ledger)
	for range 10 {
		l.take()
	}
	l.keep(2, []byte("a"))
	l.keep(7, []byte("b"))
	random := rand.New(rand.NewPCG(1, 2))
	picked := map[uint64]int{}
	for range 200 {
		if n, found := l.pick(random, math.MaxUint64); found {
			picked[n]++
		}
	}
	if len(picked) != 2 || picked[2] == 0 || picked[7] == 0 {
		t.Errorf("picked %v; want 2 and 7", picked)
	}
	for range 200 {
		if n, found := l.pick(random, 3); found && n != 7 {
			t.Fatalf("picked %d of the newest three", n)
		}
	}
}

func TestAnswersHaveTheSizeAskedFor(t *testing.T) {
	f := newFake(t)
	d := newDriver(300, time.Minute)
	d.bench.addrs = []string{f.addr}
	if _, err := d.fill(t.Context(), 20, 4, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(f.answers) != 20 {
		t.Errorf("%d keys; want 20", len(f.answers))
	}
	for _, a := range f.answers {
		if len(a) != 300 {
			t.Fatalf("answer of %d bytes; want 300", len(a))
		}
	}
	if perSecond, err := d.fill(t.Context(), 20, 4, io.Discard); err != nil || perSecond != 0 || len(f.answers) != 20 {
		t.Errorf("filled again: %v a second, error %v, %d keys", perSecond, err, len(f.answers))
	}
}

func TestKeeperJudgesReplays(t *testing.T) {
	f := newFake(t)
	d := newDriver(300, time.Minute)
	d.bench.addrs = []string{f.addr}
	k := d.newKeeper(newConn(d.bench.addrs, 0, time.Minute))
	defer k.hangUp()
	if result, _ := k.replay(t.Context(), 0); result != wrong {
		t.Errorf("replay of nothing is %s", result)
	}
	if result, err := k.create(t.Context(), 0); result != done {
		t.Fatalf("create is %s: %v", result, err)
	}
	if result, err := k.replay(t.Context(), 0); result != done {
		t.Errorf("replay is %s: %v", result, err)
	}
	if result, err := k.replayNewest(t.Context(), 0); result != done {
		t.Errorf("replay of the newest is %s: %v", result, err)
	}
	if result, _ := k.createNumber(t.Context(), 0, false); result != wrong {
		t.Errorf("a new key that was there already is %s", result)
	}
	if result, err := k.createNumber(t.Context(), 0, true); result != done {
		t.Errorf("a request sent again is %s: %v", result, err)
	}
	f.mu.Lock()
	for key, a := range f.answers {
		f.answers[key] = strings.Replace(a, "00000000-", "00000001-", 1)
	}
	f.mu.Unlock()
	if result, err := k.replay(t.Context(), 0); result != wrong || !strings.Contains(err.Error(), "not its first answer") {
		t.Errorf("a replay with another id is %s: %v", result, err)
	}
}

func TestEndingKeysSayWhen(t *testing.T) {
	f := newFake(t)
	var asked []byte
	f.bend = func(_ http.ResponseWriter, r *http.Request, body []byte) bool {
		if strings.HasSuffix(r.URL.Path, "/claim") {
			asked = bytes.Clone(body)
		}
		return false
	}
	d := newDriver(300, time.Minute)
	d.bench.addrs = []string{f.addr}
	k := d.newKeeper(newConn(d.bench.addrs, 0, time.Minute))
	defer k.hangUp()
	for ttl, want := range map[time.Duration]string{
		90*time.Second + 123*time.Millisecond: "1m30.123s",
		-time.Minute:                          "1s", // the shortest there is
	} {
		result, err := k.ending(func() time.Duration { return ttl })(t.Context(), uint64(ttl)>>3)
		if result != done || string(asked) != `{"lease":"30s","ttl":"`+want+`"}` {
			t.Errorf("ttl %s: %s, %v, claimed with %s; want %s", ttl, result, err, asked, want)
		}
	}
}

func TestARefusalIsLateOnceItsKeyMayHaveEnded(t *testing.T) {
	f := newFake(t)
	type refusal struct {
		of     string
		status int
		ttl    time.Duration
		after  time.Duration
		want   outcome
	}
	var c refusal
	f.bend = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		refused := strings.HasSuffix(r.URL.Path, c.of)
		if refused {
			time.Sleep(c.after)
			w.WriteHeader(c.status)
		}
		return refused
	}
	d := newDriver(300, time.Minute)
	d.bench.addrs = []string{f.addr}
	k := d.newKeeper(newConn(d.bench.addrs, 0, time.Minute))
	defer k.hangUp()
	for i, refused := range []refusal{
		{"/complete", 409, time.Hour, 0, "409"},
		{"/complete", 409, time.Second, time.Second, late},
		{"/complete", 503, time.Second, time.Second, late},
		{"/claim", 409, time.Second, time.Second, "409"}, // nothing was there that could end
	} {
		c = refused
		if result, err := k.ending(func() time.Duration { return c.ttl })(t.Context(), uint64(i)); result != c.want {
			t.Errorf("%+v: %s, %v", c, result, err)
		}
	}
}

func TestReadsMetricsAndMemory(t *testing.T) {
	m := parseMetrics([]byte("# HELP a b 1\nonced_is_leader 1\nonced_records{state=\"completed\"} 1e+06\nbroken x\n\n"))
	if len(m) != 2 || m["onced_is_leader"] != 1 || m[`onced_records{state="completed"}`] != 1e6 {
		t.Errorf("metrics %v", m)
	}
	r, err := parseResident("Name:\tonced\nVmRSS:\t  100 kB\nRssAnon:\t   70 kB\nRssFile:\t 30 kB\n")
	if err != nil || r != (resident{100 << 10, 70 << 10, 30 << 10}) {
		t.Errorf("memory %v, error %v", r, err)
	}
	if _, err := parseResident("VmRSS:\t100 kB\n"); err == nil {
		t.Error("no error where a part is missing")
	}
	if r, err := residentOf(os.Getpid()); err != nil || r.all <= 0 || r.anonymous <= 0 {
		t.Errorf("own memory %v, error %v", r, err)
	}
}

func TestReadsWhatCameFromTheDisk(t *testing.T) {
	n, err := parseDiskReads("rchar: 1\nread_bytes: 8192\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n")
	if err != nil || n != 8192 {
		t.Errorf("%d, error %v; want 8192", n, err)
	}
	if _, err := parseDiskReads("rchar: 1\n"); err == nil {
		t.Error("no error where the line is missing")
	}
}

func TestTableSaysWhichTargetsAreMet(t *testing.T) {
	rate, mebi := 0.05, 12.0
	levels := []scaleLevel{
		{Keys: 10_000, New: sideBySide{PerSecond: 1000, P99: 10, RateToSmall: 1, P99ToSmall: 1}, Replays: sideBySide{PerSecond: 1000, P99: 1, RateToSmall: 1, P99ToSmall: 1}, ResidentMiB: 100, RestartSeconds: 1, SnapshotSeconds: &rate, SnapshotMiB: &mebi},
		{Keys: 1_000_000, New: sideBySide{PerSecond: 840, P99: 12.1, RateToSmall: 0.84, P99ToSmall: 1.21}, Replays: sideBySide{PerSecond: 830, P99: 1, RateToSmall: 0.83, P99ToSmall: 1.2, DiskKiB: &mebi}, ResidentMiB: 1024, RestartSeconds: 5.1, Failures: map[string]int64{"503": 2}},
	}
	var out bytes.Buffer
	if err := writeScaleTable(&out, levels); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{
		"keys 10,000 1,000,000 target",
		"new keys/s 1000 840",
		"times a small cluster's 1.00 0.84 flat within 20 %: met",
		"times a small cluster's 1.00 1.21 flat within 20 %: not met at 1,000,000",
		"times a small cluster's 1.00 0.83 flat within 20 %: not met at 1,000,000",
		"times a small cluster's 1.00 1.20 flat within 20 %: met",
		"resident, MiB a node 100 1024 at most 1,024: met",
		"read from disk, KiB each - 12.00",
		"restart to ready, s 1.00 5.10 at most 5: not met at 1,000,000",
		"failures none 503:2",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
	if !strings.Contains(out.String(), "at most 1.2: not measured") {
		t.Errorf("no word of what was not measured:\n%s", out.String())
	}
}

func TestSnapshotsAreMeans(t *testing.T) {
	var l scaleLevel
	l.noteSnapshots(snapshotSums{1, 1, 1}, snapshotSums{1, 1, 1})
	if l.SnapshotSeconds != nil || l.SnapshotMiB != nil {
		t.Error("a mean of nothing")
	}
	l.noteSnapshots(snapshotSums{1, 1, 1 << 20}, snapshotSums{5, 3, 9 << 20})
	if l.Snapshots != 4 || *l.SnapshotSeconds != 0.5 || *l.SnapshotMiB != 2 {
		t.Errorf("%v snapshots of %v s, %v MiB; want 4, 0.5, 2", l.Snapshots, *l.SnapshotSeconds, *l.SnapshotMiB)
	}
}

func TestSlownessIsNoFailureOfScale(t *testing.T) {
	r := &scaleRun{levels: []scaleLevel{{Keys: 1, Failures: map[string]int64{"unsent": 3, "late": 2}}}}
	if err := r.failed(); err != nil {
		t.Error(err)
	}
	r.levels = append(r.levels, scaleLevel{Keys: 2, Failures: map[string]int64{"wrong": 1}, FirstFailure: "bad"})
	if err := r.failed(); err == nil || !strings.Contains(err.Error(), "with 2 keys: wrong:1: bad") {
		t.Errorf("error %v; want the wrong answer", err)
	}
}

func TestScaleAndTimelineRefuse(t *testing.T) {
	for name, args := range map[string][]string{
		"--keys [20 10]":     {"scale", "--keys", "20,10"},
		"--keys [10 10]":     {"scale", "--keys", "10,10"},
		"--answer-bytes 50":  {"scale", "--answer-bytes", "50"},
		"--fill-connections": {"scale", "--fill-connections", "0"},
		"--duration 1ms":     {"scale", "--duration", "1ms"},
		"--expiry-turns 0":   {"scale", "--expiry-turns", "0"},
		"--rate 0":           {"timeline", "--rate", "0"},
		"--expiring 0":       {"timeline", "--expiring", "0"},
		"--interval 20s":     {"timeline", "--interval", "20s"},
	} {
		err := run(t.Context(), args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: error %v; want one with %q", args, err, name)
		}
	}
}

// wantPlot checks that a file is a PNG.
func wantPlot(t *testing.T, path string) {
	t.Helper()
	if plot, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(plot, []byte("\x89PNG")) {
		t.Errorf("plot %.8q, error %v", plot, err)
	}
}

// lasting bounds a run that has come to a stand.
func lasting(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestScaleMeasuresARealCluster(t *testing.T) {
	t.Parallel()
	dir, plot := t.TempDir(), filepath.Join(t.TempDir(), "scale.png")
	var out, progress bytes.Buffer
	err := run(lasting(t), []string{"scale", "--dir", dir, "--keys", "2000", "--connections", "8", "--duration", "500ms", "--warmup", "0s",
		"--expiry-rate", "50", "--expiry-turns", "1", "--plot", plot, "--json"}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var keys []uint64
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var l scaleLevel
		if err := decoder.Decode(&l); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, l.Keys)
		for name, v := range map[string]float64{"new": l.New.PerSecond, "replays": l.Replays.PerSecond, "replays of the newest": l.Newest.PerSecond,
			"new, p99 to that of a small cluster": l.New.P99ToSmall, "replays, rate to that of a small cluster": l.Replays.RateToSmall, "memory": l.ResidentMiB, "disk": l.StateBytesPerKey,
			"log": l.LogMiB, "restart": l.RestartSeconds, "after a kill": l.KilledSeconds, "catching up": l.CatchUpSeconds,
			"p99 without expiry": l.P99WithoutExpiry, "p99 with expiry": l.P99WithExpiry, "keys that end": l.EndingPerSecond} {
			if v <= 0 {
				t.Errorf("%d keys: %s is %v", l.Keys, name, v)
			}
		}
		if l.Stored < float64(l.Keys) {
			t.Errorf("%v keys stored; want %d", l.Stored, l.Keys)
		}
	}
	if !slices.Equal(keys, []uint64{2000}) {
		t.Errorf("levels %v", keys)
	}
	wantPlot(t, plot)
	wantEmpty(t, dir)
}
