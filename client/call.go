package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// Pauses between tries: random up to minPause, doubled for each, at most
	// maxPause.
	minPause, maxPause = 50 * time.Millisecond, 2 * time.Second
	// avoidFor is how long a node that could not be reached is asked last.
	avoidFor = 5 * time.Second
)

// request is one call of the Key API.
type request struct {
	method string
	path   string // escaped, without the node
	query  url.Values
	body   []byte        // JSON, or nil
	wait   time.Duration // for Prefer: wait, whole seconds
}

// answer is a node's answer of 2xx, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// errOversized is the cause of an answer over MaxAnswer.
var errOversized = errors.New("the answer is longer than the client reads")

// call sends q to one node after the other until one gives an answer that
// decode accepts, or an error that others would give too, or ctx ends. Sending
// again is safe: every call is idempotent by attempt id or fence, or only
// reads. The error is an *Error.
//
// No request has an Idempotency-Key header: net/http would by itself send such
// a one again.
func (c *Client) call(ctx context.Context, q *request, decode func(*answer) error) error {
	order := c.order()
	ready := make([]time.Time, len(order))
	var last *Error
	ambiguous, oversized := false, 0
	for tries := 0; ; tries++ {
		i := tries % len(order)
		if err := c.pause(ctx, tries, maxPause, ready[i]); err != nil {
			return gaveUp(ctx, last)
		}
		last = c.try(ctx, order[i], q, decode)
		if last == nil {
			return nil
		}
		ambiguous = ambiguous || last.Ambiguous
		last.Ambiguous = ambiguous
		if errors.Is(last, errOversized) {
			oversized++
		}
		if !last.elsewhere() || oversized == len(order) {
			return last
		}
		ready[i] = c.now().Add(last.RetryAfter)
	}
}

// gaveUp returns last with the error of ctx, if it ended. Without a try there
// is no last.
func gaveUp(ctx context.Context, last *Error) *Error {
	if last == nil {
		return unanswered("no node was asked", context.Cause(ctx), false)
	}
	if err := ctx.Err(); err != nil {
		last.causes = append(last.causes, err)
	}
	return last
}

// order returns the nodes in the order in which this call asks them: each call
// begins with another one, and those that could not be reached come last.
func (c *Client) order() []*node {
	now := c.now().UnixNano()
	begin := c.next.Add(1)
	good := make([]*node, 0, len(c.nodes))
	var avoided []*node
	for i := range c.nodes {
		n := c.nodes[(begin+uint64(i))%uint64(len(c.nodes))]
		if n.avoid.Load() > now {
			avoided = append(avoided, n)
		} else {
			good = append(good, n)
		}
	}
	return append(good, avoided...)
}

// pause waits before the next try: a random while, that may be longer with
// each try, and at least until ready. It fails at once if ctx ends before that.
func (c *Client) pause(ctx context.Context, tries int, limit time.Duration, ready time.Time) error {
	if tries == 0 {
		return ctx.Err()
	}
	now := c.now()
	d := time.Duration(c.jitter() * float64(min(limit, minPause<<min(tries-1, 10))))
	d = max(d, ready.Sub(now))
	if deadline, ok := ctx.Deadline(); ok && now.Add(d).After(deadline) {
		return context.DeadlineExceeded
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try asks one node once.
func (c *Client) try(ctx context.Context, n *node, q *request, decode func(*answer) error) *Error {
	within, cancel := context.WithTimeout(ctx, c.attemptTimeout+q.wait)
	defer cancel()
	a, failed := c.send(within, n, q)
	if failed == nil {
		n.avoid.Store(0)
		if err := decode(a); err != nil {
			failed = unanswered("the answer is malformed", err, true)
			failed.Status = a.status
		}
		return failed
	}
	// That the caller's time is over says nothing about the node.
	if failed.Status == 0 && ctx.Err() == nil {
		n.avoid.Store(c.now().Add(avoidFor).UnixNano())
	}
	return failed
}

func (c *Client) send(ctx context.Context, n *node, q *request) (*answer, *Error) {
	target := n.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, bytes.NewReader(q.body))
	if err != nil {
		e := newError(ErrBadRequest, "the request cannot be built: "+err.Error())
		e.causes = []error{err}
		return nil, e
	}
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if q.wait > 0 {
		req.Header.Set("Prefer", "wait="+strconv.Itoa(int(q.wait/time.Second)))
	}
	req.Header.Set("Accept", "application/json, "+problemType)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unsent(err)
	}
	defer resp.Body.Close()
	return c.read(resp)
}

// unsent returns the error of a request that got no answer. It leaves out
// method and URL, which has the key.
func unsent(err error) *Error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	dialled := !errors.As(err, &op) || op.Op != "dial"
	return unanswered("a node gave no answer", err, dialled)
}

// read reads an answer whole, so that its connection can be used again.
func (c *Client) read(resp *http.Response) (*answer, *Error) {
	ok := resp.StatusCode/100 == 2
	limit := c.maxAnswer
	if !ok {
		limit = maxProblem
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, unanswered("the answer broke off", err, true)
	case ok && int64(len(body)) > limit:
		e := unanswered("a node answered", errOversized, true)
		e.Status = resp.StatusCode
		return nil, e
	case !ok:
		return nil, parseProblem(resp.StatusCode, resp.Header, body, c.now())
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// wants returns an error unless a has the status.
func (a *answer) wants(status int) error {
	if a.status != status {
		return fmt.Errorf("its status is %d, not %d", a.status, status)
	}
	return nil
}
