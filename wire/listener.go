package wire

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// MaxHeader is the longest head of a request, in bytes; net/http lets it be a
// little longer.
const MaxHeader = 16 << 10

// ProblemListener returns l with two differences to its connections.
//
// What net/http answers by itself, in plain text and before any handler, to a
// request that it cannot read, is a problem there as every other error is.
// Nothing else sees those requests, so it is done where the bytes go out. It
// knows plain HTTP over TCP only.
//
// At most limit are open at once. One more is told so and closed: idle clients
// must not use up the files that the store needs to go on.
func ProblemListener(l net.Listener, limit int) net.Listener {
	return &problemListener{Listener: l, limit: int64(limit)}
}

type problemListener struct {
	net.Listener
	limit int64
	open  atomic.Int64
}

// Accept waits for the next connection within the limit.
func (l *problemListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			return conn, nil
		}
		if l.open.Add(1) <= l.limit {
			return &problemConn{TCPConn: tcp, closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		// Whoever does not get to read this sees a closed connection.
		_, _ = tcp.Write(Overloaded.With("this node has as many connections as it may: nothing was claimed, retry later").whole())
		_ = tcp.Close()
	}
}

// problemConn keeps all of a TCP connection: net/http closes the writing half
// of it alone where the rest of a request is still under way.
//
// Only the beginning of an answer is looked at: what a body holds is sent as it
// is, whatever it looks like. An answer ends where the client's next bytes are
// read, and a connection that is taken over has none.
type problemConn struct {
	*net.TCPConn
	closed    func()
	answering atomic.Bool
	taken     atomic.Bool
}

// ConnState, as that of an http.Server on a ProblemListener, leaves connections
// alone that a handler takes over.
func ConnState(c net.Conn, state http.ConnState) {
	for state == http.StateHijacked {
		switch known := c.(type) {
		case *problemConn:
			known.taken.Store(true)
			return
		case interface{ NetConn() net.Conn }:
			c = known.NetConn()
		default:
			return
		}
	}
}

// Read reads from the client.
func (c *problemConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if n > 0 {
		c.answering.Store(false)
	}
	return n, err
}

// Close makes room for another connection.
func (c *problemConn) Close() error {
	defer c.closed()
	return c.TCPConn.Close()
}

// Write sends b, or the problem that it is in plain text. net/http writes each
// of its own answers at once.
func (c *problemConn) Write(b []byte) (int, error) {
	var p *Problem
	if !c.answering.Swap(true) && !c.taken.Load() {
		p = problemOfPlain(b)
	}
	if p == nil {
		return c.TCPConn.Write(b)
	}
	if _, err := c.TCPConn.Write(p.whole()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// What net/http's own answers look like. None of ours has such a head: those
// have a Date.
const (
	plainHead       = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	expectationHead = "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\n"
)

// problemOfPlain returns the problem that an answer of net/http's own tells of,
// or nil if b is none.
func problemOfPlain(b []byte) *Problem {
	const version, status = "HTTP/1.1 ", "431"
	if len(b) < len(version)+len(status) || b[len(version)] < '4' {
		return nil
	}
	if bytes.HasPrefix(b, []byte(expectationHead)) {
		return BadRequest.With("the header Expect asks for what is not known here: leave it out")
	}
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	if !bytes.HasPrefix(b, []byte(version)) || !bytes.HasPrefix(rest, []byte(plainHead[2:])) {
		return nil
	}
	switch string(line[len(version) : len(version)+len(status)]) {
	case "431":
		return TooLarge.With(fmt.Sprintf("the headers are over the limit of %d bytes: nothing was claimed", MaxHeader))
	case "501":
		return BadRequest.With("the only transfer encoding that is known here is chunked")
	case "505":
		return BadRequest.With("the version of HTTP is not known here: use HTTP/1.1")
	}
	return BadRequest.With("the request line or a header is malformed: nothing was claimed")
}

// whole returns p as the last answer of a connection.
func (p *Problem) whole() []byte {
	body := p.append(nil)
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\nConnection: close\r\n",
		p.Status, http.StatusText(p.Status), len(body))
	if p.RetryAfter > 0 {
		b = fmt.Appendf(b, "Retry-After: %d\r\n", p.RetryAfter)
	}
	return append(append(b, "\r\n"...), body...)
}
