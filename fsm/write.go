package fsm

// doneTTL is how long the outcome of a command that removed a record is
// remembered, in cluster time: no copy of a command may be applied that long
// after it was sent (see Command.NotAfter).
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
	case s.rec.State == State_COMPLETED, c.Unanswered && (s.rec.Answered || s.rec.Failed):
		return stale(), nil
	}
	return done(), t.remove(s)
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
	if err := t.remove(s); err != nil {
		return nil, err
	}
	d := &Done{Outcome: done(), ExpiresAt: t.meta.Time + doneTTL}
	t.other = appendDoneKey(t.other[:0], c.RequestId)
	old, err := readDone(t.batch, t.other)
	if err != nil {
		return nil, err
	}
	if old != nil { // over, and not swept yet
		if err := t.undue(old.ExpiresAt, t.other); err != nil {
			return nil, err
		}
	}
	if t.value, err = appendValue(t.value[:0], t.other, d); err != nil {
		return nil, err
	}
	if err := t.batch.Set(t.other, t.value); err != nil {
		return nil, err
	}
	return d.Outcome, t.setDue(d.ExpiresAt, t.other)
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
	if d.Outcome == nil {
		return nil, corrupt(key, "a remembered command has no outcome")
	}
	return d, nil
}
