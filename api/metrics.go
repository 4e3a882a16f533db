package api

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/onced/onced/fsm"
)

type metrics struct {
	requests *prometheus.CounterVec   // route, method, status
	seconds  *prometheus.HistogramVec // route
	claims   *prometheus.CounterVec   // surface, outcome
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "onced_http_requests_total", Help: "Requests answered, by route, method and status; 499 is a client that hung up.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "onced_http_request_seconds", Help: "Time from a request's header to its answer, by route.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 18),
		}, []string{"route"}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "onced_claims_total", Help: "Claims and creates, by surface and what came out.",
		}, []string{"surface", "outcome"}),
	}
	return m, errors.Join(to.Register(m.requests), to.Register(m.seconds), to.Register(m.claims))
}

// observe counts a request. No label is taken from what a client can make up.
func (m *metrics) observe(template, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(template, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(template).Observe(took.Seconds())
}

var surfaceNames = map[fsm.Surface]string{
	fsm.Surface_SURFACE_KEYS:   "keys",
	fsm.Surface_SURFACE_CREATE: "create",
}

var outcomeNames = map[fsm.Code]string{
	fsm.Code_GRANTED:         "granted",
	fsm.Code_REPLAY:          "replay",
	fsm.Code_CREATED:         "created",
	fsm.Code_IN_FLIGHT:       "in-progress",
	fsm.Code_KEY_REUSED:      "key-reused",
	fsm.Code_OUTCOME_UNKNOWN: "outcome-unknown",
}

// claimed counts what came out of a claim or a create.
func (m *metrics) claimed(surface fsm.Surface, o *fsm.Outcome, err error, hungUp bool) {
	outcome := outcomeNames[o.GetCode()]
	switch {
	case err != nil && hungUp:
		outcome = "hung-up"
	case err != nil:
		outcome = "unavailable"
	case outcome == "":
		outcome = "other"
	}
	m.claims.WithLabelValues(surfaceNames[surface], outcome).Inc()
}

func (s *server) metrics(x *exchange) error {
	promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{}).ServeHTTP(x, x.r)
	return nil
}
