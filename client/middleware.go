package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MiddlewareConfig says how requests are treated. The zero value of a field
// takes the default that is named with it.
type MiddlewareConfig struct {
	// Methods are those of which a request with a key is claimed; none that is
	// safe (RFC 9110). All other requests pass through, a key or not. Default
	// POST and PATCH.
	Methods []string
	// KeyRequired refuses a request of Methods without a key, which otherwise
	// passes through.
	KeyRequired bool
	// Namespace says whose the key of a request is. With an error, or "", the
	// request is refused. Default AuthorizationNamespace.
	Namespace func(*http.Request) (string, error)
	// Fingerprint says what makes two requests the same request. It may not
	// read r.Body, which is body. Default RequestFingerprint.
	Fingerprint func(r *http.Request, body []byte) string
	// MaxBody is the largest body of a keyed request, in bytes: it is held in
	// memory. Default 1 MiB.
	MaxBody int64
	// MaxResponse is the largest body of a response that is kept, in bytes.
	// Default 512 KiB, which fits the cluster's own limit of 1 MiB in JSON.
	MaxResponse int
	// TTL is how long a record is kept, 1 s to 720 h. Default: the cluster's,
	// 24 h.
	TTL time.Duration
	// Lease is how long a claim stands if this process dies, 100 ms to 1 h; it
	// is renewed while the handler runs. Default 15 s.
	Lease time.Duration
	// OnLapse is what a retry finds after that, or after the handler failed.
	// Default Block.
	OnLapse OnLapse
	// TimeLimit is how long a handler may run: its context ends then, and its
	// outcome is unknown. Default 60 s.
	TimeLimit time.Duration
	// ClaimTimeout is how long a claim may take, waits not counted, before the
	// request is refused. Default 10 s.
	ClaimTimeout time.Duration
	// MaxWait caps Prefer: wait. Default 30 s, in whole seconds.
	MaxWait time.Duration
	// Log takes what is nobody's fault outside: panics, and a cluster that
	// cannot be used. Default slog.Default().
	Log *slog.Logger
}

// Default values of MiddlewareConfig.
const (
	defaultMaxBody      = 1 << 20
	defaultMaxResponse  = 512 << 10
	defaultLease        = 15 * time.Second
	defaultTimeLimit    = 60 * time.Second
	defaultClaimTimeout = 10 * time.Second
	defaultMaxWait      = 30 * time.Second
)

func (cfg *MiddlewareConfig) setDefaults() {
	if cfg.Methods == nil {
		cfg.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	if cfg.Namespace == nil {
		cfg.Namespace = AuthorizationNamespace
	}
	if cfg.Fingerprint == nil {
		cfg.Fingerprint = RequestFingerprint
	}
	if cfg.OnLapse == "" {
		cfg.OnLapse = Block
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.MaxBody = orDefault(cfg.MaxBody, defaultMaxBody)
	cfg.MaxResponse = orDefault(cfg.MaxResponse, defaultMaxResponse)
	cfg.Lease = orDefault(cfg.Lease, defaultLease)
	cfg.TimeLimit = orDefault(cfg.TimeLimit, defaultTimeLimit)
	cfg.ClaimTimeout = orDefault(cfg.ClaimTimeout, defaultClaimTimeout)
	cfg.MaxWait = orDefault(cfg.MaxWait, defaultMaxWait)
}

// Validate reports everything that is wrong with the configuration at once.
func (cfg MiddlewareConfig) Validate() error {
	cfg.setDefaults()
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, method := range cfg.Methods {
		safe := slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodConnect}, method)
		wrong(safe || method == "" || method != strings.ToUpper(method), "Methods: %q cannot be claimed", method)
	}
	wrong(cfg.MaxBody < 0, "MaxBody %d is negative", cfg.MaxBody)
	wrong(cfg.MaxResponse < 0, "MaxResponse %d is negative", cfg.MaxResponse)
	wrong(cfg.TTL != 0 && (cfg.TTL < time.Second || cfg.TTL > 720*time.Hour), "TTL %v: use 1s to 720h", cfg.TTL)
	wrong(cfg.Lease < 100*time.Millisecond || cfg.Lease > time.Hour, "Lease %v: use 100ms to 1h", cfg.Lease)
	wrong(cfg.OnLapse != Block && cfg.OnLapse != Retry, "OnLapse %q: use Block or Retry", cfg.OnLapse)
	wrong(cfg.TimeLimit < 0, "TimeLimit %v is negative", cfg.TimeLimit)
	wrong(cfg.ClaimTimeout < 0, "ClaimTimeout %v is negative", cfg.ClaimTimeout)
	wrong(cfg.MaxWait < 0, "MaxWait %v is negative", cfg.MaxWait)
	return errors.Join(errs...)
}

// Middleware makes a handler idempotent through the cluster of c: see the
// package's documentation for what that promises. It must be outside of all
// that reads the body, and inside of what says who the caller is. It panics if
// cfg is not valid.
func Middleware(c *Client, cfg MiddlewareConfig) func(http.Handler) http.Handler {
	if err := cfg.Validate(); err != nil {
		panic(fmt.Sprintf("client.Middleware: %v", err))
	}
	cfg.setDefaults()
	return func(next http.Handler) http.Handler { return &middleware{c, cfg, next} }
}

type middleware struct {
	c    *Client
	cfg  MiddlewareConfig
	next http.Handler
}

// keyed is a request with a key that is to be claimed.
type keyed struct {
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context // of r, but it does not end when the client hangs up
	sent string          // the key as it was sent
	key  string          // the key in the cluster
	body []byte
	wait time.Duration
	opts ClaimOptions
}

// ServeHTTP lets a request pass through, run under a claim, or be answered
// without the handler.
func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(m.cfg.Methods, r.Method) {
		m.next.ServeHTTP(w, r)
		return
	}
	k, refusal := m.parse(w, r)
	switch {
	case refusal != nil:
		refusal.write(w)
		return
	case k == nil:
		m.next.ServeHTTP(w, r)
		return
	}
	result, err := m.claim(k)
	switch {
	case err != nil:
		m.refuse(k, err)
	case result.Record != nil:
		k.replay(result)
	default:
		m.run(k, result.Claim)
	}
}

// parse reads everything that a claim needs. It returns nil for a request that
// passes through. What it refuses, it claims nothing for.
func (m *middleware) parse(w http.ResponseWriter, r *http.Request) (*keyed, *Error) {
	key, err := ParseKey(r.Header)
	if errors.Is(err, ErrKeyMissing) && !m.cfg.KeyRequired {
		return nil, nil
	}
	var mistake *Error
	if errors.As(err, &mistake) {
		p := problem(mistake.Slug())
		p.Detail = mistake.Detail
		return nil, p
	}
	namespace, err := m.cfg.Namespace(r)
	if err != nil || namespace == "" {
		return nil, problem(ErrNamespaceRequired)
	}
	body, refusal := m.readBody(w, r)
	if refusal != nil {
		return nil, refusal
	}
	sum := sha256.Sum256([]byte(m.cfg.Fingerprint(r, body)))
	return &keyed{
		w: w, r: r, ctx: context.WithoutCancel(r.Context()),
		sent: r.Header.Get(keyHeader), key: clusterKey(namespace, key), body: body,
		wait: preferredWait(r.Header, m.cfg.MaxWait),
		opts: ClaimOptions{
			Fingerprint: hex.EncodeToString(sum[:]), AttemptID: m.c.newID(),
			Lease: m.cfg.Lease, TTL: m.cfg.TTL, OnLapse: m.cfg.OnLapse,
		},
	}, nil
}

// readBody reads the whole body, or says why not; then the connection closes,
// since the rest of the body is not read.
func (m *middleware) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *Error) {
	if r.Body == nil {
		return nil, nil
	}
	slug := ErrTooLarge
	if r.ContentLength <= m.cfg.MaxBody {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, m.cfg.MaxBody))
		if err == nil {
			return body, nil
		}
		var over *http.MaxBytesError
		if !errors.As(err, &over) {
			slug = ErrBadRequest
		}
	}
	w.Header().Set("Connection", "close")
	return nil, problem(slug)
}

func (m *middleware) claim(k *keyed) (*ClaimResult, error) {
	ctx, cancel := context.WithTimeout(k.ctx, m.cfg.ClaimTimeout+k.wait)
	defer cancel()
	opts := k.opts
	opts.Wait = k.wait
	return m.c.Claim(ctx, k.key, opts)
}

// refuse answers a request whose claim was not granted.
func (m *middleware) refuse(k *keyed, err error) {
	p := problemOf(err)
	if p.Status >= http.StatusInternalServerError {
		m.log(k, "claim failed", err)
	}
	k.markWait(k.w.Header())
	var e *Error
	open := errors.As(err, &e) && e.Retryable && e.Ambiguous && !e.Is(ErrInProgress)
	if open {
		k.w.Header().Set("Connection", "close")
	}
	p.write(k.w)
	if open {
		_ = http.NewResponseController(k.w).Flush()
		m.giveBack(k)
	}
}

// giveBack releases a claim that may have been granted without our learning of
// it: nothing was run, and else it would lapse and block the key. The client
// has its answer by then, and the lease bounds how long that is tried.
func (m *middleware) giveBack(k *keyed) {
	ctx, cancel := context.WithTimeout(k.ctx, m.cfg.Lease)
	defer cancel()
	result, err := m.c.Claim(ctx, k.key, k.opts)
	if err == nil && result.Claim != nil {
		err = m.c.Release(ctx, k.key, result.Claim.Fence)
	}
	if err != nil && !errors.Is(err, ErrInProgress) {
		m.log(k, "claim may have been granted, and could not be released", err)
	}
}

// replay answers with a record.
func (k *keyed) replay(result *ClaimResult) {
	k.markWait(k.w.Header())
	response := result.Record.Response
	if p := asNotKept(response); p != nil {
		p.write(k.w)
		return
	}
	h := k.w.Header()
	for _, name := range keptHeaders {
		if values := response.Header[name]; len(values) > 0 {
			h[name] = values
		}
	}
	if len(response.Header["Content-Type"]) == 0 {
		h["Content-Type"] = nil // or net/http would find one
	}
	k.mark(h, seconds(result.Remaining))
	h.Set("Idempotent-Replayed", "true")
	if response.Status != http.StatusNoContent && response.Status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(response.Body)))
	}
	k.w.WriteHeader(response.Status)
	if len(response.Body) > 0 {
		// A client that has gone is not told.
		_, _ = k.w.Write(response.Body)
	}
}

// mark names the key of an answer that is recorded, and says how long.
func (k *keyed) mark(h http.Header, ttl string) {
	k.markWait(h)
	if ttl == "" {
		return
	}
	h.Set(keyHeader, k.sent)
	// Spelt on the wire as it is documented, not as Set would.
	h["Idempotency-TTL"] = []string{ttl}
}

func (k *keyed) markWait(h http.Header) {
	if k.wait > 0 {
		h.Set("Preference-Applied", "wait="+seconds(k.wait))
	}
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(max(0, d)/time.Second), 10) }

// request returns the request that the handler gets.
func (k *keyed) request(ctx context.Context) *http.Request {
	r := k.r.WithContext(ctx)
	r.Body = io.NopCloser(bytes.NewReader(k.body))
	r.ContentLength = int64(len(k.body))
	r.TransferEncoding = nil
	return r
}

// log says what happened to a key without telling it.
func (m *middleware) log(k *keyed, message string, err error) {
	sum := sha256.Sum256([]byte(k.key))
	m.cfg.Log.Warn(message, "method", k.r.Method, "key", hex.EncodeToString(sum[:4]), "err", err)
}
