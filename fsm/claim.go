package fsm

import "bytes"

// verdict is what a CLAIM or CREATE meets under its key.
type verdict int

const (
	free       verdict = iota // nothing: it may run
	reused                    // another request
	replayed                  // the response of this one
	granted                   // the grant that this very command was given
	repeated                  // the grant that the same attempt was given
	takeover                  // a claim that no longer stands, and may be taken
	unresolved                // one that nobody may take
	inFlight                  // a claim that stands
)

// contest decides what c meets in rec, which has not ended, at now. The order
// of its cases is the contract.
func contest(rec *Record, c *Command, now int64) verdict {
	sameRequest := rec != nil && bytes.Equal(rec.RequestId, c.RequestId)
	switch {
	case rec == nil:
		return free
	case rec.Surface != c.Surface || !bytes.Equal(rec.Fingerprint, c.Fingerprint):
		return reused
	case rec.State == State_COMPLETED:
		return replayed
	case rec.standing(now) && sameRequest:
		return granted
	case rec.standing(now) && c.AttemptId != "" && rec.AttemptId == c.AttemptId:
		return repeated
	case rec.standing(now):
		return inFlight
	case sameRequest && !rec.Failed && !rec.Answered:
		// Its own grant lapsed before the answer came through.
		return takeover
	case rec.OnLapse == OnLapse_RETRY:
		return takeover
	default:
		return unresolved
	}
}

func (t *transaction) claim(c *Command) (*Outcome, error) {
	s, err := t.slot(c)
	if err != nil {
		return nil, err
	}
	switch contest(s.rec, c, t.meta.Time) {
	case reused:
		return &Outcome{Code: Code_KEY_REUSED}, nil
	case replayed:
		return &Outcome{Code: Code_REPLAY, Record: s.rec}, fillBody(t.batch, c.Namespace, s.rec)
	case granted:
		return &Outcome{Code: Code_GRANTED, Record: s.rec}, nil
	case repeated:
		return t.repeat(s)
	case inFlight:
		return &Outcome{Code: Code_IN_FLIGHT, Record: s.rec}, nil
	case unresolved:
		return t.leaveUnknown(s)
	}
	s.rec = t.grant(c, s.rec)
	return &Outcome{Code: Code_GRANTED, Record: s.rec}, t.save(s)
}

// repeat gives the grant to another request of the attempt that holds it.
func (t *transaction) repeat(s slot) (*Outcome, error) {
	o := &Outcome{Code: Code_GRANTED, Record: s.rec, Repeated: true}
	if s.rec.Answered {
		return o, nil
	}
	s.rec.Answered = true
	return o, t.save(s)
}

// leaveUnknown answers that nobody may run, and records that a lease lapsed if
// this is the first to notice.
func (t *transaction) leaveUnknown(s slot) (*Outcome, error) {
	o := &Outcome{Code: Code_OUTCOME_UNKNOWN, Record: s.rec}
	if s.rec.State == State_UNKNOWN {
		return o, nil
	}
	s.rec.becomeUnknown(t.meta.Time)
	return o, t.save(s)
}

// grant returns the record of a claim given to c. old is the one that it takes
// over from, or nil.
func (t *transaction) grant(c *Command, old *Record) *Record {
	rec := &Record{
		State:          State_CLAIMED,
		Surface:        c.Surface,
		Fingerprint:    c.Fingerprint,
		Fence:          t.nextFence(),
		Attempt:        1,
		AttemptId:      c.AttemptId,
		RequestId:      c.RequestId,
		OnLapse:        c.OnLapse,
		Ttl:            c.Ttl,
		Lease:          c.Lease,
		CreatedAt:      t.meta.Time,
		LeaseExpiresAt: t.meta.Time + c.Lease,
	}
	if old != nil {
		rec.Attempt = old.Attempt + 1
		rec.CreatedAt = old.CreatedAt
	}
	return rec
}

// nextFence returns a fence higher than any before. At a million grants a
// second the last one below 2^53 is 285 years away.
func (t *transaction) nextFence() uint64 {
	t.meta.Fence++
	return t.meta.Fence
}
