package api

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

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
			return &problemConn{tcp, sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		// Whoever does not get to read this sees a closed connection.
		_, _ = tcp.Write(ProblemOverloaded.With("this node has as many connections as it may: nothing was claimed, retry later").wire())
		_ = tcp.Close()
	}
}

// problemConn keeps all of a TCP connection: net/http closes the writing half
// of it alone where the rest of a request is still under way.
type problemConn struct {
	*net.TCPConn
	closed func()
}

// Close makes room for another connection.
func (c *problemConn) Close() error {
	defer c.closed()
	return c.TCPConn.Close()
}

// Write sends b, or the problem that it is in plain text. net/http writes each
// of its own answers at once.
func (c *problemConn) Write(b []byte) (int, error) {
	p := problemOfPlain(b)
	if p == nil {
		return c.TCPConn.Write(b)
	}
	if _, err := c.TCPConn.Write(p.wire()); err != nil {
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
		return ProblemBadRequest.With("the header Expect asks for what is not known here: leave it out")
	}
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	if !bytes.HasPrefix(b, []byte(version)) || !bytes.HasPrefix(rest, []byte(plainHead[2:])) {
		return nil
	}
	switch string(line[len(version) : len(version)+len(status)]) {
	case "431":
		return ProblemTooLarge.With(fmt.Sprintf("the headers are over the limit of %d bytes: nothing was claimed", maxHeader))
	case "501":
		return ProblemBadRequest.With("the only transfer encoding that is known here is chunked")
	case "505":
		return ProblemBadRequest.With("the version of HTTP is not known here: use HTTP/1.1")
	}
	return ProblemBadRequest.With("the request line or a header is malformed: nothing was claimed")
}

// wire returns p as the last answer of a connection.
func (p *Problem) wire() []byte {
	body := p.append(nil)
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\nConnection: close\r\n",
		p.Status, http.StatusText(p.Status), len(body))
	if p.RetryAfter > 0 {
		b = fmt.Appendf(b, "Retry-After: %d\r\n", p.RetryAfter)
	}
	return append(append(b, "\r\n"...), body...)
}
