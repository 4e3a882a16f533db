package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	typePrefix  = "urn:onced:"
	problemType = "application/problem+json"
)

// Error is an error answer of the cluster (RFC 9457), or says that no node gave
// an answer. errors.Is compares it with the Err… values of this package, by
// Type.
type Error struct {
	// Type is "urn:onced:" and the slug; "about:blank" for an answer that
	// gives no type. Where no node answered, and for a status of 429 or 5xx
	// that came without a problem, it is that of ErrUnavailable.
	Type   string
	Title  string
	Status int // 0 if no node answered
	Detail string
	// Retryable: the same call may be made again as it is.
	Retryable bool
	// RetryAfter is how long to wait before; 0 if the answer does not say.
	RetryAfter time.Duration
	// ResourceID is set with ErrDuplicateResource.
	ResourceID string
	// OriginalStatus and, where known, OriginalDigest are set with
	// ErrResponseNotKept.
	OriginalStatus int
	OriginalDigest string
	// Ambiguous: the call, or an earlier try of it, may have had its effect.
	// The same call may be made again: a claim with the same AttemptID, any
	// other with the same fence.
	Ambiguous bool

	causes []error // of an answer that did not come
}

// Slug names a type of problem. It is an error only so that errors.Is can
// compare with it.
type Slug string

// Error returns the slug.
func (s Slug) Error() string { return string(s) }

// What an *Error can be, for errors.Is.
const (
	// ErrInProgress: another attempt holds the key, or the record is claimed.
	ErrInProgress Slug = "in-progress"
	// ErrKeyReused: the key was claimed with another fingerprint.
	ErrKeyReused Slug = "key-reused"
	// ErrKeyMissing: a key is required.
	ErrKeyMissing Slug = "key-missing"
	// ErrKeyInvalid: a key is 1 to 255 bytes of visible ASCII.
	ErrKeyInvalid Slug = "key-invalid"
	// ErrNamespaceRequired: it cannot be said whose the key is.
	ErrNamespaceRequired Slug = "namespace-required"
	// ErrOutcomeUnknown: a claim ended without a response, and its policy is
	// that nobody runs again until it is resolved.
	ErrOutcomeUnknown Slug = "outcome-unknown"
	// ErrResponseNotKept: it ran once; there is nothing to replay.
	ErrResponseNotKept Slug = "response-not-kept"
	// ErrStaleFence: the claim no longer stands; nothing was changed.
	ErrStaleFence Slug = "stale-fence"
	// ErrDuplicateResource: another key made a resource with the same unique field.
	ErrDuplicateResource Slug = "duplicate-resource"
	// ErrUnavailable: no majority, or no node at all, gave a certain answer in
	// time. A claim was not run; of any other call, see Ambiguous.
	ErrUnavailable Slug = "unavailable"
	// ErrOverloaded: the nodes have too much in hand; nothing was done.
	ErrOverloaded Slug = "overloaded"
	// ErrKeyUnknown: there is no record of the key.
	ErrKeyUnknown Slug = "key-unknown"
	// ErrNotFound: the node has no such route.
	ErrNotFound Slug = "not-found"
	// ErrBadRequest: an argument was refused; Detail says which.
	ErrBadRequest Slug = "bad-request"
	// ErrTooLarge: the response is over what the cluster takes.
	ErrTooLarge Slug = "too-large"
	// ErrQuotaExceeded: nothing was claimed.
	ErrQuotaExceeded Slug = "quota-exceeded"
	// ErrUnauthenticated: the token is missing or not valid.
	ErrUnauthenticated Slug = "unauthenticated"
	// ErrForbidden: the caller may not do this.
	ErrForbidden Slug = "forbidden"
	// ErrConflict: the cluster does not allow it now.
	ErrConflict Slug = "conflict"
	// ErrInternal: a node failed.
	ErrInternal Slug = "internal"
)

// Error returns what went wrong, without key, body or token.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	name := strings.TrimPrefix(e.Type, typePrefix)
	if e.Status != 0 {
		return fmt.Sprintf("%s: %s (%d)", name, text, e.Status)
	}
	return name + ": " + text
}

// Is reports whether target is the Err… value of e's type.
func (e *Error) Is(target error) bool {
	s, ok := target.(Slug)
	return ok && e.Slug() == s
}

// Slug returns the slug of e's type, or "" if it is not of onced.
func (e *Error) Slug() Slug {
	slug, ok := strings.CutPrefix(e.Type, typePrefix)
	if !ok {
		return ""
	}
	return Slug(slug)
}

// Unwrap returns what kept an answer from coming: the error of the last try,
// and that of the context if it ended.
func (e *Error) Unwrap() []error { return e.causes }

func newError(slug Slug, detail string) *Error {
	return &Error{Type: typePrefix + string(slug), Detail: detail}
}

// unanswered returns the error of a try that brought no answer to rely on.
func unanswered(what string, cause error, ambiguous bool) *Error {
	e := newError(ErrUnavailable, what)
	if cause != nil {
		e.Detail += ": " + cause.Error()
		e.causes = []error{cause}
	}
	e.Title, e.Retryable, e.Ambiguous = "The cluster is not available", true, ambiguous
	return e
}

// elsewhere reports whether another node, or the same one later, may have
// another answer. A key in flight stays in flight, however often one asks.
func (e *Error) elsewhere() bool { return e.Retryable && !e.Is(ErrInProgress) }

// problemBody is a problem as it is sent.
type problemBody struct {
	Type           string `json:"type"`
	Title          string `json:"title"`
	Status         int    `json:"status"`
	Detail         string `json:"detail"`
	Retryable      bool   `json:"retryable"`
	ResourceID     string `json:"resource_id,omitempty"`
	OriginalStatus int    `json:"original_status,omitempty"`
	OriginalDigest string `json:"original_digest,omitempty"`
}

// maxProblem is how many bytes of an error answer are read.
const maxProblem = 64 << 10

// parseProblem returns the error that an answer other than 2xx is. body may be
// anything at all.
func parseProblem(status int, h http.Header, body []byte, now time.Time) *Error {
	e := &Error{Status: status, RetryAfter: parseRetryAfter(h.Get("Retry-After"), now)}
	var p problemBody
	if json.Unmarshal(body, &p) == nil && strings.HasPrefix(p.Type, typePrefix) {
		e.Type, e.Title, e.Detail, e.Retryable = p.Type, p.Title, p.Detail, p.Retryable
		e.ResourceID, e.OriginalStatus, e.OriginalDigest = p.ResourceID, p.OriginalStatus, p.OriginalDigest
		// An overloaded node has shed the request before it did anything. One
		// without a majority may have brought it into the log.
		e.Ambiguous = e.Is(ErrUnavailable) || e.Is(ErrInternal)
		return e
	}
	e.Type, e.Title = "about:blank", http.StatusText(status)
	e.Detail = "the answer is no problem of onced"
	if status == http.StatusTooManyRequests || status >= http.StatusInternalServerError {
		e.Type, e.Retryable = typePrefix+string(ErrUnavailable), true
		e.Ambiguous = status != http.StatusTooManyRequests
	}
	return e
}

// maxRetryAfter is the longest Retry-After that is believed.
const maxRetryAfter = time.Hour

// parseRetryAfter returns the wait that a Retry-After header asks for, in
// seconds or as a date (RFC 9110, 10.2.3); 0 if it is absent or malformed.
func parseRetryAfter(s string, now time.Time) time.Duration {
	s = strings.Trim(s, " \t")
	if s == "" {
		return 0
	}
	if strings.Trim(s, "0123456789") == "" {
		return min(parseSeconds(s), maxRetryAfter)
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}
