package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the program start this very binary as the service.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "upstream" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestGatewayComparesEveryPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, progress, err := runBench(t.Context(), "gateway", "--dir", dir, "--connections", "1,3", "--rounds", "2", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var ran []string
	for decoder := json.NewDecoder(strings.NewReader(out)); decoder.More(); {
		var r row
		if err := decoder.Decode(&r); err != nil {
			t.Fatalf("read result: %v in %q", err, out)
		}
		ran = append(ran, fmt.Sprint(r.Connections, " ", r.Path))
		for _, s := range []spread{r.P50, r.PerSecond} {
			if s.Min <= 0 || s.Min > s.Median || s.Median > s.Max {
				t.Errorf("row %+v", r)
			}
		}
		if (r.Added == nil) != (r.Path == "direct") {
			t.Errorf("added %v on path %s", r.Added, r.Path)
		}
	}
	want := []string{
		"1 direct", "1 gateway, first run", "1 gateway, replay",
		"3 direct", "3 gateway, first run", "3 gateway, replay",
	}
	if !slices.Equal(ran, want) || strings.Count(progress, "round ") != 2 {
		t.Errorf("rows %q, progress %q; want %q in two rounds", ran, progress, want)
	}
	wantEmpty(t, dir)
}

// compare runs one round over two servers.
func compare(t *testing.T, service, gateway http.HandlerFunc) ([]row, error) {
	t.Helper()
	options := (&gatewayCommand{
		Connections: []int{2}, Duration: 100 * time.Millisecond, Timeout: patience, ValueBytes: byteRange{300, 500}, Keys: 5,
	}).loadOptions()
	at, _ := serve(t, service)
	before, _ := serve(t, gateway)
	return newComparison(options, 1, at, []string{before}, io.Discard).run(t.Context())
}

// replaying is a gateway as far as the load tool can see it.
func replaying(t *testing.T) http.HandlerFunc {
	f := newFake(t)
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		f.mu.Lock()
		defer f.mu.Unlock()
		if key := r.Header.Get("Idempotency-Key"); err != nil || r.Method != http.MethodPost || r.URL.Path != chargePath || len(key) != 36 {
			f.bad = append(f.bad, fmt.Sprintf("%s %s with key %q, error %v", r.Method, r.URL, key, err))
		}
		f.create(w, fmt.Appendf(nil, `{"idempotencyKey":%q,"data":%s}`, r.Header.Get("Idempotency-Key"), body))
	}
}

func TestComparisonAcceptsNoFailureOnAnyPath(t *testing.T) {
	refused := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	well := new(charges).ServeHTTP
	t.Run("none", func(t *testing.T) {
		if _, err := compare(t, well, replaying(t)); err != nil {
			t.Error(err)
		}
	})
	for name, tc := range map[string]struct {
		service, gateway http.HandlerFunc
		want             string
	}{
		"the service refuses": {refused, replaying(t), "measure direct at 2 connections: requests failed: 503:"},
		"the service replays": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Idempotent-Replayed", "true")
			well(w, r)
		}, replaying(t), "a new key was answered with a replay"},
		"the service answers otherwise": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); fmt.Fprint(w, `{}`) }, replaying(t), "measure direct at 2 connections: requests failed: wrong:"},
		"the gateway replays nothing":   {well, well, "a replay without Idempotent-Replayed"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := compare(t, tc.service, tc.gateway); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v; want one with %q", err, tc.want)
			}
		})
	}
}

func TestGatewayArgumentsOutOfBoundsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no round":             {[]string{"--rounds", "0"}, "--rounds 0 is not within 1 and 100"},
		"no connection":        {[]string{"--connections", "0"}, "--connections 0"},
		"no time":              {[]string{"--duration", "1ms"}, "--duration 1ms"},
		"no key":               {[]string{"--keys", "0"}, "--keys 0"},
		"all mistakes at once": {[]string{"--keys", "0", "--rounds", "101"}, "--keys 0 is not within 1 and 1000000\n--rounds 101"},
		"another's flag":       {[]string{"--rate", "5"}, "unknown flag --rate"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := runBench(t.Context(), append([]string{"gateway"}, tc.args...)...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v; want one with %q", err, tc.want)
			}
		})
	}
}

func TestSpreadIsMedianLeastAndGreatest(t *testing.T) {
	for name, tc := range map[string]struct {
		values []float64
		want   spread
	}{
		"one":     {[]float64{3}, spread{3, 3, 3}},
		"odd":     {[]float64{9, 1, 4}, spread{4, 1, 9}},
		"even":    {[]float64{9, 1, 4, 5}, spread{4.5, 1, 9}},
		"below 0": {[]float64{-1, 1}, spread{0, -1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := spreadOf(tc.values); got != tc.want {
				t.Errorf("%v; want %v", got, tc.want)
			}
		})
	}
}

func TestGatewayTableShowsMedianAndSpread(t *testing.T) {
	var direct, through series
	direct.add(cell{P50: 0.1, PerSecond: 9000}, cell{P50: 0.1})
	direct.add(cell{P50: 0.2, PerSecond: 8000}, cell{P50: 0.2})
	through.add(cell{P50: 1.1, PerSecond: 800}, cell{P50: 0.1})
	through.add(cell{P50: 1.4, PerSecond: 600}, cell{P50: 0.2})
	var table strings.Builder
	if err := printRows(&table, []row{direct.row(1, 0), through.row(1, firstRun)}); err != nil {
		t.Fatal(err)
	}
	const want = `connections  path                  p50 ms         min–max     req/s         min–max  added p50 ms         min–max
          1  direct                 0.150     0.100–0.200      8500       8000–9000             -               -
          1  gateway, first run     1.250     1.100–1.400       700         600–800         1.100     1.000–1.200
`
	if table.String() != want {
		t.Errorf("table:\n%s\nwant:\n%s", &table, want)
	}
}

func TestTheServiceEndsWithWhoStartedIt(t *testing.T) {
	u, err := startUpstream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post("http://"+u.addr+chargePath, "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Errorf("status %d", res.StatusCode)
	}
	if err := u.stop(); err != nil {
		t.Error(err)
	}
	if _, err := http.Post("http://"+u.addr+chargePath, "application/json", strings.NewReader(`{}`)); err == nil {
		t.Error("it still answers")
	}
}
