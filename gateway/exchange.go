package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

const (
	// writeTimeout bounds the time in which a client takes a piece of its
	// answer: one that does not read must not hold memory, or a place among the
	// requests in hand, for ever.
	writeTimeout = 30 * time.Second
	// piece is how much of an answer is written at once.
	piece = 32 << 10
)

// exchange is one request and its answer.
type exchange struct {
	w     *answer
	r     *http.Request
	route *route // nil: passed through
	key   fsm.Key
	// echo is the header that named the key.
	echo string
	// body is that of the request, held whole; reserved are the bytes that
	// are counted for it.
	body     []byte
	reserved int64
	// upstream is how long the upstream took.
	upstream time.Duration
	outcome  outcome
}

// answer is a ResponseWriter that knows whether it has begun, and does not wait
// for ever for a client to take it.
type answer struct {
	http.ResponseWriter
	status int // 0 until the header is sent
	// timeout bounds the time in which the client takes a piece. Once it has
	// been let pass nothing more is sent.
	timeout time.Duration
}

// WriteHeader sends the header. One that is informational is not yet it.
func (a *answer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		a.status = status
	}
	_ = a.boundWrite() // where no body follows; it fails where the client has gone
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) boundWrite() error {
	return http.NewResponseController(a.ResponseWriter).SetWriteDeadline(time.Now().Add(a.timeout))
}

// Write sends b in pieces, each in its own time.
func (a *answer) Write(b []byte) (n int, err error) {
	for first := true; first || len(b) > 0; first = false {
		if err := a.boundWrite(); err != nil {
			return n, fmt.Errorf("bound the time to write: %w", err)
		}
		some, err := a.ResponseWriter.Write(b[:min(piece, len(b))])
		n, b = n+some, b[some:]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// FlushError sends what is buffered.
func (a *answer) FlushError() error {
	if err := a.boundWrite(); err != nil {
		return fmt.Errorf("bound the time to write: %w", err)
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// ServeHTTP answers one request: passed through, or by way of its key. A client
// that hangs up meanwhile cancels nothing.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{w: &answer{ResponseWriter: w, timeout: g.writeTimeout}, r: r, route: g.routeOf(r)}
	began := time.Now()
	defer func() { _ = x.w.boundWrite() }() // for what net/http sends at the end
	defer func() { g.met.observe(x, time.Since(began)) }()
	defer func() { g.recovered(x, recover()) }()
	defer g.inHand.Add(-1)
	if err := g.serve(x); err != nil {
		g.refuse(x, err)
	}
}

func (g *Gateway) serve(x *exchange) error {
	if g.inHand.Add(1) > int64(g.cfg.MaxInHand) {
		return wire.Overloaded
	}
	if beenHere(x.r.Header, g.pseudonym()) {
		// Who sent it here learns by this that it was refused, and not answered.
		x.w.Header().Set("Via", "1.1 "+g.pseudonym())
		return wire.LoopDetected
	}
	if err := checkTarget(x); err != nil {
		return err
	}
	if x.route == nil || x.route.Key == KeyOff {
		return g.passThrough(x)
	}
	defer g.letGo(x)
	keyed, err := g.findKey(x)
	if err != nil {
		return err
	}
	if !keyed {
		return g.passThrough(x)
	}
	if x.key.Namespace, err = x.route.namespace.of(x.r); err != nil {
		return err
	}
	if x.route.KeyMember == "" {
		if err := g.hold(x, x.route.MaxRequest); err != nil {
			return err
		}
	}
	return g.claim(x)
}

// checkTarget refuses what asks for no path of the service behind the gateway.
func checkTarget(x *exchange) error {
	if x.r.Method == http.MethodConnect {
		x.w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE")
		return wire.MethodNotAllowed.With("the gateway is no tunnel")
	}
	// An absolute target may leave the path out (RFC 9112, section 3.2.2).
	if path := x.r.URL.Path; x.r.URL.Opaque != "" || path != "" && path[0] != '/' {
		return wire.BadRequest.With("the target of the request is no path: begin it with /, or with http:// and a host")
	}
	return nil
}

// findKey reports whether the request has a key. A route that takes it from the
// body holds the body from then on.
func (g *Gateway) findKey(x *exchange) (keyed bool, err error) {
	if x.route.KeyMember == "" {
		x.key.Key, err = wire.ParseKey(x.r.Header)
		x.echo = x.r.Header.Get(wire.KeyHeader)
	} else {
		if err := g.hold(x, x.route.MaxRequest); err != nil {
			return false, err
		}
		x.key.Key, err = memberKey(x.r.Header, x.body, x.route.KeyMember)
		x.echo = wire.FormatKey(x.key.Key)
	}
	if errors.Is(err, wire.KeyMissing) && x.route.Key != KeyRequired {
		return false, nil
	}
	return err == nil, err
}

// claim claims the key, and answers what comes of it: a grant is run.
func (g *Gateway) claim(x *exchange) error {
	if !g.enter() {
		return wire.Unavailable.With("this node is stopping: nothing was claimed, repeat the request at another")
	}
	defer g.running.Done()
	c := &fsm.Command{
		Kind: fsm.Kind_CLAIM, Namespace: x.key.Namespace, Key: x.key.Key, Surface: fsm.Surface_SURFACE_GATEWAY,
		Fingerprint: x.route.fingerprint(x.r, x.body), OnLapse: x.route.onLapse,
		Lease: x.route.Lease.Milliseconds(), Ttl: x.route.TTL.Milliseconds(),
	}
	wait := wire.PreferredWait(x.r.Header, g.cfg.MaxWait)
	if wait > 0 {
		if g.waiters.enter(x.key, g.cfg.MaxWaiters, g.cfg.MaxWaitersPerKey) {
			defer g.waiters.leave(x.key)
		} else {
			wait = 0
		}
	}
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	defer context.AfterFunc(g.context, cancel)()
	o, err := g.cluster.Begin(ctx, c, wait)
	if err != nil {
		return fmt.Errorf("claim key: %w", err)
	}
	if wait > 0 {
		x.w.Header().Set("Preference-Applied", wire.FormatWait(wait))
	}
	switch o.Code {
	case fsm.Code_GRANTED:
		return g.run(x, o.Record)
	case fsm.Code_REPLAY:
		if err := wire.SendRecorded(x.w, x.echo, o); err != nil {
			return err
		}
		x.outcome = replayed
		return nil
	}
	var p *wire.Problem
	if err = wire.ProblemOfOutcome(o); errors.As(err, &p) && errors.Is(p, wire.OutcomeUnknown) {
		return x.named(p)
	}
	return err
}

// named returns p with the namespace of the key, which an operator needs to
// settle it and cannot guess.
func (x *exchange) named(p *wire.Problem) *wire.Problem {
	q := *p
	q.Members = append(slices.Clone(p.Members), wire.Member{Name: "namespace", Value: wire.AppendString(nil, x.key.Namespace)})
	return &q
}

// refuse answers with the problem that err is, and logs what is not the
// client's fault.
func (g *Gateway) refuse(x *exchange, err error) {
	p := wire.ProblemOf(err)
	if x.outcome == none {
		x.outcome = outcomeOf(p)
	}
	var known *wire.Problem
	gone := x.r.Context().Err() != nil && errors.Is(err, context.Canceled)
	if p.Status >= http.StatusInternalServerError && !gone && !errors.As(err, &known) {
		g.log.Warn("gateway request failed", "route", x.name(), "method", x.r.Method, "problem", p.Slug, "namespace", x.key.Namespace, "key", hashKey(x.key), "err", err)
	}
	if x.w.status != 0 {
		// Half an answer is out: only breaking off tells the client.
		panic(http.ErrAbortHandler)
	}
	p.Write(x.w)
}

// recovered answers for a handler that panicked. The stack goes to the log.
func (g *Gateway) recovered(x *exchange, cause any) {
	switch cause {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(cause)
	}
	g.log.Error("gateway handler panicked", "route", x.name(), "method", x.r.Method, "panic", cause, "stack", string(debug.Stack()))
	if x.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	wire.Internal.Write(x.w)
}

// name is that of the route, as the metrics have it.
func (x *exchange) name() string {
	if x.route == nil {
		return "none"
	}
	return x.route.name
}

// hashKey names a key in the log without telling it.
func hashKey(k fsm.Key) string {
	sum := sha256.Sum256([]byte(k.Namespace + "\x00" + k.Key))
	return hex.EncodeToString(sum[:4])
}
