package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/onced/onced/wire"
)

// passThrough hands the request on as a plain reverse proxy: bodies stream both
// ways, and nothing is recorded.
func (g *Gateway) passThrough(x *exchange) error {
	x.outcome = passed
	r := x.r
	if x.body != nil { // it was held to look for a key
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = onceBody(x.body), int64(len(x.body))
	}
	g.pass.ServeHTTP(x.w, r)
	return nil
}

func (g *Gateway) newPass() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			// The query is passed on as it came, semicolons and all, and so are
			// these, which were taken out for those who do not trust them.
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if lines, ok := p.In.Header[name]; ok {
					p.Out.Header[name] = slices.Clone(lines)
				}
			}
			announce(p.Out.Header, p.In, g.pseudonym())
			p.Out.URL.Host = p.In.Host // replaced in passing; a round trip needs one
			p.Out.Host = p.In.Host
		},
		Transport:     passing{g.upstreams, g.cfg.UpstreamHost},
		FlushInterval: -1,
		BufferPool:    &copyBuffers,
		ErrorLog:      slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		ErrorHandler:  g.passFailed,
	}
}

// passFailed answers a request that was passed on and got no answer.
func (g *Gateway) passFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		g.log.Warn("upstream gave no answer to a request passed through", "method", r.Method, "err", err)
	}
	if errors.Is(err, errUnreachable) {
		wire.UpstreamUnreachable.Write(w)
		return
	}
	wire.UpstreamFailed.Write(w)
}

// passing is the round trip of requests that are passed through.
type passing struct {
	*upstreams
	upstreamHost bool
}

// RoundTrip sends the request to an upstream. Another is tried only while
// neither the request was sent nor its body touched.
func (p passing) RoundTrip(in *http.Request) (*http.Response, error) {
	body := &touchedBody{ReadCloser: in.Body}
	res, done, err := p.send(in.Context(), func(ctx context.Context, u *upstream) *http.Request {
		if body.touched.Load() {
			return nil
		}
		out := in.Clone(ctx)
		out.URL = u.locate(in.URL)
		if p.upstreamHost {
			out.Host = ""
		}
		if in.Body != nil && in.Body != http.NoBody {
			out.Body = io.NopCloser(body)
		}
		if !isSafe(in.Method) {
			out.GetBody = nil
			neverResent(out.Header)
		}
		return out
	})
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = &endedBody{res.Body, done}
		return res, nil
	}
	back, ok := res.Body.(io.ReadWriteCloser) // the connection
	if !ok || !sameProtocol(upgradeType(in.Header), upgradeType(res.Header)) {
		done()
		return nil, errUnasked
	}
	res.Body = &endedConn{back, done}
	return res, nil
}

var errUnasked = errors.New("the upstream switched to a protocol that nobody asked for")

// isSafe: such a request may be sent again (RFC 9110, section 9.2.1).
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// touchedBody is a request's body that knows whether any of it was read. The
// server that it is from closes it.
type touchedBody struct {
	io.ReadCloser
	touched atomic.Bool
}

// Read implements io.Reader.
func (b *touchedBody) Read(p []byte) (int, error) {
	b.touched.Store(true)
	return b.ReadCloser.Read(p)
}

// endedBody is a response's body whose end is told.
type endedBody struct {
	io.ReadCloser
	done func()
}

// Close implements io.Closer.
func (b *endedBody) Close() error {
	b.done()
	return nil
}

// endedConn is a connection that was switched to another protocol, whose end is
// told.
type endedConn struct {
	io.ReadWriteCloser
	done func()
}

// CloseWrite ends the sending side.
func (c *endedConn) CloseWrite() error {
	if half, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// Close implements io.Closer.
func (c *endedConn) Close() error {
	c.done()
	return nil
}

// copyBuffers are those of bodies on their way.
var copyBuffers = bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}

type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte { return *p.pool.Get().(*[]byte) }

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }

// tunnel joins the client's connection and the upstream's after a 101, until
// one of them ends.
func (r *run) tunnel(res *http.Response, protocol string) error {
	back, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("the upstream's connection cannot be written to")
	}
	h := r.w.Header()
	for name, values := range res.Header {
		h[name] = values
	}
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", protocol)
	conn, buffered, err := http.NewResponseController(r.w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	defer conn.Close()
	r.w.status = res.StatusCode
	defer context.AfterFunc(r.context, func() { conn.Close() })()
	if err := writeSwitch(buffered.Writer, res.StatusCode, h); err != nil {
		return nil // the client has gone
	}
	join(conn, buffered.Reader, back)
	return nil
}

func writeSwitch(w *bufio.Writer, status int, h http.Header) error {
	if _, err := fmt.Fprintf(w, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status)); err != nil {
		return err
	}
	if err := h.Write(w); err != nil {
		return err
	}
	if _, err := w.WriteString("\r\n"); err != nil {
		return err
	}
	return w.Flush()
}

// join copies both ways until one side ends, and waits for both.
func join(client net.Conn, fromClient io.Reader, back io.ReadWriteCloser) {
	var both sync.WaitGroup
	end := func() { client.Close(); back.Close() }
	both.Go(func() {
		defer end()
		_, _ = io.Copy(back, fromClient)
	})
	both.Go(func() {
		defer end()
		_, _ = io.Copy(client, back)
	})
	both.Wait()
}

// sameProtocol reports whether a 101 switches to what was asked for.
func sameProtocol(asked, got string) bool { return asked != "" && strings.EqualFold(asked, got) }
