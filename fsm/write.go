package fsm

import (
	"crypto/sha256"
)

// doneTTL is how long the outcome of a command that removed a record is
// remembered, and that it did, in cluster time: no copy of a command may be
// applied that long after it was sent (see Command.NotAfter).
const doneTTL = 5 * 60 * 1000

// current returns the place of c's key, and whether a record stands there of
// which c has the current fence.
func (t *transaction) current(c *Command) (slot, bool, error) {
	s, err := t.slot(c)
	return s, err == nil && s.rec != nil && s.rec.Fence == c.Fence, err
}

// renew lengthens a lease that still stands; it never shortens it.
func (t *transaction) renew(c *Command) (*Outcome, error) {
	s, ok, err := t.current(c)
	if err != nil {
		return nil, err
	}
	if !ok || !s.rec.standing(t.meta.Time) {
		return stale(), nil
	}
	o := &Outcome{Code: Code_OK, Record: s.rec}
	until := t.meta.Time + c.Lease
	if until <= s.rec.LeaseExpiresAt && s.rec.Answered {
		return o, nil
	}
	s.rec.Answered = true
	s.rec.LeaseExpiresAt = max(until, s.rec.LeaseExpiresAt)
	return o, t.save(s)
}

// complete records the response. It does not matter whether the lease has
// lapsed: the work was done, and with the current fence no one else was let in.
func (t *transaction) complete(c *Command) (*Outcome, error) {
	s, ok, err := t.current(c)
	if err != nil {
		return nil, err
	}
	if !ok {
		return stale(), nil
	}
	if s.rec.State == State_COMPLETED {
		return t.completedAgain(s, c)
	}
	s.rec.becomeCompleted(t.meta.Time, c.Response)
	return &Outcome{Code: Code_OK, Record: s.rec}, t.save(s)
}

// completedAgain answers a repeated response as the first time.
func (t *transaction) completedAgain(s slot, c *Command) (*Outcome, error) {
	if !s.rec.Response.same(c.Response) {
		return stale(), nil
	}
	return &Outcome{Code: Code_OK, Record: s.rec}, fillBody(t.batch, c.Namespace, s.rec)
}

// release gives the key back as if it had never been claimed. A fence that was
// granted and is no longer current has nothing left to release, which also
// answers a resend.
func (t *transaction) release(c *Command) (*Outcome, error) {
	if c.Fence == 0 || c.Fence > t.meta.Fence {
		return stale(), nil
	}
	s, ok, err := t.current(c)
	if err != nil {
		return nil, err
	}
	switch {
	case !ok:
		return done(), nil
	case s.rec.State == State_COMPLETED:
		return stale(), nil
	}
	return done(), t.removeByCommand(s)
}

// removeByCommand removes a record and remembers that: whatever began its key and
// was sent before may yet come, perhaps again, when nobody waits for it any more.
func (t *transaction) removeByCommand(s slot) error {
	if err := t.remove(s); err != nil {
		return err
	}
	t.meta.Removals++
	return t.remember(t.removalKey(), &Done{Removal: t.meta.Removals})
}

// removalKey is where the removal of the record under t.record is remembered.
func (t *transaction) removalKey() []byte {
	name := sha256.Sum256(t.record)
	t.other = appendDoneKey(t.other[:0], name[:16])
	return t.other
}

// outrun reports whether a command removed the record of c's key after c was
// sent. A sender that still waits sends c again when it has seen that.
func (t *transaction) outrun(c *Command) (bool, error) {
	if c.SeenRemovals == 0 || c.SeenRemovals > t.meta.Removals {
		return false, nil // it does not say, or has seen them all
	}
	d, err := readDone(t.batch, t.removalKey())
	if err != nil || d == nil {
		return false, err
	}
	return d.Removal > c.SeenRemovals-1, nil
}

// fail records that the owner cannot know the outcome.
func (t *transaction) fail(c *Command) (*Outcome, error) {
	s, ok, err := t.current(c)
	if err != nil {
		return nil, err
	}
	if !ok || s.rec.State == State_COMPLETED {
		return stale(), nil
	}
	o := &Outcome{Code: Code_OK, Record: s.rec}
	if s.rec.Failed {
		return o, nil
	}
	s.rec.Failed = true
	if s.rec.State == State_CLAIMED {
		s.rec.becomeUnknown(t.meta.Time)
	}
	return o, t.save(s)
}

// resolve settles an unknown outcome: with the response that it had, or by
// letting the next claim run.
func (t *transaction) resolve(c *Command) (*Outcome, error) {
	if c.Retry {
		if o, err := t.remembered(c); o != nil || err != nil {
			return o, err
		}
	}
	s, ok, err := t.current(c)
	switch {
	case err != nil:
		return nil, err
	case s.rec == nil:
		return &Outcome{Code: Code_NOT_FOUND}, nil
	case !ok:
		return stale(), nil
	case s.rec.standing(t.meta.Time):
		return &Outcome{Code: Code_IN_FLIGHT, Record: s.rec}, nil
	case c.Retry && s.rec.State == State_COMPLETED:
		return stale(), nil
	case c.Retry:
		return t.removeAndRemember(s, c)
	case s.rec.State == State_COMPLETED:
		return t.completedAgain(s, c)
	}
	s.rec.becomeCompleted(t.meta.Time, c.Response)
	return &Outcome{Code: Code_OK, Record: s.rec}, t.save(s)
}

// forget removes a record in whatever state, but a claim that stands only by
// force. What a create made stays: the resource and its unique values.
func (t *transaction) forget(c *Command) (*Outcome, error) {
	if o, err := t.remembered(c); o != nil || err != nil {
		return o, err
	}
	s, ok, err := t.current(c)
	switch {
	case err != nil:
		return nil, err
	case s.rec == nil:
		return &Outcome{Code: Code_NOT_FOUND}, nil
	case !ok:
		return stale(), nil
	case s.rec.standing(t.meta.Time) && !c.Force:
		return &Outcome{Code: Code_IN_FLIGHT, Record: s.rec}, nil
	}
	return t.removeAndRemember(s, c)
}

// removeAndRemember removes a record, which leaves nothing by which a resend
// of c could be known, and so remembers the outcome by itself.
func (t *transaction) removeAndRemember(s slot, c *Command) (*Outcome, error) {
	if err := t.removeByCommand(s); err != nil {
		return nil, err
	}
	o := done()
	t.other = appendDoneKey(t.other[:0], c.RequestId)
	return o, t.remember(t.other, &Done{Outcome: o})
}

// remember stores d under key for as long as such are kept, in place of what may
// be there.
func (t *transaction) remember(key []byte, d *Done) error {
	old, err := readDone(t.batch, key)
	if err != nil {
		return err
	}
	if old != nil {
		if err := t.undue(old.ExpiresAt, key); err != nil {
			return err
		}
	}
	d.ExpiresAt = t.meta.Time + doneTTL
	if t.value, err = appendValue(t.value[:0], key, d); err != nil {
		return err
	}
	if err := t.batch.Set(key, t.value); err != nil {
		return err
	}
	return t.setDue(d.ExpiresAt, key)
}

// remembered returns the outcome of c if it was applied before and removed a
// record, or nil.
func (t *transaction) remembered(c *Command) (*Outcome, error) {
	t.other = appendDoneKey(t.other[:0], c.RequestId)
	d, err := readDone(t.batch, t.other)
	if err != nil || d == nil || d.ExpiresAt <= t.meta.Time {
		return nil, err
	}
	return d.Outcome, nil
}

func (t *transaction) forgetDone(key []byte, d *Done) error {
	if err := t.batch.Delete(key); err != nil {
		return err
	}
	return t.undue(d.ExpiresAt, key)
}

func readDone(from getter, key []byte) (*Done, error) {
	value, err := from.Get(key)
	if err != nil || value == nil {
		return nil, err
	}
	return openDone(key, value)
}

func openDone(key, value []byte) (*Done, error) {
	d := new(Done)
	if err := openValue(key, value, d); err != nil {
		return nil, err
	}
	if d.Outcome == nil && d.Removal == 0 {
		return nil, corrupt(key, "what is remembered is neither an outcome nor a removal")
	}
	return d, nil
}
