package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// run is what becomes of one claim that was granted: the request goes to the
// upstream at most once, what came of it is committed, and only then is the
// client answered.
type run struct {
	*Gateway
	*exchange
	claim *fsm.Record
	// context does not end with the client. It ends when the upstream has had
	// its time, which clock measures, or the gateway closes.
	context context.Context
	clock   *time.Timer
}

// run runs the request under the claim.
func (g *Gateway) run(x *exchange, claim *fsm.Record) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(x.r.Context()))
	defer cancel(nil)
	defer context.AfterFunc(g.context, func() { cancel(errClosing) })()
	clock := time.AfterFunc(x.route.Timeout, func() { cancel(errTooSlow) })
	defer clock.Stop()
	r := &run{Gateway: g, exchange: x, claim: claim, context: ctx, clock: clock}
	stopRenewing := r.keepRenewed()
	defer stopRenewing()

	if g.cluster.Now() >= claim.LeaseExpiresAt {
		// This node stood still since: another may hold the key by now.
		return r.giveBack(wire.Unavailable.With("the claim lapsed before anything was sent to the upstream: nothing was run, repeat the request"))
	}
	began := time.Now()
	res, done, err := g.upstreams.send(ctx, r.request)
	if err != nil {
		x.upstream = time.Since(began)
		return r.failed(err)
	}
	defer done()
	return r.received(res, began, stopRenewing)
}

var (
	errTooSlow = errors.New("the upstream took longer than it may")
	errClosing = errors.New("the node is stopping")
)

// request makes the request for one upstream.
func (r *run) request(ctx context.Context, u *upstream) *http.Request {
	h := r.r.Header.Clone()
	upgrade := upgradeType(h)
	removeHopByHop(h)
	h.Del("Expect") // the body is here already
	announce(h, r.r, r.pseudonym())
	h.Set(wire.KeyHeader, r.echo)
	h.Set(fenceHeader, strconv.FormatUint(r.claim.Fence, 10))
	h.Set(attemptHeader, strconv.FormatUint(uint64(r.claim.Attempt), 10))
	neverResent(h)
	if upgrade != "" {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", upgrade)
	}
	out := &http.Request{
		Method: r.r.Method, URL: u.locate(r.r.URL), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Host: r.r.Host, Body: onceBody(r.body), ContentLength: int64(len(r.body)),
	}
	if r.cfg.UpstreamHost {
		out.Host = ""
	}
	return out.WithContext(ctx)
}

// received commits what the upstream answered.
func (r *run) received(res *http.Response, began time.Time, stopRenewing func()) error {
	if res.StatusCode == http.StatusSwitchingProtocols && !sameProtocol(upgradeType(r.r.Header), upgradeType(res.Header)) {
		return r.failed(errUnasked)
	}
	if r.route.frees(res) || res.StatusCode == http.StatusLoopDetected && beenHere(res.Header, r.pseudonym()) {
		r.exchange.upstream = time.Since(began)
		return r.letPass(res, stopRenewing)
	}
	if res.StatusCode == http.StatusSwitchingProtocols || isEventStream(res.Header) || res.ContentLength > r.route.MaxResponse {
		r.exchange.upstream = time.Since(began)
		return r.passOn(res, nil, stopRenewing)
	}
	body, err := r.readAnswer(r.exchange, res.Body, r.route.MaxResponse)
	r.exchange.upstream = time.Since(began)
	switch {
	case err != nil:
		return r.failed(fmt.Errorf("read the upstream's answer: %w", err))
	case int64(len(body)) > r.route.MaxResponse:
		return r.passOn(res, body, stopRenewing)
	}
	removeHopByHop(res.Header)
	o, err := r.settle(&fsm.Command{Kind: fsm.Kind_COMPLETE, Response: fsm.NewResponse(res.StatusCode, r.route.keep(res.Header), body)})
	if err != nil {
		return err
	}
	r.exchange.outcome = first
	r.mark(o)
	r.answer(res, body)
	return nil
}

// frees reports whether the upstream said that it did nothing, so that the key
// is free again.
func (rt *route) frees(res *http.Response) bool {
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if res.Header.Get("Retry-After") != "" {
			return true
		}
	}
	return slices.Contains(rt.NotRecorded, res.StatusCode)
}

// letPass frees the key, for the upstream said that it did nothing, and lets its
// answer flow to the client.
func (r *run) letPass(res *http.Response, stopRenewing func()) error {
	if _, err := r.settle(&fsm.Command{Kind: fsm.Kind_RELEASE}); err != nil {
		return err
	}
	stopRenewing()
	r.exchange.outcome = released
	r.sendHeader(res, res.ContentLength)
	r.flow(res.Body, r.route.Timeout)
	return nil
}

// mark puts on the answer what a recorded one has.
func (r *run) mark(o *fsm.Outcome) {
	h := r.w.Header()
	h.Set(wire.KeyHeader, r.echo)
	wire.MarkRecorded(h, o)
}

// answer sends the upstream's answer, whose body was read whole.
func (r *run) answer(res *http.Response, body []byte) {
	r.sendHeader(res, int64(len(body)))
	// A client that has gone is not told.
	_, _ = r.w.Write(body)
}

// sendHeader sends the header of the upstream's answer. What the gateway has
// set already stands. size is the body's, -1 if it is not known.
func (r *run) sendHeader(res *http.Response, size int64) {
	removeHopByHop(res.Header)
	h := r.w.Header()
	for name, values := range res.Header {
		switch name {
		case "Content-Length", http.CanonicalHeaderKey(wire.TTLHeader), wire.ReplayedHeader:
			continue // these are for the gateway to say
		}
		if _, ours := h[name]; !ours {
			h[name] = values
		}
	}
	if size >= 0 && wire.BodyAllowed(res.StatusCode) {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	r.w.WriteHeader(res.StatusCode)
}

// failed deals with a request that got no whole answer.
func (r *run) failed(err error) error {
	if cause := context.Cause(r.context); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if errors.Is(err, errUnreachable) {
		r.log.Warn("upstream cannot be reached", "route", r.name(), "err", err)
		return r.giveBack(wire.UpstreamUnreachable)
	}
	r.log.Warn("outcome is unknown: the upstream gave no whole answer", "route", r.name(), "namespace", r.key.Namespace, "key", hashKey(r.key), "err", err)
	if _, err := r.settle(&fsm.Command{Kind: fsm.Kind_FAIL}); err != nil {
		return err
	}
	return r.unknown("the upstream gave no whole answer: whether it did the work is not known")
}

// giveBack frees the key, under which nothing was sent, and answers with p.
func (r *run) giveBack(p *wire.Problem) error {
	if _, err := r.settle(&fsm.Command{Kind: fsm.Kind_RELEASE}); err != nil {
		return err
	}
	r.exchange.outcome = released
	return p
}

// unknown is the answer to the first client whose outcome is not known.
func (r *run) unknown(detail string) *wire.Problem {
	p := r.named(wire.OutcomeUnknown.With(detail))
	p.Status = http.StatusGatewayTimeout
	if r.route.onLapse == fsm.OnLapse_RETRY {
		p.Detail += "; sent again, the request may run again"
		p.Retryable = true
	} else {
		p.Detail += "; sent again, the request does not run again until an operator resolves the key, or its record ends"
	}
	return p
}

const (
	// settleFor is how long an outcome that could not be committed in time is
	// tried on, for the retries to come.
	settleFor = 5 * time.Minute
	// settlePause is between two tries, each of which takes its own time.
	settlePause = time.Second
	// settleGrace keeps a stop short: without an outcome the claim lapses.
	settleGrace = time.Second
)

// settle commits the end of the claim. If that does not succeed in time the
// error says so to the client, who must never see as stored what is not; the
// gateway goes on trying, for the retries to come.
func (r *run) settle(c *fsm.Command) (*fsm.Outcome, error) {
	c.Namespace, c.Key, c.Fence = r.key.Namespace, r.key.Key, r.claim.Fence
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.r.Context()))
	defer cancel()
	defer context.AfterFunc(r.Gateway.context, func() { time.AfterFunc(r.settleGrace, cancel) })()
	o, err := r.cluster.Propose(ctx, c)
	switch {
	case errors.Is(err, cluster.ErrUnavailable):
		g, route, key := r.Gateway, r.name(), r.key // and nothing of the request
		g.goes(func() { g.settleLater(route, key, c) })
		return nil, r.unknown("the outcome is not certain to have been committed")
	case err != nil:
		r.log.Error("an outcome could not be committed: the key stays unknown", "route", r.name(), "namespace", r.key.Namespace, "key", hashKey(r.key), "err", err)
		return nil, r.unknown("the outcome could not be committed")
	case o.Code != fsm.Code_OK:
		return nil, r.unknown("the claim no longer stands: another attempt has taken over, or an operator has settled the key")
	}
	return o, nil
}

func (g *Gateway) settleLater(route string, key fsm.Key, c *fsm.Command) {
	ctx, cancel := context.WithTimeout(g.context, settleFor)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := g.cluster.Propose(ctx, c); !errors.Is(err, cluster.ErrUnavailable) {
			return
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
		}
	}
	g.log.Warn("an outcome could not be committed: the key stays unknown", "route", route, "namespace", key.Namespace, "key", hashKey(key))
}

// keepRenewed renews the lease while the upstream works, until stop is called.
func (r *run) keepRenewed() (stop func()) {
	ctx, cancel := context.WithCancel(r.context)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(r.route.Lease / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			o, err := r.cluster.Propose(ctx, &fsm.Command{
				Kind: fsm.Kind_RENEW, Namespace: r.key.Namespace, Key: r.key.Key,
				Fence: r.claim.Fence, Lease: r.route.Lease.Milliseconds(),
			})
			if err == nil && o.Code != fsm.Code_OK {
				return // it lapsed; what the upstream answers may still count
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// passOn commits that the request has run and that its answer is not kept, and
// then lets the answer flow to the first client. read is what was read of it.
func (r *run) passOn(res *http.Response, read []byte, stopRenewing func()) error {
	protocol := upgradeType(res.Header)
	removeHopByHop(res.Header)
	o, err := r.settle(&fsm.Command{Kind: fsm.Kind_COMPLETE, Response: fsm.NewDroppedResponse(res.StatusCode, r.route.keep(res.Header))})
	if err != nil {
		return err
	}
	stopRenewing()
	r.clock.Stop()
	r.exchange.outcome = notKept
	r.mark(o)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return r.tunnel(res, protocol)
	}
	// This is the only time that the answer is given, so what limits it is that
	// the upstream goes on, and not how long the client takes for all of it. A
	// stream of events lasts as long as its client.
	patience := r.route.Timeout
	if isEventStream(res.Header) {
		patience = 0
	}
	r.sendHeader(res, res.ContentLength)
	taken := len(read) == 0 || r.flow(bytes.NewReader(read), patience)
	r.body, read = nil, nil
	r.letGo(r.exchange)
	if taken {
		taken = r.flow(res.Body, patience)
	}
	if !taken && patience > 0 {
		// The client has gone, and the upstream may still be at work.
		r.clock.Reset(patience)
		_, _ = io.Copy(io.Discard, res.Body)
	}
	return nil
}

// flow copies body to the client as it comes, each piece of which may take as
// long as patience, or for ever if that is 0, and reports whether the client
// took all of it. An answer that breaks off breaks off for the client too.
func (r *run) flow(body io.Reader, patience time.Duration) bool {
	control := http.NewResponseController(r.w)
	b := make([]byte, piece)
	for {
		if patience > 0 {
			r.clock.Reset(patience)
		}
		n, err := body.Read(b)
		r.clock.Stop()
		if n > 0 {
			if _, err := r.w.Write(b[:n]); err != nil {
				return false
			}
			if err := control.Flush(); err != nil {
				return false
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return true
		case err != nil:
			panic(http.ErrAbortHandler)
		}
	}
}

func isEventStream(h http.Header) bool {
	media, _ := mediaType(h)
	name, _, _ := strings.Cut(media, ";")
	return name == "text/event-stream"
}
