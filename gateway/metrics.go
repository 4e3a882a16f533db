package gateway

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/wire"
)

// outcome is what became of a request, as the metrics name it.
type outcome string

const (
	none        outcome = ""
	first       outcome = "first"
	replayed    outcome = "replayed"
	inProgress  outcome = "in-progress"
	reused      outcome = "reused"
	unknown     outcome = "unknown"
	notKept     outcome = "not-kept"
	released    outcome = "released"
	passed      outcome = "passed"
	refused     outcome = "refused"
	overloaded  outcome = "overloaded"
	unavailable outcome = "unavailable"
	failed      outcome = "failed"
)

// outcomeOf is what a problem says of the request.
func outcomeOf(p *wire.Problem) outcome {
	switch {
	case errors.Is(p, wire.InProgress):
		return inProgress
	case errors.Is(p, wire.KeyReused):
		return reused
	case errors.Is(p, wire.OutcomeUnknown):
		return unknown
	case errors.Is(p, wire.ResponseNotKept):
		return notKept
	case errors.Is(p, wire.Overloaded):
		return overloaded
	case errors.Is(p, wire.Unavailable):
		return unavailable
	case p.Status >= http.StatusInternalServerError:
		return failed
	}
	return refused
}

type metrics struct {
	requests *prometheus.CounterVec   // route, outcome
	upstream *prometheus.HistogramVec // route
	added    *prometheus.HistogramVec // route
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	buckets := prometheus.ExponentialBuckets(0.00025, 2, 20)
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "onced_gateway_requests_total", Help: "Requests through the gateway, by route and what became of them.",
		}, []string{"route", "outcome"}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "onced_gateway_upstream_seconds", Help: "Time that the upstream took for a keyed request, by route.", Buckets: buckets,
		}, []string{"route"}),
		added: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "onced_gateway_added_seconds", Help: "Time of a first run that was not the upstream's, by route.", Buckets: buckets,
		}, []string{"route"}),
	}
	return m, errors.Join(to.Register(m.requests), to.Register(m.upstream), to.Register(m.added))
}

// observe counts an exchange. No label is taken from what a client can make up.
func (m *metrics) observe(x *exchange, took time.Duration) {
	if x.outcome == none {
		x.outcome = failed
	}
	m.requests.WithLabelValues(x.name(), string(x.outcome)).Inc()
	if x.upstream > 0 {
		m.upstream.WithLabelValues(x.name()).Observe(x.upstream.Seconds())
		if x.outcome == first {
			m.added.WithLabelValues(x.name()).Observe((took - x.upstream).Seconds())
		}
	}
}
