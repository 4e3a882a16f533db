// Package framing refuses HTTP/1.x requests whose extent two programs could
// see differently, before net/http reads them.
//
// A proxy and its upstream that disagree about where a request ends let a
// client smuggle a second request inside the first (RFC 9112 §11.2). net/http
// repairs some such requests in silence: it drops Content-Length beside
// Transfer-Encoding, folds equal Content-Length lines into one, joins continued
// header lines and takes a bare LF for a line end. What it repaired no handler
// can see, so the bytes are judged on their way in.
//
// # Who writes the refusal, and when
//
// A refusal must come after the answers to the requests before it, whole, and
// must not be taken for one of them. The wrapper therefore never lets one Read
// span two requests: a Read ends where a request ends, and the Read after it
// gives one byte only. While net/http answers a request it reads at most one
// byte ahead (to notice a client that hangs up), and takes it as the first of
// the next request. So a Read for more than that is a Read for the next head,
// made by the goroutine that has answered and flushed all that came before: no
// one else writes then, and a fault in a head is answered right there. Bytes
// written later are dropped.
//
// The alternative, to hand net/http a request of our own in place of the bad
// one and let a handler answer it, also keeps the order, but it withholds each
// head until it is complete: net/http could then no longer time slow heads, and
// a secret would have to be kept from clients.
//
// A fault in a body is found when the handler may be answering already. Nothing
// is written then: its reads fail with an error that wraps *[Fault], and the
// connection gives no further byte.
package framing

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bounds what a connection may cost. Zero values stand for the defaults.
type Limits struct {
	// Head is the most bytes of a request line with its header lines, up to and
	// with the empty line: 64 KiB by default. net/http's own limit
	// (MaxHeaderBytes) applies where it is lower.
	Head int
	// Handshake bounds a TLS handshake, which net/http leaves untimed where it
	// is given a wrapped connection: 10 s by default.
	Handshake time.Duration
	// Parting bounds the writing of a refusal, and the wait for the client to
	// read it and hang up: 1 s by default.
	Parting time.Duration
}

// partingBytes bounds what is read from a client after a refusal.
const partingBytes = 256 << 10

// NewListener returns a listener whose connections carry only requests that are
// framed in one way. Of a refused one the handler sees nothing; the client gets
// 400 as application/problem+json, and the connection ends.
//
// For TLS, inner is the listener of package tls (not the other way round), and
// its configuration must not offer HTTP/2.
func NewListener(inner net.Listener, limits Limits) net.Listener {
	if limits.Head <= 0 {
		limits.Head = 64 << 10
	}
	if limits.Handshake <= 0 {
		limits.Handshake = 10 * time.Second
	}
	if limits.Parting <= 0 {
		limits.Parting = time.Second
	}
	return &listener{Listener: inner, limits: limits}
}

type listener struct {
	net.Listener
	limits Limits
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, parting: l.limits.Parting, scan: newScanner(l.limits.Head)}
	if secure, ok := inner.(tlsState); ok {
		return &tlsConn{conn: c, tls: secure, timeout: l.limits.Handshake}, nil
	}
	return c, nil
}

// conn scans what is read from a connection.
type conn struct {
	net.Conn
	parting  time.Duration
	released atomic.Bool
	refused  atomic.Bool // the refusal was written, and nothing else may be

	// Used by Read alone; net/http has one Read at a time under way.

	scan scanner
	// between: a request ended, and no byte of the next was given out.
	between bool
	held    []byte // read, but not given out
	fault   *Fault
}

// Read gives out bytes of one request at most, and none from a fault on.
func (c *conn) Read(p []byte) (int, error) {
	if c.fault != nil && !c.released.Load() {
		return 0, c.fail()
	}
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.held)
	fresh := n == 0
	if fresh {
		var err error
		if n, err = c.Conn.Read(p); n <= 0 {
			return n, err
		}
		// A connection that failed says so again at the next Read.
	}
	out := n
	if !c.released.Load() {
		out = c.judge(p[:n])
	}
	if fresh {
		c.held = append([]byte(nil), p[out:n]...)
	} else if c.held = c.held[out:]; len(c.held) == 0 {
		c.held = nil
	}
	if out == 0 {
		return 0, c.fail()
	}
	return out, nil
}

// judge returns how many bytes of b may be given out now. It is none only where
// there is a fault.
func (c *conn) judge(b []byte) int {
	first := c.between
	if first {
		// Perhaps read ahead, while the request before is being answered. One
		// byte completes no head, so it is given out even if it is the fault.
		b = b[:1]
	}
	var n int
	n, c.between, c.fault = c.scan.scan(b)
	switch {
	case c.fault == nil:
		return n
	case first:
		return 1
	case c.scan.inHead():
		return 0
	}
	return n
}

// fail is the answer of every Read from a fault on. The first of them, where
// the fault is in a head, tells the client.
func (c *conn) fail() error {
	if c.scan.inHead() && c.refused.CompareAndSwap(false, true) {
		c.refuse()
	}
	local := c.LocalAddr()
	// net/http writes no answer of its own to a failed read of this type.
	return &net.OpError{Op: "read", Net: local.Network(), Source: local, Addr: c.RemoteAddr(), Err: c.fault}
}

// refuse answers and hangs up, and takes what the client is still sending: a
// connection closed with bytes unread is reset, which can destroy the answer on
// its way. A client that has gone is not told.
func (c *conn) refuse() {
	_ = c.SetDeadline(time.Now().Add(c.parting))
	if _, err := c.Conn.Write(c.fault.response()); err != nil {
		return
	}
	if c.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, partingBytes)
	}
}

// Write writes to the connection, unless it ended with a refusal.
func (c *conn) Write(p []byte) (int, error) {
	if c.refused.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// CloseWrite ends the sending side, where the connection can do so.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// NetConn returns the connection under the guard.
func (c *conn) NetConn() net.Conn { return c.Conn }

// unscanned lets all further bytes through, those that were held too.
func (c *conn) unscanned() { c.released.Store(true) }

// tlsState is what is used of a *tls.Conn.
type tlsState interface {
	Handshake() error
	ConnectionState() tls.ConnectionState
}

// tlsConn is a conn of which net/http learns that it is secure.
type tlsConn struct {
	*conn
	tls     tlsState
	timeout time.Duration
	once    sync.Once
}

// ConnectionState shakes hands, if that was not done yet, and returns what was
// agreed. net/http calls it once, on the connection's own goroutine, before it
// reads.
func (c *tlsConn) ConnectionState() tls.ConnectionState {
	c.once.Do(func() {
		_ = c.SetDeadline(time.Now().Add(c.timeout))
		// A handshake that failed is what every Read returns.
		_ = c.tls.Handshake()
		_ = c.SetDeadline(time.Time{})
	})
	return c.tls.ConnectionState()
}

type contextKey struct{}

// ConnContext is a [http.Server.ConnContext]: with it, [Release] finds the
// connection of a request.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// Release ends the scanning of the connection that carries the request with
// this context, for a handler that switches it to another protocol: all bytes
// after the request then pass as they are, those that have arrived already too.
// It is called before the connection is read as something else. It reports
// whether the connection is one of a listener of this package.
func Release(ctx context.Context) bool {
	c, ok := ctx.Value(contextKey{}).(interface{ unscanned() })
	if ok {
		c.unscanned()
	}
	return ok
}

// ConnState is a [http.Server.ConnState]: it does what [Release] does for every
// connection that a handler hijacks, and so serves handlers that do not know
// this package, such as httputil.ReverseProxy.
func ConnState(c net.Conn, s http.ConnState) {
	if g, ok := c.(interface{ unscanned() }); ok && s == http.StateHijacked {
		g.unscanned()
	}
}
