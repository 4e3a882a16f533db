package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// The problems that a middleware answers with, as a gateway does.
var problems = map[Slug]Error{
	ErrKeyMissing: {Title: "Idempotency-Key is missing", Status: http.StatusBadRequest},
	ErrKeyInvalid: {Title: "Idempotency-Key is malformed", Status: http.StatusBadRequest},
	ErrNamespaceRequired: {Title: "The request names no tenant", Status: http.StatusBadRequest,
		Detail: "send the credential that says whose this key is: a cookie alone does not"},
	ErrBadRequest: {Title: "Bad request", Status: http.StatusBadRequest,
		Detail: "the body broke off or is malformed: nothing was claimed"},
	ErrTooLarge: {Title: "The request is too large", Status: http.StatusRequestEntityTooLarge,
		Detail: "the body is over the limit: nothing was claimed"},
	ErrInProgress: {Title: "A request is outstanding for this Idempotency-Key", Status: http.StatusConflict, Retryable: true, RetryAfter: time.Second,
		Detail: "another attempt holds the key: retry later, or send Prefer: wait=N"},
	ErrKeyReused: {Title: "Idempotency-Key is already used", Status: http.StatusUnprocessableEntity,
		Detail: "another request was sent under this key: use a new key for a new request"},
	ErrOutcomeUnknown: {Title: "The outcome of the request is unknown", Status: http.StatusConflict,
		Detail: "the request began and no response was recorded: it does not run again until an operator resolves the key, or its record ends"},
	ErrResponseNotKept: {Title: "The response was not kept", Status: http.StatusGone,
		Detail: "the request ran once; its response was too large to keep, or a stream"},
	ErrUnavailable: {Title: "The cluster is not available", Status: http.StatusServiceUnavailable, Retryable: true, RetryAfter: time.Second,
		Detail: "the key could not be claimed in time: the request was not run, repeat it with the same key"},
	ErrOverloaded: {Title: "Too many requests in hand", Status: http.StatusServiceUnavailable, Retryable: true, RetryAfter: time.Second,
		Detail: "the key was not claimed: retry later"},
	ErrQuotaExceeded: {Title: "The quota is used up", Status: http.StatusInsufficientStorage,
		Detail: "nothing was claimed"},
	ErrInternal: {Title: "Internal error", Status: http.StatusInternalServerError, Retryable: true,
		Detail: "the key could not be claimed: the request was not run, the service's log says why"},
}

// problem returns the answer of a type.
func problem(slug Slug) *Error {
	e := problems[slug]
	e.Type = typePrefix + string(slug)
	return &e
}

// problemOf returns what a client of the service is told of err. Nothing of a
// node's own words is in it: they may name hosts.
func problemOf(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return problem(ErrInternal)
	}
	switch slug := e.Slug(); slug {
	case ErrInProgress, ErrUnavailable, ErrOverloaded:
		p := problem(slug)
		p.RetryAfter = max(p.RetryAfter, e.RetryAfter)
		return p
	case ErrKeyReused, ErrOutcomeUnknown, ErrQuotaExceeded:
		return problem(slug)
	}
	// The service's own mistake: its token, its settings.
	return problem(ErrInternal)
}

// unknownNow is the answer to a request that ran with an outcome that is not
// recorded.
func unknownNow() *Error {
	p := problem(ErrOutcomeUnknown)
	p.Status = http.StatusGatewayTimeout
	p.Detail = "the request began and its outcome is not recorded: it may have had its effect"
	return p
}

// encode returns e as a problem.
func (e *Error) encode() []byte {
	// Strings and numbers can always be encoded.
	b, _ := encodeJSON(problemBody{e.Type, e.Title, e.Status, e.Detail, e.Retryable, e.ResourceID, e.OriginalStatus, e.OriginalDigest})
	return b
}

// write sends e as the answer.
func (e *Error) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", problemType)
	h.Set("X-Content-Type-Options", "nosniff")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	body := e.encode()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	// A client that has gone is not told.
	_, _ = w.Write(body)
}

// notKept returns what is recorded of a response of which nothing is kept but
// that it was given.
func notKept(status int) *Response {
	p := problem(ErrResponseNotKept)
	p.OriginalStatus = status
	return &Response{Status: p.Status, Header: http.Header{"Content-Type": {problemType}}, Body: p.encode()}
}

// asNotKept returns the problem that a recorded response stands for, or nil if
// it is one to replay.
func asNotKept(r *Response) *Error {
	p := problem(ErrResponseNotKept)
	if r.BodyDropped {
		p.OriginalStatus, p.OriginalDigest = r.Status, r.Digest
		return p
	}
	if r.Status != http.StatusGone || r.Header.Get("Content-Type") != problemType {
		return nil
	}
	var body problemBody
	if json.Unmarshal(r.Body, &body) != nil || body.Type != p.Type {
		return nil
	}
	p.OriginalStatus, p.OriginalDigest = body.OriginalStatus, body.OriginalDigest
	return p
}
