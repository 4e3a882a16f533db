package wire

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/fsm"
)

// Headers of answers, beside KeyHeader.
const (
	// TTLHeader says for how many seconds the record is still kept.
	TTLHeader = "Idempotency-TTL"
	// ReplayedHeader is "true" where the answer is what an earlier request left.
	ReplayedHeader = "Idempotent-Replayed"
)

// keptHeaders are the headers of a response that are recorded. All others are
// dropped: credentials, and what is true of one exchange only.
var keptHeaders = map[string]bool{
	"Content-Type": true, "Content-Encoding": true, "Content-Language": true,
	"Location": true, "Content-Location": true, "Etag": true, "Last-Modified": true,
	"Link": true, "Cache-Control": true, "Vary": true, "Retry-After": true,
}

// KeptHeader reports whether a response header is recorded. name is canonical.
func KeptHeader(name string) bool { return keptHeaders[name] }

// SendRecorded answers with the response of o's record; ResponseNotKept if that
// has no body to send. key is the header that names it.
func SendRecorded(w http.ResponseWriter, key string, o *fsm.Outcome) error {
	response := o.Record.GetResponse()
	if response.GetBodyDropped() {
		return notKept(response)
	}
	body, err := response.Plain()
	if err != nil {
		return fmt.Errorf("read recorded response: %w", err)
	}
	h := w.Header()
	for _, kept := range response.GetHeaders() {
		h.Add(kept.Name, kept.Value)
	}
	h.Set(KeyHeader, key)
	MarkRecorded(h, o)
	status := int(response.GetStatus())
	if BodyAllowed(status) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	// A client that has gone is not told.
	_, _ = w.Write(body)
	return nil
}

// BodyAllowed reports whether an answer of this status may have a body
// (RFC 9110, section 6.4.1).
func BodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// MarkRecorded says how long the record of o is kept, and whether it is what an
// earlier request left.
func MarkRecorded(h http.Header, o *fsm.Outcome) {
	left := max(0, o.Record.GetExpiresAt()-o.Time) / 1000
	// Spelt on the wire as it is documented, not as Set would.
	h[TTLHeader] = []string{strconv.FormatInt(left, 10)}
	if o.Code == fsm.Code_REPLAY {
		h.Set(ReplayedHeader, "true")
	}
}

func notKept(r *fsm.Response) error {
	p := *ResponseNotKept
	p.Members = []Member{{"original_status", jsontext.Value(strconv.Itoa(int(r.Status)))}}
	if len(r.Digest) > 0 {
		p.Members = append(p.Members, Member{"original_digest", jsontext.Value(`"` + hex.EncodeToString(r.Digest) + `"`)})
	}
	return &p
}

// ProblemOfOutcome returns what an outcome says that is no success.
func ProblemOfOutcome(o *fsm.Outcome) error {
	switch o.Code {
	case fsm.Code_IN_FLIGHT:
		p := *InProgress
		p.RetryAfter = max(1, (o.Record.GetLeaseExpiresAt()-o.Time+999)/1000)
		return &p
	case fsm.Code_KEY_REUSED:
		return KeyReused
	case fsm.Code_OUTCOME_UNKNOWN:
		return OutcomeUnknown
	case fsm.Code_STALE_FENCE:
		return StaleFence
	case fsm.Code_NOT_FOUND:
		return KeyUnknown
	case fsm.Code_TOO_LATE, fsm.Code_NOT_BOUND:
		return Unavailable
	case fsm.Code_REFUSED:
		return BadRequest.With(o.Reason)
	}
	return fmt.Errorf("outcome %v has no answer", o.Code)
}
