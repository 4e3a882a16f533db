package fsm

import (
	"bytes"
	"slices"
)

// slot is the place of one record in a transaction. It remembers what is
// stored there, so that index and counters follow each write.
type slot struct {
	namespace, key string
	// rec is what stands there now; nil if nothing does, or if it has ended
	// and is only not swept yet.
	rec *Record
	// was and due are the state and the time in the due index of what is
	// stored, ended or not; ABSENT and 0 if nothing is.
	was State
	due int64
}

// slot reads the place of c's key. The key stays in t.record until the next
// call.
func (t *transaction) slot(c *Command) (slot, error) {
	t.record = appendName(t.record[:0], tableRecord, c.Namespace, c.Key)
	s := slot{namespace: c.Namespace, key: c.Key}
	rec, err := readRecord(t.batch, t.record)
	if err != nil || rec == nil {
		return s, err
	}
	s.was, s.due = rec.State, rec.dueAt()
	if !rec.ended(t.meta.Time) {
		s.rec = rec
	}
	return s, nil
}

// save writes s.rec to its place.
func (t *transaction) save(s slot) error {
	value, err := appendValue(t.value[:0], t.record, s.rec)
	if err != nil {
		return err
	}
	t.value = value
	if err := t.batch.Set(t.record, value); err != nil {
		return err
	}
	return t.index(s, s.rec.State, s.rec.dueAt())
}

// remove clears the place.
func (t *transaction) remove(s slot) error {
	if err := t.batch.Delete(t.record); err != nil {
		return err
	}
	return t.index(s, State_ABSENT, 0)
}

// index moves counters and due index from what was in s to what is there now.
func (t *transaction) index(s slot, is State, due int64) error {
	t.count(s.was, -1)
	t.count(is, +1)
	if s.was == State_CLAIMED && is != State_CLAIMED || is == State_ABSENT {
		t.changed = append(t.changed, Key{s.namespace, s.key})
	}
	if s.due == due {
		return nil
	}
	if s.was != State_ABSENT {
		if err := t.undue(s.due, t.record); err != nil {
			return err
		}
	}
	if is == State_ABSENT {
		return nil
	}
	return t.setDue(due, t.record)
}

func (t *transaction) count(s State, by int64) {
	switch s {
	case State_CLAIMED:
		t.meta.Claimed += by
	case State_COMPLETED:
		t.meta.Completed += by
	case State_UNKNOWN:
		t.meta.Unknown += by
	}
}

func (t *transaction) setDue(at int64, target []byte) error {
	t.due = appendDueKey(t.due[:0], at, target)
	if t.sweptTo != nil && bytes.Compare(t.due, *t.sweptTo) < 0 {
		t.sweptTo = new(bytes.Clone(t.due))
	}
	return t.batch.Set(t.due, nil)
}

func (t *transaction) undue(at int64, target []byte) error {
	t.due = appendDueKey(t.due[:0], at, target)
	return t.batch.Delete(t.due)
}

// getter is what a Store and a Batch have in common.
type getter interface {
	Get(key []byte) ([]byte, error)
}

// readRecord returns the record stored under key, or nil.
func readRecord(from getter, key []byte) (*Record, error) {
	value, err := from.Get(key)
	if err != nil || value == nil {
		return nil, err
	}
	return openRecord(key, value)
}

func openRecord(key, value []byte) (*Record, error) {
	rec := new(Record)
	if err := openValue(key, value, rec); err != nil {
		return nil, err
	}
	if rec.State <= State_ABSENT || rec.State > State_UNKNOWN {
		return nil, corrupt(key, "a record is in no state")
	}
	return rec, nil
}

// fillBody gives rec, of namespace, the body of its resource.
func fillBody(from getter, namespace string, rec *Record) error {
	if rec == nil || rec.ResourceId == "" {
		return nil
	}
	key := appendName(nil, tableResource, namespace, rec.ResourceId)
	resource, err := readResource(from, key)
	if err != nil {
		return err
	}
	if resource == nil || rec.Response == nil {
		return corrupt(key, "a record has lost its resource")
	}
	rec.Response.Body, rec.Response.Encoding, rec.Response.Size = resource.Body, resource.Encoding, resource.Size
	return nil
}

func readResource(from getter, key []byte) (*Resource, error) {
	value, err := from.Get(key)
	if err != nil || value == nil {
		return nil, err
	}
	resource := new(Resource)
	return resource, openValue(key, value, resource)
}

// dueAt is when expiry has to look at the record.
func (x *Record) dueAt() int64 {
	if x.State == State_CLAIMED {
		return x.LeaseExpiresAt
	}
	return x.ExpiresAt
}

// ended reports whether the record is gone at now, swept or not.
func (x *Record) ended(now int64) bool { return x.State != State_CLAIMED && x.ExpiresAt <= now }

// lapsed reports whether the claim's lease is over at now, noticed or not.
func (x *Record) lapsed(now int64) bool { return x.State == State_CLAIMED && x.LeaseExpiresAt <= now }

// standing reports whether the record is claimed, with the lease running.
func (x *Record) standing(now int64) bool { return x.State == State_CLAIMED && x.LeaseExpiresAt > now }

// becomeUnknown is what a lapse does, or the owner's word that it failed.
func (x *Record) becomeUnknown(now int64) {
	x.State = State_UNKNOWN
	x.LeaseExpiresAt = 0
	x.ExpiresAt = now + x.Ttl
}

// becomeCompleted records the response, whether or not the lease has lapsed.
func (x *Record) becomeCompleted(now int64, response *Response) {
	x.State = State_COMPLETED
	x.Failed, x.Answered = false, false
	x.LeaseExpiresAt = 0
	x.CompletedAt = now
	x.ExpiresAt = now + x.Ttl
	x.Response = response
}

// asOf returns x as it is at now: nil if it has ended, unknown if it lapsed,
// whether or not an entry has noticed. It may change x.
func (x *Record) asOf(now int64) *Record {
	if x == nil || x.ended(now) {
		return nil
	}
	if x.lapsed(now) {
		x.becomeUnknown(now)
	}
	return x
}

// same reports whether two responses are the same to a client.
func (x *Response) same(y *Response) bool {
	return x.GetStatus() == y.GetStatus() && x.GetBodyDropped() == y.GetBodyDropped() && slices.Equal(x.GetDigest(), y.GetDigest())
}
