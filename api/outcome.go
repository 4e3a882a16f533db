package api

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/fsm"
)

const ttlHeader = "Idempotency-TTL"

// begin runs a claim or a create. With Prefer: wait it waits for one in
// flight, unless too many do.
func (s *server) begin(x *exchange, c *fsm.Command) (*fsm.Outcome, error) {
	wait := preferredWait(x.r.Header, s.cfg.MaxWait)
	if wait > 0 {
		defer s.waiters.Add(-1)
		if s.waiters.Add(1) > int64(s.cfg.MaxWaiters) {
			wait = 0
		}
	}
	o, err := s.cluster.Begin(x.r.Context(), c, wait)
	s.met.claimed(c.Surface, o, err, x.hungUp())
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if wait > 0 {
		x.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
	}
	return o, nil
}

// problemOfOutcome returns what an outcome says that is no success.
func problemOfOutcome(o *fsm.Outcome) error {
	switch o.Code {
	case fsm.Code_IN_FLIGHT:
		p := *ProblemInProgress
		p.RetryAfter = max(1, (o.Record.GetLeaseExpiresAt()-o.Time+999)/1000)
		return &p
	case fsm.Code_KEY_REUSED:
		return ProblemKeyReused
	case fsm.Code_OUTCOME_UNKNOWN:
		return ProblemOutcomeUnknown
	case fsm.Code_STALE_FENCE:
		return ProblemStaleFence
	case fsm.Code_NOT_FOUND:
		return ProblemKeyUnknown
	case fsm.Code_TOO_LATE, fsm.Code_NOT_BOUND:
		return ProblemUnavailable
	case fsm.Code_REFUSED:
		return ProblemBadRequest.With(o.Reason)
	}
	return fmt.Errorf("outcome %v has no answer", o.Code)
}

// sendRecorded answers with the response of o's record. key is the header that
// names it.
func (x *exchange) sendRecorded(key string, o *fsm.Outcome) error {
	response := o.Record.GetResponse()
	if response.GetBodyDropped() {
		return notKept(response)
	}
	body, err := response.Plain()
	if err != nil {
		return fmt.Errorf("read recorded response: %w", err)
	}
	h := x.Header()
	for _, kept := range response.GetHeaders() {
		h.Add(kept.Name, kept.Value)
	}
	h.Set(KeyHeader, key)
	x.markReplay(o)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.WriteHeader(int(response.GetStatus()))
	// A client that has gone is not told.
	_, _ = x.Write(body)
	return nil
}

// markReplay says how long the record of o is kept, and whether it is what an
// earlier request left.
func (x *exchange) markReplay(o *fsm.Outcome) {
	left := max(0, o.Record.GetExpiresAt()-o.Time) / 1000
	// Spelt on the wire as it is documented, not as Set would.
	x.Header()[ttlHeader] = []string{strconv.FormatInt(left, 10)}
	if o.Code == fsm.Code_REPLAY {
		x.Header().Set("Idempotent-Replayed", "true")
	}
}

func notKept(r *fsm.Response) error {
	p := *ProblemResponseNotKept
	p.Members = []Member{{"original_status", jsontext.Value(strconv.Itoa(int(r.Status)))}}
	if len(r.Digest) > 0 {
		p.Members = append(p.Members, Member{"original_digest", jsontext.Value(`"` + hex.EncodeToString(r.Digest) + `"`)})
	}
	return &p
}

// sendRecord answers with a record as the Key API shows it.
func (x *exchange) sendRecord(r *fsm.Record) error {
	body, err := appendRecord(nil, x.namespace, x.key, r)
	if err != nil {
		return fmt.Errorf("show record: %w", err)
	}
	return x.sendJSON(http.StatusOK, body)
}
