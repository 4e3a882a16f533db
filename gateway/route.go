package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/net/http/httpguts"

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

// Limits of Settings.
const (
	minTTL, maxTTL     = time.Second, 720 * time.Hour
	minLease, maxLease = time.Second, time.Hour
	maxTimeout         = time.Hour
	maxBody            = 16 << 20
)

// Mistakes is everything that is wrong with the settings. Each begins with the name
// of the one that it is about.
func (s Settings) Mistakes() (errs []error) {
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(s.Key != KeyOptional && s.Key != KeyRequired && s.Key != KeyOff, "key %q: use optional, required or off", s.Key)
	wrong(s.OnLapse != "block" && s.OnLapse != "retry", "on-lapse %q: use block or retry", s.OnLapse)
	wrong(s.TTL < minTTL || s.TTL > maxTTL, "ttl %v: use 1s to 720h", s.TTL)
	wrong(s.Lease < minLease || s.Lease > maxLease, "lease %v: use 1s to 1h", s.Lease)
	wrong(s.Timeout < time.Millisecond || s.Timeout > maxTimeout, "timeout %v: use 1ms to 1h", s.Timeout)
	wrong(s.MaxRequest < 1 || s.MaxRequest > maxBody, "max-request %d: use 1 byte to 16 MiB", s.MaxRequest)
	wrong(s.MaxResponse < 1 || s.MaxResponse > maxBody, "max-response %d: use 1 byte to 16 MiB", s.MaxResponse)
	for _, name := range s.KeepHeaders {
		wrong(!httpguts.ValidHeaderFieldName(name), "keep-headers: %q is no name of a header", name)
		name = http.CanonicalHeaderKey(name)
		wrong(neverKept(name), "keep-headers: %s is never kept: it is a credential, or true of one exchange only", name)
	}
	for _, path := range append(slices.Clone(s.Ignore), s.KeyMember) {
		wrong(path != "" && slices.Contains(strings.Split(path, "."), ""), "member %q: a name in it is empty", path)
	}
	for _, status := range s.NotRecorded {
		wrong(status < 400 || status > 599, "not-recorded %d: use statuses from 400 to 599", status)
	}
	_, err := parseNamespace(s.Namespace)
	if err != nil {
		errs = append(errs, err)
	}
	return errs
}

// Mistakes is everything that is wrong with the route, whose settings are
// completed by those of d.
func (r Route) Mistakes(d Settings) []error {
	errs := r.withDefaults(d).Mistakes()
	if !strings.HasPrefix(r.Path, "/") {
		errs = append(errs, fmt.Errorf("path %q: begin it with /", r.Path))
	} else if err := mux.NewRouter().NewRoute().Path(r.Path).GetError(); err != nil {
		errs = append(errs, fmt.Errorf("path %q: %w", r.Path, err))
	}
	for _, m := range r.Methods {
		if !slices.Contains(coverable, m) {
			errs = append(errs, fmt.Errorf("method %q: use some of %s", m, strings.Join(coverable, ", ")))
		}
	}
	return errs
}

// coverable are the methods of requests that may carry a key that counts.
var coverable = []string{http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete}

var usuallyCovered = coverable[:2]

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
		methods := r.Methods
		if len(methods) == 0 {
			methods = usuallyCovered
		}
		m.NewRoute().Path(r.Path).Methods(methods...).Handler(covered{newRoute(r.Path, r.withDefaults(cfg.Default))})
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
