package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/onced/onced/wire"
)

const (
	// bodyTimeout bounds the time in which a body that is held whole arrives.
	bodyTimeout = 30 * time.Second
	// firstRead is the buffer that a body begins with. It grows with what comes:
	// a length that is only announced takes up nothing.
	firstRead = 16 << 10
)

// hold reads the whole body of the request, which may have up to limit bytes,
// into memory that counts as buffered until letGo. A body that cannot be read
// whole, or would not fit, gets no further than this: nothing was claimed.
func (g *Gateway) hold(x *exchange, limit int64) error {
	if x.r.ContentLength > limit {
		return tooLarge(x.w, limit)
	}
	control := http.NewResponseController(x.w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return fmt.Errorf("bound the time to read the body: %w", err)
	}
	body, err := g.readAll(x, limit)
	if err != nil {
		return err
	}
	x.body = body
	// From here on a read only watches for the client to go.
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("lift the time limit: %w", err)
	}
	return nil
}

func (g *Gateway) readAll(x *exchange, limit int64) ([]byte, error) {
	if x.r.ContentLength == 0 {
		return nil, nil
	}
	// One byte more than the body, for the read that finds its end.
	most := limit + 1
	if x.r.ContentLength > 0 {
		most = x.r.ContentLength + 1
	}
	size := min(firstRead, most)
	if !g.reserve(x, size) {
		return nil, tooMuchHeld
	}
	b := make([]byte, 0, size)
	for {
		n, err := x.r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return nil, tooLarge(x.w, limit)
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			x.w.Header().Set("Connection", "close")
			return nil, wire.BadRequest.With("the body broke off, is malformed or took too long: nothing was claimed")
		case len(b) == cap(b):
			more := min(int64(cap(b)), most-int64(cap(b)))
			if !g.reserve(x, more) {
				return nil, tooMuchHeld
			}
			b = append(make([]byte, 0, int64(cap(b))+more), b...)
		}
	}
}

var tooMuchHeld = wire.Overloaded.With("this node holds as many bytes of requests and answers as it may: nothing was claimed, retry later")

// reserve counts size more bytes as buffered, or reports that they are too many.
func (g *Gateway) reserve(x *exchange, size int64) bool {
	if g.buffered.Add(size) > g.cfg.MaxBuffered {
		g.buffered.Add(-size)
		return false
	}
	x.reserved += size
	return true
}

// readAnswer reads what the upstream answers, and at most a byte more than
// limit of it. It counts as buffered, so that while much is held new requests
// are shed; it is never refused itself, for the work behind it is done.
func (g *Gateway) readAnswer(x *exchange, body io.Reader, limit int64) ([]byte, error) {
	counted := countedReader{io.LimitReader(body, limit+1), func(n int64) {
		g.buffered.Add(n)
		x.reserved += n
	}}
	return io.ReadAll(counted)
}

// countedReader tells how much is read from it.
type countedReader struct {
	io.Reader
	count func(int64)
}

// Read implements io.Reader.
func (r countedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.count(int64(n))
	return n, err
}

// letGo ends the holding of bodies.
func (g *Gateway) letGo(x *exchange) {
	g.buffered.Add(-x.reserved)
	x.reserved = 0
}

// tooLarge closes the connection too: the rest of the body is not read.
func tooLarge(w http.ResponseWriter, limit int64) error {
	w.Header().Set("Connection", "close")
	return wire.TooLarge.With(fmt.Sprintf("the body is over the limit of %d bytes: nothing was claimed", limit))
}
