package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// samples are the values of a registry's counters, and the numbers of its
// histograms' observations, by name and labels.
func samples(t *testing.T, from *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func TestEachRequestIsCountedByWhatBecameOfIt(t *testing.T) {
	registry := prometheus.NewRegistry()
	g := startRig(t, 1, func(c *Config) {
		c.Metrics = registry
		c.Routes = []Route{{Path: "/status/{code}", Settings: Settings{Key: KeyRequired}}, {Path: "/held", Settings: Settings{Timeout: time.Hour}}}
		c.Default.MaxResponse = 1000
	})
	g.send(0, post("/status/200", "k", "x")).wants(200)
	g.send(0, post("/status/200", "k", "x")).wants(200).replay()
	g.send(0, post("/status/200", "k", "y")).wants(422)
	g.send(0, post("/status/200", "", "y")).wants(400)
	g.send(0, post("/status/429?after=1", "free", "")).wants(429)
	g.send(0, post("/breaks-before", "broken", "")).wants(504)
	g.send(0, post("/breaks-before", "broken", "")).wants(409)
	g.send(0, post("/large?size=1001", "large", "")).wants(200)
	g.send(0, post("/large?size=1001", "large", "")).wants(410)
	g.send(0, post("/x", "", "")).wants(200)
	g.send(0, call{"GET", "/any/path/a/client/makes/up", "", nil}).wants(200)
	done := make(chan *reply)
	go func() { done <- g.send(0, post("/held", "held", "")) }()
	g.upstream.awaitHeld()
	g.send(0, post("/held", "held", "")).wants(409)
	g.upstream.open()
	(<-done).wants(200)
	want := map[string]float64{
		"onced_gateway_requests_total first /status/{code}":    1,
		"onced_gateway_requests_total replayed /status/{code}": 1,
		"onced_gateway_requests_total reused /status/{code}":   1,
		"onced_gateway_requests_total refused /status/{code}":  1,
		"onced_gateway_requests_total released /status/{code}": 1,
		"onced_gateway_requests_total unknown default":         2,
		"onced_gateway_requests_total not-kept default":        2,
		"onced_gateway_requests_total passed default":          1,
		"onced_gateway_requests_total passed none":             1,
		"onced_gateway_requests_total in-progress /held":       1,
		"onced_gateway_requests_total first /held":             1,
		"onced_gateway_upstream_seconds /status/{code}":        2,
		"onced_gateway_upstream_seconds default":               2,
		"onced_gateway_upstream_seconds /held":                 1,
		"onced_gateway_added_seconds /status/{code}":           1,
		"onced_gateway_added_seconds /held":                    1,
	}
	// A client may see its answer before it is counted.
	eventually(t, "all to be counted", func() bool {
		n := 0.0
		for name, value := range samples(t, registry) {
			if strings.HasPrefix(name, "onced_gateway_requests_total") {
				n += value
			}
		}
		return n == 13 && g.gateways[0].inHand.Load() == 0
	})
	if got := samples(t, registry); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted\n%v, want\n%v", got, want)
	}
}
