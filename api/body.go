package api

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/onced/onced/wire"
)

// maxPooled is the largest buffer that is kept for the next request.
const maxPooled = 64 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func release(b *bytes.Buffer) {
	if b.Cap() <= maxPooled {
		b.Reset()
		buffers.Put(b)
	}
}

// readBody reads the whole body of r, which may have up to limit bytes, into a
// buffer that the caller releases. No request with a body that is too large, or
// cannot be read whole, gets further than this.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) (*bytes.Buffer, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(w, limit)
	}
	b := buffers.Get().(*bytes.Buffer)
	if r.ContentLength > 0 {
		// One byte more than the body, for the read that finds its end.
		b.Grow(min(int(r.ContentLength)+bytes.MinRead, maxPooled))
	}
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		return b, nil
	}
	release(b)
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge(w, limit)
	}
	w.Header().Set("Connection", "close")
	return nil, wire.BadRequest.With("the body broke off or is malformed: nothing was claimed")
}

// tooLarge closes the connection too: the rest of the body is not read.
func tooLarge(w http.ResponseWriter, limit int64) error {
	w.Header().Set("Connection", "close")
	return wire.TooLarge.With(fmt.Sprintf("the body is over the limit of %d bytes: nothing was claimed", limit))
}

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
)

// checkMediaType accepts JSON in UTF-8, a body of no declared type and, where
// form is set, the type that curl -d declares.
func checkMediaType(h http.Header, form bool) error {
	if encoding := h["Content-Encoding"]; len(encoding) > 1 || len(encoding) == 1 && !strings.EqualFold(encoding[0], "identity") {
		return wire.UnsupportedMediaType.With("send the body without Content-Encoding")
	}
	lines := h["Content-Type"]
	switch {
	case len(lines) == 0, len(lines) == 1 && lines[0] == jsonType:
		return nil
	case len(lines) > 1:
		return wire.UnsupportedMediaType.With("Content-Type is sent more than once: send one")
	}
	name, parameters, err := mime.ParseMediaType(lines[0])
	if err != nil || name != jsonType && (!form || name != formType) {
		return wire.UnsupportedMediaType
	}
	for parameter, value := range parameters {
		if parameter != "charset" || !strings.EqualFold(value, "utf-8") {
			return wire.UnsupportedMediaType
		}
	}
	return nil
}
