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
	// firstRead is the buffer that a body of unknown length begins with.
	firstRead = 4 << 10
)

// hold reads the whole body of the request, which may have up to limit bytes,
// into memory that counts as buffered until x.letGo. A body that cannot be read
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
	size := x.r.ContentLength
	if size == 0 {
		return nil, nil
	}
	if size < 0 {
		size = min(firstRead, limit)
	}
	// One byte more than the body, for the read that finds its end.
	if !g.reserve(x, size+1) {
		return nil, wire.Overloaded.With("this node holds as many bytes of requests as it may: nothing was claimed, retry later")
	}
	b := make([]byte, 0, size+1)
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
			more := min(int64(cap(b)), limit+1-int64(cap(b)))
			if !g.reserve(x, more) {
				return nil, wire.Overloaded.With("this node holds as many bytes of requests as it may: nothing was claimed, retry later")
			}
			b = append(make([]byte, 0, int64(cap(b))+more), b...)
		}
	}
}

// reserve counts size more bytes as buffered, or reports that they are too many.
func (g *Gateway) reserve(x *exchange, size int64) bool {
	if g.buffered.Add(size) > g.cfg.MaxBuffered {
		g.buffered.Add(-size)
		return false
	}
	x.reserved += size
	return true
}

// letGo ends the holding of a body.
func (g *Gateway) letGo(x *exchange) {
	g.buffered.Add(-x.reserved)
	x.reserved = 0
}

// tooLarge closes the connection too: the rest of the body is not read.
func tooLarge(w http.ResponseWriter, limit int64) error {
	w.Header().Set("Connection", "close")
	return wire.TooLarge.With(fmt.Sprintf("the body is over the limit of %d bytes: nothing was claimed", limit))
}
