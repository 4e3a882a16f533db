package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

type claimKey struct{}

// ClaimFromContext returns the claim under which a handler behind Middleware
// runs. There is none for a request that passed through.
func ClaimFromContext(ctx context.Context) (Claim, bool) {
	c, ok := ctx.Value(claimKey{}).(Claim)
	return c, ok
}

// run is one run of the handler, under a claim.
type run struct {
	m      *middleware
	k      *keyed
	fence  uint64
	answer *capture
	ctx    context.Context // the handler's: it ends at the time limit
	end    context.CancelFunc
	stop   chan struct{} // closed to end keep
	kept   chan struct{} // closed when keep has ended
}

// run runs the handler and records its outcome; only then the client is
// answered. The handler has this goroutine, and keep another that ends before
// run does.
func (m *middleware) run(k *keyed, claim *Claim) {
	ctx, cancel := context.WithTimeout(context.WithValue(k.ctx, claimKey{}, *claim), m.cfg.TimeLimit)
	r := &run{m: m, k: k, fence: claim.Fence, ctx: ctx, end: cancel, stop: make(chan struct{}), kept: make(chan struct{})}
	r.answer = &capture{w: k.w, header: k.w.Header().Clone(), limit: m.cfg.MaxResponse, drop: r.drop, mark: k.mark, declared: -1}
	go r.keep()
	returned := false
	// Deferred, so that it comes about also where the handler ends the
	// goroutine.
	defer func() { r.finish(returned, recover()) }()
	m.next.ServeHTTP(r.answer, k.request(ctx))
	returned = true
}

// keep renews the lease until the run is over or out of time.
func (r *run) keep() {
	defer close(r.kept)
	ctx, cancel := context.WithCancel(r.k.ctx)
	defer cancel()
	renewal := time.NewTicker(r.m.cfg.Lease / 3)
	defer renewal.Stop()
	limit := time.NewTimer(r.m.cfg.TimeLimit)
	defer limit.Stop()
	var pending chan error // nil unless a renewal is under way
	defer func() {
		if pending != nil {
			cancel()
			<-pending
		}
	}()
	for {
		select {
		case <-r.stop:
			return
		case <-limit.C:
			r.overrun()
			return
		case err := <-pending:
			pending = nil
			if errors.Is(err, ErrStaleFence) {
				// It lapsed; what the handler does may still be recorded, if
				// no one else was let in.
				renewal.Stop()
			}
		case <-renewal.C:
			if pending == nil {
				pending = make(chan error, 1)
				go func(done chan<- error) { done <- r.renew(ctx) }(pending)
			}
		}
	}
}

func (r *run) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.m.cfg.Lease)
	defer cancel()
	_, err := r.m.c.Renew(ctx, r.k.key, r.fence, r.m.cfg.Lease)
	return err
}

// overrun answers for a handler whose time is over, while it may still run.
func (r *run) overrun() {
	expired := r.answer.expire()
	r.end()
	if !expired {
		return
	}
	r.fail(fmt.Errorf("the handler ran for more than %v", r.m.cfg.TimeLimit))
	// The connection is this request's until the handler returns.
	r.k.w.Header().Set("Connection", "close")
	unknownNow().write(r.k.w)
	_ = http.NewResponseController(r.k.w).Flush()
}

// finish records the outcome of a handler that has returned, or did not return
// normally, and answers the client.
func (r *run) finish(returned bool, cause any) {
	defer r.end()
	if cause != nil && cause != http.ErrAbortHandler {
		r.m.cfg.Log.Error("handler panicked", "method", r.k.r.Method, "panic", cause, slog.String("stack", string(debug.Stack())))
	}
	before, whole := r.answer.seal()
	// What a handler answers because its time is over is no outcome: most
	// often it is nothing at all, which stands for 200.
	broke := !returned || !whole || r.ctx.Err() != nil
	var ttl string
	err := errNotAnswered
	if before == captured {
		ttl, err = r.commit(broke)
	}
	close(r.stop)
	<-r.kept
	switch {
	case before == expired: // keep has answered
	case before == flowing && broke:
		// Only breaking off tells the client.
		panic(http.ErrAbortHandler)
	case before == flowing:
	case err != nil:
		unknownNow().write(r.k.w)
	default:
		r.answer.send(ttl)
	}
}

// commit records the outcome of the run, whatever it is. ttl is how long it is
// kept, or empty if the claim was released.
func (r *run) commit(broke bool) (ttl string, err error) {
	switch {
	case broke:
		err := errors.New("the handler broke off")
		r.fail(err)
		return "", err
	case r.answer.declined():
		if err := r.m.c.Release(r.k.ctx, r.k.key, r.fence); err != nil {
			r.m.log(r.k, "claim could not be released", err)
			return "", err
		}
		return "", nil
	}
	record, err := r.m.c.Complete(r.k.ctx, r.k.key, r.fence, r.answer.response())
	if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrBadRequest) {
		// Nothing was recorded. That it ran must be.
		r.m.log(r.k, "response is recorded without its body", err)
		return r.drop(r.answer.status)
	}
	return r.recorded(record, err)
}

// drop records that there was a response of the status, and that it is not
// kept.
func (r *run) drop(status int) (ttl string, err error) {
	record, err := r.m.c.Complete(r.k.ctx, r.k.key, r.fence, notKept(status))
	return r.recorded(record, err)
}

func (r *run) recorded(record *Record, err error) (ttl string, _ error) {
	if err != nil {
		r.m.log(r.k, "outcome could not be recorded", err)
		return "", err
	}
	return seconds(record.ExpiresAt.Sub(record.CompletedAt)), nil
}

// fail records that the outcome is not known. If even that fails, the lease
// ends and says the same.
func (r *run) fail(cause error) {
	if _, err := r.m.c.Fail(r.k.ctx, r.k.key, r.fence); err != nil {
		cause = errors.Join(cause, err)
	}
	r.m.log(r.k, "outcome is unknown", cause)
}
