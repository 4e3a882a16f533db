package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"github.com/onced/onced/wire"
)

// exchange is one request and its answer.
type exchange struct {
	http.ResponseWriter
	r         *http.Request
	namespace string
	key       string     // for the log, hashed; "" if there is none
	query     url.Values // only parameters that the method knows, each once
	status    int        // 0 until the header is sent
}

// WriteHeader sends the header.
func (x *exchange) WriteHeader(status int) {
	x.status = status
	x.ResponseWriter.WriteHeader(status)
}

// send sends the whole answer.
func (x *exchange) send(status int, mediaType string, body []byte) error {
	h := x.Header()
	h.Set("Content-Type", mediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.WriteHeader(status)
	// A client that has gone is not told.
	_, _ = x.Write(body)
	return nil
}

func (x *exchange) sendJSON(status int, body []byte) error { return x.send(status, jsonType, body) }

func (x *exchange) sendNothing() error {
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// body reads the body, which is JSON not nested too deep, or empty. The caller
// calls done when it no longer needs it.
func (s *server) body(x *exchange, form bool) (b []byte, done func(), err error) {
	if err := checkMediaType(x.r.Header, form); err != nil {
		return nil, nil, err
	}
	buffer, err := readBody(x.ResponseWriter, x.r, s.cfg.MaxBody)
	if err != nil {
		return nil, nil, err
	}
	if err := checkDepth(buffer.Bytes()); err != nil {
		release(buffer)
		return nil, nil, err
	}
	return buffer.Bytes(), func() { release(buffer) }, nil
}

// serve is around every handler: it keeps count, sheds, says who may, and turns
// errors and panics into answers.
func (s *server) serve(route *route) http.Handler {
	template := route.template()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{ResponseWriter: w, r: r}
		began := time.Now()
		defer func() { s.met.observe(template, r.Method, x.status, time.Since(began)) }()
		defer func() { s.recovered(x, template, recover()) }()
		if err := s.dispatch(x, route); err != nil {
			s.refuse(x, template, err)
		}
	})
}

func (s *server) dispatch(x *exchange, route *route) error {
	if len(route.methods) == 0 {
		return wire.NotFound
	}
	m, ok := route.methods[x.r.Method]
	if !ok {
		x.Header().Set("Allow", route.allow)
		return wire.MethodNotAllowed
	}
	if m.access == forAnyone {
		return m.handle(s, x)
	}
	if err := s.checkOrigin(x.r); err != nil {
		return wire.Forbidden.With("requests from pages of another origin are refused")
	}
	defer s.inHand.Add(-1)
	if s.inHand.Add(1) > int64(s.cfg.MaxInHand) {
		return wire.Overloaded
	}
	caller, err := s.cfg.Identify(x.r)
	if err != nil {
		return err
	}
	if !m.access.allows(caller.Role) {
		return wire.Forbidden.With("the role of the caller does not allow this")
	}
	x.namespace = caller.Namespace
	if err := x.parseQuery(m.query); err != nil {
		return err
	}
	if err := x.otherNamespace(caller.Role); err != nil {
		return err
	}
	return m.handle(s, x)
}

// checkOrigin refuses what a page of another origin has a browser send. Reading
// counts too, which net/http would let through: the page could not see the
// answer, but have the node read a backup or fill the log with reads.
func (s *server) checkOrigin(r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		asWrite := *r
		asWrite.Method = http.MethodPost
		r = &asWrite
	}
	return s.origins.Check(r)
}

// parseQuery refuses parameters that would have no effect: a misspelt one
// should not go unnoticed.
func (x *exchange) parseQuery(known []string) error {
	if x.r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(x.r.URL.RawQuery)
	if err != nil {
		return wire.BadRequest.With("the query is malformed: percent-encode it")
	}
	for name, values := range query {
		if !slices.Contains(known, name) {
			return wire.BadRequest.With(fmt.Sprintf("the query parameter %.40q is not known here: leave it out", name))
		}
		if len(values) > 1 {
			return wrong(name, "send the query parameter once")
		}
	}
	x.query = query
	return nil
}

// maxNamespace is the longest namespace, in bytes.
const maxNamespace = 255

// otherNamespace has an operator see, instead of its own namespace, the one
// that the query names: records of the gateway are in namespaces that are
// nobody's credential.
func (x *exchange) otherNamespace(role Role) error {
	if !x.query.Has("namespace") {
		return nil
	}
	if role != Operator {
		return wire.Forbidden.With("only an operator may name a namespace: leave the query parameter out")
	}
	name := x.query.Get("namespace")
	if name == "" || len(name) > maxNamespace || strings.Contains(name, "\x00") || !utf8.ValidString(name) {
		return wrong("namespace", "use 1 to 255 bytes of UTF-8 without NUL")
	}
	x.namespace = name
	return nil
}

// pathVar returns a segment of the path, unescaped.
func (x *exchange) pathVar(name string) (string, error) {
	s, err := url.PathUnescape(mux.Vars(x.r)[name])
	if err != nil {
		return "", wire.NotFound
	}
	return s, nil
}

// refuse answers with the problem that err is, and logs what is not the
// client's fault.
func (s *server) refuse(x *exchange, template string, err error) {
	p := wire.ProblemOf(err)
	gone := x.hungUp() && errors.Is(p, wire.Unavailable)
	if p.Status >= http.StatusInternalServerError && !gone {
		s.logFailure(x, template, p, err)
	}
	if x.status != 0 {
		// Half an answer is out: only breaking off tells the client.
		panic(http.ErrAbortHandler)
	}
	if p.Status == http.StatusUnauthorized {
		x.Header().Set("WWW-Authenticate", "Bearer")
	}
	p.Write(x)
	if gone {
		x.status = statusHungUp
	}
}

// statusHungUp is what the metrics count for a client that did not wait for its
// answer: no fault of the cluster, as a 503 would say.
const statusHungUp = 499

// hungUp reports whether the client has gone. It is then that which ended the
// wait for the cluster, whatever the error says.
func (x *exchange) hungUp() bool { return errors.Is(x.r.Context().Err(), context.Canceled) }

func (s *server) logFailure(x *exchange, template string, p *wire.Problem, err error) {
	attrs := []any{"route", template, "method", x.r.Method, "problem", p.Slug}
	if x.key != "" {
		attrs = append(attrs, "key", wire.HashKey(x.key))
	}
	if p.Status == http.StatusServiceUnavailable {
		// Without a quorum, or under load, there may be many thousand a second.
		missed, ok := s.quiet.allow(time.Now())
		if !ok {
			return
		}
		attrs = append(attrs, "unlogged", missed)
	}
	var known *wire.Problem
	if !errors.As(err, &known) {
		attrs = append(attrs, "err", err)
	}
	s.cfg.Log.Warn("request failed", attrs...)
}

// recovered answers for a handler that panicked. The stack goes to the log.
func (s *server) recovered(x *exchange, template string, cause any) {
	switch cause {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(cause)
	}
	s.cfg.Log.Error("handler panicked", "route", template, "method", x.r.Method, "panic", cause, slog.String("stack", string(debug.Stack())))
	if x.status != 0 {
		panic(http.ErrAbortHandler)
	}
	wire.Internal.Write(x)
}

// throttle lets one through in a second.
type throttle struct {
	mu     sync.Mutex
	until  time.Time
	missed int
}

// allow reports whether now is the turn of one, and how many were held back
// since the last.
func (t *throttle) allow(now time.Time) (missed int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.until) {
		t.missed++
		return 0, false
	}
	missed, t.missed, t.until = t.missed, 0, now.Add(time.Second)
	return missed, true
}
