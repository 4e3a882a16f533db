package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTimeout = 3 * time.Second
	// avoidFor is how long an upstream that could not be reached gets no
	// requests while another can.
	avoidFor = 2 * time.Second
	// maxTries bounds the upstreams that are tried for one request. Only one
	// to which nothing was sent is followed by another.
	maxTries     = 3
	healthEvery  = 2 * time.Second
	maxIdleConns = 256
)

// upstreams are the instances of the service behind the gateway.
type upstreams struct {
	all       []*upstream
	turn      atomic.Uint32
	transport *http.Transport
	now       func() time.Time
}

type upstream struct {
	url    *url.URL
	inHand atomic.Int64
	// avoidUntil is until when it is avoided, in nanoseconds since the epoch.
	avoidUntil atomic.Int64
	unhealthy  atomic.Bool // by the last health check
}

func newUpstreams(cfg Config) *upstreams {
	us := &upstreams{now: time.Now, transport: newTransport(cfg.IdleTimeout)}
	for _, u := range cfg.Upstreams {
		us.all = append(us.all, &upstream{url: u})
	}
	return us
}

func (us *upstreams) close() { us.transport.CloseIdleConnections() }

// newTransport speaks HTTP/1.1 only: over HTTP/2 net/http resends by rules of
// its own.
func newTransport(idle time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: c}, nil
		},
		TLSHandshakeTimeout:    dialTimeout,
		MaxIdleConns:           0, // the limit is each host's
		MaxIdleConnsPerHost:    maxIdleConns,
		IdleConnTimeout:        idle,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // bodies are passed on, and kept, as they were sent
		Protocols:              protocols,
	}
}

// countedConn knows how much was written to it, so that a request that failed
// can be proven unsent.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

// Write counts before it writes: what is not counted was not sent.
func (c *countedConn) Write(b []byte) (int, error) {
	c.written.Add(int64(len(b)))
	return c.Conn.Write(b)
}

// sending follows one request on its way out.
type sending struct {
	conn   *countedConn // the one it was given; nil before
	reused bool         // it had been used before
	begun  int64        // what had been written to it before
	sent   bool         // some of it left on an earlier connection
}

func (s *sending) gotConn(info httptrace.GotConnInfo) {
	s.settle()
	conn := info.Conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if c, ok := conn.(*countedConn); ok {
		s.conn, s.begun, s.reused = c, c.written.Load(), info.Reused
	} else {
		s.sent = true // it cannot be told
	}
}

func (s *sending) settle() {
	s.sent = s.sent || s.conn != nil && s.conn.written.Load() > s.begun
}

// maybeSent reports whether any of the request may have reached the upstream.
// It is asked after the round trip has failed. One that ended with its context
// may still be on its way out, if it had a connection.
func (s *sending) maybeSent(ctx context.Context) bool {
	s.settle()
	return s.sent || s.conn != nil && ctx.Err() != nil
}

// pick returns the upstream with the fewest requests in hand of those that are
// well, or of all if none is. tried are left out.
func (us *upstreams) pick(tried []*upstream) *upstream {
	now := us.now().UnixNano()
	var best *upstream
	start := int(us.turn.Add(1))
	for _, well := range []bool{true, false} {
		for i := range us.all {
			u := us.all[(start+i)%len(us.all)]
			if isIn(u, tried) || well && (u.unhealthy.Load() || u.avoidUntil.Load() > now) {
				continue
			}
			if best == nil || u.inHand.Load() < best.inHand.Load() {
				best = u
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

func isIn(u *upstream, tried []*upstream) bool {
	for _, t := range tried {
		if t == u {
			return true
		}
	}
	return false
}

// locate returns where on the upstream a request for target goes.
func (u *upstream) locate(target *url.URL) *url.URL {
	at := *target
	at.Scheme, at.Host, at.User = u.url.Scheme, u.url.Host, nil
	if base := strings.TrimSuffix(u.url.EscapedPath(), "/"); base != "" {
		at.Path = strings.TrimSuffix(u.url.Path, "/") + target.Path
		at.RawPath = base + target.EscapedPath()
	}
	return &at
}

// errUnreachable: nothing of the request was sent to any upstream.
var errUnreachable = errors.New("no upstream could be reached")

// errNoStatus: what the upstream said is no answer.
var errNoStatus = errors.New("the upstream answered with a status below 200")

// send sends a request to an upstream, once: another is tried only while
// nothing of it was sent. make returns the request for one of them, or nil if it
// cannot be made again. errUnreachable means that none was sent anything; after any other error it may have run.
// done is called when the response is no longer read.
func (us *upstreams) send(ctx context.Context, make func(context.Context, *upstream) *http.Request) (res *http.Response, done func(), err error) {
	var tried []*upstream
	var causes []error
	for range maxTries {
		u := us.pick(tried)
		if u == nil {
			break
		}
		s := new(sending)
		out := make(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: s.gotConn}), u)
		if out == nil {
			break
		}
		u.inHand.Add(1)
		res, err := us.transport.RoundTrip(out)
		if err == nil {
			body := res.Body // which the caller may wrap
			done := sync.OnceFunc(func() { body.Close(); u.inHand.Add(-1) })
			if res.StatusCode < http.StatusOK && res.StatusCode != http.StatusSwitchingProtocols {
				done()
				return nil, nil, errNoStatus
			}
			return res, done, nil
		}
		u.inHand.Add(-1)
		if s.maybeSent(ctx) {
			return nil, nil, err
		}
		causes = append(causes, err)
		if !s.reused { // else it had only closed a connection that idled
			tried = append(tried, u)
			u.avoidUntil.Store(us.now().Add(avoidFor).UnixNano())
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, errors.Join(append([]error{errUnreachable}, causes...)...)
}

// neverResent spells the headers that make net/http send a request again by
// itself, on a connection that broke, in a way that it does not look for. (Seen
// with go1.26: an upstream was hit twice by a POST with Idempotency-Key.) Header
// names have no case on the wire. A request with a body that GetBody does not
// repeat is not resent either, but for an empty one there is no such body.
func neverResent(h http.Header) {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if lines, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = lines
		}
	}
}

// onceBody is a body that nothing can rewind.
func onceBody(b []byte) io.ReadCloser {
	if len(b) == 0 {
		return http.NoBody
	}
	return io.NopCloser(&onceReader{b})
}

type onceReader struct{ b []byte }

func (r *onceReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// checkHealth asks every upstream how it is, until the gateway closes.
func (g *Gateway) checkHealth() {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		for _, u := range g.upstreams.all {
			well := g.isHealthy(u)
			if u.unhealthy.Swap(!well) == well {
				g.log.Info("health of upstream changed", "upstream", u.url.Redacted(), "healthy", well)
			}
		}
		select {
		case <-tick.C:
		case <-g.context.Done():
			return
		}
	}
}

func (g *Gateway) isHealthy(u *upstream) bool {
	ctx, cancel := context.WithTimeout(g.context, healthEvery)
	defer cancel()
	at := u.locate(&url.URL{Path: g.cfg.HealthPath})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return false
	}
	res, err := g.upstreams.transport.RoundTrip(r)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, err = io.CopyN(io.Discard, res.Body, 4<<10)
	return res.StatusCode < http.StatusInternalServerError && (err == nil || errors.Is(err, io.EOF))
}
