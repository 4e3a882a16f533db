// Package wire is what every HTTP surface of onced has in common: how a key is
// written in a header, the problems that errors are, which headers of a response
// are kept, and how a recorded one is answered with.
package wire

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/cluster"
)

// Problem is an error answer (RFC 9457). Its type is urn:onced:<Slug>.
type Problem struct {
	Slug   string
	Title  string
	Status int
	// Detail says what is wrong and how to mend it. It holds nothing of what
	// is stored, and no key.
	Detail string
	// Retryable: the same request may be sent again as it is.
	Retryable bool
	// RetryAfter, in whole seconds, is sent as the header where it is not 0.
	RetryAfter int64
	// Members are the further members, in this order.
	Members []Member
}

// Member is one further member of a problem.
type Member struct {
	Name  string
	Value jsontext.Value
}

// Error returns slug and detail.
func (p *Problem) Error() string { return p.Slug + ": " + p.Detail }

// Is reports whether target is a problem of the same type.
func (p *Problem) Is(target error) bool {
	other, ok := target.(*Problem)
	return ok && other.Slug == p.Slug
}

// With returns p with another detail.
func (p *Problem) With(detail string) *Problem {
	q := *p
	q.Detail = detail
	return &q
}

// The problems of the service. Handlers give most of them a detail of their own.
var (
	InProgress = &Problem{Slug: "in-progress", Title: "A request is outstanding for this Idempotency-Key", Status: http.StatusConflict, Retryable: true, RetryAfter: 1,
		Detail: "another attempt holds the key: retry later, or send Prefer: wait=N"}
	KeyReused = &Problem{Slug: "key-reused", Title: "Idempotency-Key is already used", Status: http.StatusUnprocessableEntity,
		Detail: "another request was sent under this key: use a new key for a new request"}
	KeyMissing = &Problem{Slug: "key-missing", Title: "Idempotency-Key is missing", Status: http.StatusBadRequest,
		Detail: "send the header Idempotency-Key"}
	KeyInvalid = &Problem{Slug: "key-invalid", Title: "Idempotency-Key is malformed", Status: http.StatusBadRequest,
		Detail: "use 1 to 255 bytes of visible ASCII"}
	NamespaceRequired = &Problem{Slug: "namespace-required", Title: "The request names no tenant", Status: http.StatusBadRequest,
		Detail: "send the credential or header that says whose key this is"}
	OutcomeUnknown = &Problem{Slug: "outcome-unknown", Title: "The outcome of the request is unknown", Status: http.StatusConflict,
		Detail: "the request began and no response was recorded: it does not run again until an operator resolves the key, or its record ends"}
	ResponseNotKept = &Problem{Slug: "response-not-kept", Title: "The response was not kept", Status: http.StatusGone,
		Detail: "the request ran once; its response was too large to keep, or a stream"}
	StaleFence = &Problem{Slug: "stale-fence", Title: "The fence is stale", Status: http.StatusConflict,
		Detail: "the claim with this fence no longer stands: nothing was changed"}
	Unavailable = &Problem{Slug: "unavailable", Title: "The cluster is not available", Status: http.StatusServiceUnavailable, Retryable: true, RetryAfter: 1,
		Detail: "there was no certain answer from a majority of the nodes in time: repeat the request with the same key or fence"}
	NotFound = &Problem{Slug: "not-found", Title: "Not found", Status: http.StatusNotFound,
		Detail: "there is nothing under this path"}
	KeyUnknown = &Problem{Slug: "key-unknown", Title: "The key is unknown", Status: http.StatusNotFound,
		Detail: "there is no record of this key"}
	MethodNotAllowed = &Problem{Slug: "method-not-allowed", Title: "Method not allowed", Status: http.StatusMethodNotAllowed,
		Detail: "use a method of the header Allow"}
	UnsupportedMediaType = &Problem{Slug: "unsupported-media-type", Title: "Unsupported media type", Status: http.StatusUnsupportedMediaType,
		Detail: "send the body as application/json, in UTF-8"}
	BadRequest = &Problem{Slug: "bad-request", Title: "Bad request", Status: http.StatusBadRequest,
		Detail: "the request is malformed"}
	Overloaded = &Problem{Slug: "overloaded", Title: "Too many requests in hand", Status: http.StatusServiceUnavailable, Retryable: true, RetryAfter: 1,
		Detail: "this node has as many requests in hand as it may: nothing was claimed, retry later"}
	QuotaExceeded = &Problem{Slug: "quota-exceeded", Title: "The quota is used up", Status: http.StatusInsufficientStorage,
		Detail: "nothing was claimed"}
	TooLarge = &Problem{Slug: "too-large", Title: "The request is too large", Status: http.StatusRequestEntityTooLarge,
		Detail: "the body is over the limit: nothing was claimed"}
	UpstreamUnreachable = &Problem{Slug: "upstream-unreachable", Title: "The upstream cannot be reached", Status: http.StatusBadGateway, Retryable: true,
		Detail: "no connection to the upstream could be made: nothing was sent to it, and the key is free again"}
	UpstreamFailed = &Problem{Slug: "upstream-failed", Title: "The upstream gave no answer", Status: http.StatusBadGateway,
		Detail: "the request was passed on and got no answer: whether it was acted on is not known"}
	LoopDetected = &Problem{Slug: "loop-detected", Title: "The request came back", Status: http.StatusLoopDetected,
		Detail: "the upstream sends requests to the gateway they came through: name the service itself as the upstream"}
	Unauthenticated = &Problem{Slug: "unauthenticated", Title: "Not authenticated", Status: http.StatusUnauthorized,
		Detail: "send a valid token as Authorization: Bearer"}
	Forbidden = &Problem{Slug: "forbidden", Title: "Not allowed", Status: http.StatusForbidden,
		Detail: "the caller may not do this"}
	Conflict = &Problem{Slug: "conflict", Title: "The cluster does not allow it now", Status: http.StatusConflict}
	Internal = &Problem{Slug: "internal", Title: "Internal error", Status: http.StatusInternalServerError,
		Detail: "the node failed: its log says why. Repeat the request with the same key or fence", Retryable: true}
)

// ProblemOf maps an error to its answer. What it does not know is internal.
func ProblemOf(err error) *Problem {
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, cluster.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	case errors.Is(err, cluster.ErrUnknownNode):
		return NotFound.With("no node of the cluster has this id")
	case errors.Is(err, cluster.ErrInvalidNode):
		return BadRequest.With(err.Error())
	case errors.Is(err, cluster.ErrConflict):
		return Conflict.With(err.Error())
	}
	return Internal
}

// Write sends p as the answer. Headers that are set already, it keeps.
func (p *Problem) Write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(p.RetryAfter, 10))
	}
	body := p.append(nil)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	// A client that has gone is not told.
	_, _ = w.Write(body)
}

func (p *Problem) append(b []byte) []byte {
	b = append(b, `{"type":"urn:onced:`...)
	b = append(b, p.Slug...)
	b = append(b, `","title":`...)
	b = AppendString(b, p.Title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(b, `,"detail":`...)
	b = AppendString(b, p.Detail)
	b = append(b, `,"retryable":`...)
	b = strconv.AppendBool(b, p.Retryable)
	for _, m := range p.Members {
		b = append(b, ',')
		b = AppendString(b, m.Name)
		b = append(b, ':')
		b = append(b, m.Value...)
	}
	return append(b, '}')
}

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD.
func AppendString[S ~string | ~[]byte](b []byte, s S) []byte {
	// The error only tells of such bytes; they were replaced.
	b, _ = jsontext.AppendQuote(b, s)
	return b
}
