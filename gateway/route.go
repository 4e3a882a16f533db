package gateway

import (
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/mux"

	"github.com/onced/onced/fsm"
)

// KeyPolicy says what becomes of a request on a route without a key.
type KeyPolicy string

// Without a key, a request is passed through, or refused. On a route that is
// off, it is passed through with a key as well.
const (
	KeyOptional KeyPolicy = "optional"
	KeyRequired KeyPolicy = "required"
	KeyOff      KeyPolicy = "off"
)

// Route says which requests are covered, and how.
type Route struct {
	// Path is a pattern of gorilla/mux, such as /orders/{id}/capture. It is
	// matched against the path as it was sent, percent-encoding and all, and
	// names the route in the metrics.
	Path string
	// Methods are some of POST, PATCH, PUT and DELETE. Default POST and PATCH.
	Methods []string
	Settings
}

// Settings say how a keyed request is treated. The zero value of a field takes
// the default.
type Settings struct {
	// Key: optional (the default), required, or off.
	Key KeyPolicy
	// KeyMember takes the key from this member of the JSON body instead of
	// from the header; dots lead into objects: "payment.id".
	KeyMember string
	// OnLapse is what a claim's end without an outcome means: "block" (the
	// default) leaves the key unknown until it is resolved or ends, "retry"
	// lets the next request run.
	OnLapse string
	// TTL is how long an outcome is kept. Default 24 h; 1 s to 720 h.
	TTL time.Duration
	// Lease is how long a claim stands without a word from its node; it is
	// renewed while the upstream works. Default 15 s; 1 s to 1 h.
	Lease time.Duration
	// Timeout is how long the upstream may take. Default 60 s; to 1 h.
	Timeout time.Duration
	// MaxRequest and MaxResponse are the longest bodies, in bytes: a longer
	// request is refused, a longer response passed on and not kept. Defaults
	// 1 MiB and 512 KiB; up to 16 MiB.
	MaxRequest, MaxResponse int64
	// KeepHeaders are response headers kept beside the usual ones.
	KeepHeaders []string
	// Ignore are members of a JSON body that do not make two requests differ;
	// dots lead into objects. Canonical compares JSON bodies by content (RFC
	// 8785) and not by bytes; Ignore implies it.
	Ignore    []string
	Canonical *bool
	// Namespace says whose a key is: "authorization" (the default: a hash of
	// that header), "header:NAME", "cookie:NAME", "host", or "shared".
	Namespace string
	// NotRecorded are statuses after which the key is free again, as after a
	// 429 or 503 with Retry-After.
	NotRecorded []int
}

var no = false

var builtin = Settings{
	Key: KeyOptional, OnLapse: "block",
	TTL: 24 * time.Hour, Lease: 15 * time.Second, Timeout: 60 * time.Second,
	MaxRequest: 1 << 20, MaxResponse: 512 << 10,
	Canonical: &no, Namespace: "authorization",
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (s Settings) withDefaults(d Settings) Settings {
	s.Key = or(s.Key, d.Key)
	s.KeyMember = or(s.KeyMember, d.KeyMember)
	s.OnLapse = or(s.OnLapse, d.OnLapse)
	s.TTL = or(s.TTL, d.TTL)
	s.Lease = or(s.Lease, d.Lease)
	s.Timeout = or(s.Timeout, d.Timeout)
	s.MaxRequest = or(s.MaxRequest, d.MaxRequest)
	s.MaxResponse = or(s.MaxResponse, d.MaxResponse)
	s.Canonical = or(s.Canonical, d.Canonical)
	s.Namespace = or(s.Namespace, d.Namespace)
	if s.KeepHeaders == nil {
		s.KeepHeaders = d.KeepHeaders
	}
	if s.Ignore == nil {
		s.Ignore = d.Ignore
	}
	if s.NotRecorded == nil {
		s.NotRecorded = d.NotRecorded
	}
	return s
}

// coverable are the methods of requests that may carry a key that counts.
var coverable = []string{http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete}

var usuallyCovered = coverable[:2]

func (r Route) methods() []string {
	if len(r.Methods) == 0 {
		return usuallyCovered
	}
	return r.Methods
}

// route is a Route made ready.
type route struct {
	name string
	Settings
	onLapse   fsm.OnLapse
	namespace namespace
	kept      map[string]bool
}

func newRoute(name string, s Settings) *route {
	r := &route{name: name, Settings: s, kept: map[string]bool{}}
	if s.OnLapse == "block" {
		r.onLapse = fsm.OnLapse_BLOCK
	}
	r.namespace, _ = parseNamespace(s.Namespace) // it was validated
	for _, name := range s.KeepHeaders {
		r.kept[http.CanonicalHeaderKey(name)] = true
	}
	return r
}

// covered is the handler that a router's match stands for.
type covered struct{ *route }

func (covered) ServeHTTP(http.ResponseWriter, *http.Request) {}

// newRouter leaves paths as they were sent: what is proxied must not change.
func newRouter(cfg Config) (m *mux.Router, fallback *route) {
	m = mux.NewRouter().UseEncodedPath().SkipClean(true)
	for _, r := range cfg.Routes {
		m.NewRoute().Path(r.Path).Methods(r.methods()...).Handler(covered{newRoute(r.Path, r.withDefaults(cfg.Default))})
	}
	return m, newRoute("default", cfg.Default)
}

// routeOf returns how r is treated; nil if it is passed through.
func (g *Gateway) routeOf(r *http.Request) *route {
	var match mux.RouteMatch
	if g.router.Match(r, &match) && match.MatchErr == nil {
		if c, ok := match.Handler.(covered); ok {
			return c.route
		}
	}
	if slices.Contains(usuallyCovered, r.Method) {
		return g.fallback
	}
	return nil
}
