package client_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/onced/onced/client"
)

// service is a handler behind the middleware, on a real server.
type service struct {
	t    *testing.T
	http *httptest.Server
	c    *client.Client
	runs atomic.Int64
}

// serve starts a service on the shared node. change, if any, is applied to the
// middleware's configuration.
func serve(t *testing.T, h http.HandlerFunc, change ...func(*client.MiddlewareConfig)) *service {
	t.Helper()
	return serveOn(t, dial(t, shared()), h, change...)
}

func serveOn(t *testing.T, c *client.Client, h http.HandlerFunc, change ...func(*client.MiddlewareConfig)) *service {
	t.Helper()
	cfg := client.MiddlewareConfig{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range change {
		f(&cfg)
	}
	s := &service{t: t, c: c}
	s.http = httptest.NewServer(client.Middleware(c, cfg)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.runs.Add(1)
		h(w, r)
	})))
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	t.Cleanup(s.http.Close)
	return s
}

// got is what a client saw.
type got struct {
	t      *testing.T
	status int
	header http.Header
	body   string
	closes bool  // the connection is not used again
	err    error // of the body, or of no answer
}

// post sends a POST with the key. more are further headers, "Name: value".
func (s *service) post(key, body string, more ...string) *got {
	s.t.Helper()
	return s.send(http.MethodPost, key, body, more...)
}

func (s *service) send(method, key, body string, more ...string) *got {
	s.t.Helper()
	req, err := http.NewRequestWithContext(patient(s.t), method, s.http.URL+"/orders", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	for _, h := range more {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return s.do(req)
}

func (s *service) do(req *http.Request) *got {
	s.t.Helper()
	// A connection of its own: net/http sends a request with a key again by
	// itself if one that it had used breaks.
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return &got{t: s.t, err: err, header: http.Header{}}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &got{s.t, resp.StatusCode, resp.Header, string(b), resp.Close, err}
}

// is fails the test unless the answer is the handler's.
func (g *got) is(status int, body string, replayed bool) *got {
	g.t.Helper()
	if g.err != nil || g.status != status || g.body != body || (g.header.Get("Idempotent-Replayed") == "true") != replayed {
		g.t.Fatalf("the answer is %d %.200q %v (replayed %q), want %d %.200q", g.status, g.body, g.err, g.header.Get("Idempotent-Replayed"), status, body)
	}
	return g
}

// refused fails the test unless the answer is a problem of the type.
func (g *got) refused(status int, slug client.Slug) *got {
	g.t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		Retryable           *bool
	}
	if err := json.Unmarshal([]byte(g.body), &p); err != nil || g.err != nil {
		g.t.Fatalf("the answer is %d %.200q, %v", g.status, g.body, g.err)
	}
	if g.status != status || p.Status != status || p.Type != "urn:onced:"+string(slug) || p.Title == "" || p.Detail == "" || p.Retryable == nil ||
		g.header.Get("Content-Type") != "application/problem+json" {
		g.t.Fatalf("the answer is %d %.300s, want %d %s", g.status, g.body, status, slug)
	}
	return g
}

func (g *got) has(name, value string) *got {
	g.t.Helper()
	if got := strings.Join(g.header.Values(name), "|"); got != value {
		g.t.Errorf("%s is %q, want %q", name, got, value)
	}
	return g
}

// ran fails the test unless the handler ran n times.
func (s *service) ran(n int64) {
	s.t.Helper()
	if got := s.runs.Load(); got != n {
		s.t.Fatalf("the handler ran %d times, want %d", got, n)
	}
}
