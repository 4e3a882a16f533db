package client

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// errNotAnswered is what a handler gets that writes when its answer is no
// longer taken.
var errNotAnswered = errors.New("the answer of this request is no longer taken")

// stage is how far an answer has come.
type stage int

const (
	captured stage = iota // it is held back until the handler returns
	flowing               // it is recorded without its body, and flows to the client
	lost                  // it could not be recorded: the client gets another
	expired               // the time limit passed before the handler returned
	sealed                // the handler has returned
)

// capture is the http.ResponseWriter of a handler that runs under a claim. It
// is no http.Flusher, Hijacker or io.ReaderFrom, and does not unwrap to the
// real writer: nothing may reach the client before the outcome is recorded.
type capture struct {
	// Set before the handler runs, never changed after.
	w         http.ResponseWriter
	limit     int
	writeBody bool
	// drop records that a response of the status is not kept. mu is held.
	drop func(status int) (ttl string, err error)
	// mark adds the headers of an answer that is recorded.
	mark func(h http.Header, ttl string)

	header http.Header // the handler's, as http.ResponseWriter has it

	// mu guards the fields below: a handler may write from many goroutines.
	mu       sync.Mutex
	stage    stage
	status   int         // 0 until the handler gives one
	sent     http.Header // header as it was then
	declared int         // Content-Length, or -1
	written  int
	body     []byte
	stream   bool
}

// Header returns the headers of the answer.
func (c *capture) Header() http.Header { return c.header }

// WriteHeader takes the status, and the headers as they are now. Interim
// answers (1xx) are dropped.
func (c *capture) WriteHeader(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeHeader(status)
}

func (c *capture) writeHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status)) // as net/http does
	}
	if c.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	c.status, c.sent, c.declared = status, c.header.Clone(), -1
	c.writeBody = status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
	if n, err := strconv.ParseInt(c.sent.Get("Content-Length"), 10, 0); err == nil && n >= 0 && c.writeBody {
		c.declared = int(n)
	}
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer"} {
		c.sent.Del(name)
	}
	maps.DeleteFunc(c.sent, func(name string, _ []string) bool { return strings.HasPrefix(name, http.TrailerPrefix) })
	media, _, _ := strings.Cut(c.sent.Get("Content-Type"), ";")
	c.stream = strings.EqualFold(strings.TrimSpace(media), "text/event-stream")
	if c.stage == captured && (c.stream || c.declared > c.limit || !c.recordable()) {
		c.flow()
	}
}

// Write adds to the body.
func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == 0 {
		c.writeHeader(http.StatusOK)
	}
	switch {
	case !c.writeBody && len(p) > 0:
		return 0, http.ErrBodyNotAllowed
	case c.declared >= 0 && c.written+len(p) > c.declared:
		return 0, http.ErrContentLength
	}
	if c.stage == captured && len(c.body)+len(p) > c.limit {
		c.sniff(slices.Concat(c.body, p))
		c.flow()
	}
	switch c.stage {
	case captured:
		c.body = append(c.body, p...)
	case flowing:
		c.pass(p)
	case lost, expired, sealed:
		return 0, errNotAnswered
	}
	c.written += len(p)
	return len(p), nil
}

// sniff gives the answer the Content-Type that net/http would find, so that a
// replay has the same. A nil value keeps it from looking.
func (c *capture) sniff(body []byte) {
	if _, set := c.sent["Content-Type"]; !set && c.sent.Get("Content-Encoding") == "" && len(body) > 0 {
		c.sent.Set("Content-Type", http.DetectContentType(body))
	}
}

// flow records that the response is not kept; only then it goes to the client,
// with what was held back.
func (c *capture) flow() {
	ttl, err := c.drop(c.status)
	if err != nil {
		c.stage, c.body = lost, nil
		return
	}
	c.stage = flowing
	c.sendHeader(ttl, c.declared)
	c.pass(c.body)
	c.body = nil
}

// pass sends a part of the body on. That the client has gone does not stop the
// handler: its work goes on as if it were heard.
func (c *capture) pass(p []byte) {
	if len(p) > 0 {
		_, _ = c.w.Write(p)
	}
	if c.stream {
		_ = http.NewResponseController(c.w).Flush()
	}
}

// sendHeader makes the handler's headers those of the real answer. length is
// that of the body, or -1.
func (c *capture) sendHeader(ttl string, length int) {
	h := c.w.Header()
	clear(h)
	maps.Copy(h, c.sent)
	c.mark(h, ttl)
	if length >= 0 {
		h.Set("Content-Length", strconv.Itoa(length))
	}
	c.w.WriteHeader(c.status)
}

// send sends the answer that was held back. ttl is empty if it is not recorded.
func (c *capture) send(ttl string) {
	length := -1
	if c.writeBody {
		length = len(c.body)
	}
	c.sendHeader(ttl, length)
	if length > 0 {
		// A client that has gone is not told.
		_, _ = c.w.Write(c.body)
	}
}

// expire takes the answer from the handler, whose time is over, and reports
// whether the client still needs one.
func (c *capture) expire() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stage != captured && c.stage != lost {
		return false
	}
	c.stage, c.body = expired, nil
	return true
}

// seal ends the answer of a handler that has returned. The stage is what it was
// before. whole is false if there is less of the body than was declared.
func (c *capture) seal() (before stage, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == 0 {
		c.writeHeader(http.StatusOK)
	}
	if c.stage == captured {
		c.sniff(c.body)
	}
	before = c.stage
	if c.stage != expired {
		c.stage = sealed
	}
	return before, c.declared < 0 || c.written == c.declared
}

// keptHeaders are the headers of a response that the cluster keeps.
var keptHeaders = []string{
	"Content-Type", "Content-Encoding", "Content-Language", "Location", "Content-Location", "Etag", "Last-Modified",
	"Link", "Cache-Control", "Vary", "Retry-After",
}

// maxKeptHeaders bounds the kept headers in bytes.
const maxKeptHeaders = 64 << 10

// recordable reports whether the Key API can carry status and kept headers as
// they are.
func (c *capture) recordable() bool {
	if c.status < 200 || c.status > 599 {
		return false
	}
	size := 0
	for name, values := range c.kept() {
		for _, value := range values {
			size += len(name) + len(value)
			if !utf8.ValidString(value) || !httpguts.ValidHeaderFieldValue(value) {
				return false
			}
		}
	}
	return size <= maxKeptHeaders
}

// kept returns the kept headers with values as net/http writes them.
func (c *capture) kept() http.Header {
	h := http.Header{}
	for _, name := range keptHeaders {
		for _, value := range c.sent[name] {
			h.Add(name, strings.Trim(newlines.Replace(value), " \t"))
		}
	}
	return h
}

var newlines = strings.NewReplacer("\n", " ", "\r", " ")

// response returns what is recorded.
func (c *capture) response() *Response {
	return &Response{Status: c.status, Header: c.kept(), Body: c.body}
}

// declined reports whether the handler says that it did nothing, and when to
// come again.
func (c *capture) declined() bool {
	return slices.Contains([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, c.status) && c.sent.Get("Retry-After") != ""
}
