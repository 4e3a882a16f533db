package fsm

import (
	"bytes"
	"fmt"
)

// expire sweeps what is due, the earliest first: it lapses claims and removes
// the rest, at most c.Limit of them.
func (t *transaction) expire(c *Command) (*Outcome, error) {
	due, err := t.dueKeys(int(c.Limit))
	if err != nil {
		return nil, err
	}
	for _, key := range due {
		if err := t.sweep(key); err != nil {
			return nil, err
		}
	}
	return &Outcome{Code: Code_OK, Count: uint32(len(due))}, nil
}

// dueKeys returns the first keys of the due index, up to now and limit, and
// moves sweptTo to where the next sweep may begin.
func (t *transaction) dueKeys(limit int) ([][]byte, error) {
	var keys [][]byte
	if limit == 0 {
		return nil, nil
	}
	from, to := dueRange(t.sweptTo, t.meta.Time)
	err := t.batch.Scan(from, to, func(key, _ []byte) bool {
		keys = append(keys, bytes.Clone(key))
		return len(keys) < limit
	})
	if err != nil {
		return nil, err
	}
	t.sweptTo = t.meta.Time
	if len(keys) == limit {
		at, _, ok := splitDueKey(keys[limit-1])
		if !ok {
			return nil, corrupt(keys[limit-1], "its key is too short")
		}
		t.sweptTo = at
	}
	return keys, nil
}

// dueRange bounds the part of the due index from from up to and with to.
func dueRange(from, to int64) (first, end []byte) {
	return appendDueKey(nil, from, nil), appendDueKey(nil, to+1, nil)
}

// sweep does what is due by key, an entry of the due index.
func (t *transaction) sweep(key []byte) error {
	at, target, ok := splitDueKey(key)
	if !ok {
		return corrupt(key, "its key is too short")
	}
	switch target[0] {
	case tableRecord:
		return t.sweepRecord(at, target)
	case tableDone:
		d, err := readDone(t.batch, target)
		if err != nil {
			return err
		}
		if d == nil || d.ExpiresAt != at {
			return corrupt(key, "it names no command that ends then")
		}
		return t.forgetDone(target, d)
	}
	return corrupt(key, fmt.Sprintf("it names table %q", target[0]))
}

func (t *transaction) sweepRecord(at int64, target []byte) error {
	t.record = append(t.record[:0], target...)
	rec, err := readRecord(t.batch, t.record)
	if err != nil {
		return err
	}
	namespace, key, ok := splitName(t.record)
	if !ok || rec == nil || rec.dueAt() != at {
		return corrupt([]byte{tableDue}, "it names no record that is due then")
	}
	s := slot{namespace: namespace, key: key, was: rec.State, due: at, rec: rec}
	if rec.State != State_CLAIMED {
		return t.remove(s)
	}
	rec.becomeUnknown(t.meta.Time)
	return t.save(s)
}

// Due reports whether there is anything that EXPIRE would touch at now.
func (m *Machine) Due(now int64) (bool, error) {
	from, to := dueRange(m.sweptTo.Load(), now)
	found := false
	if bytes.Compare(from, to) >= 0 {
		return false, nil
	}
	err := m.store.Scan(from, to, func(_, _ []byte) bool {
		found = true
		return false
	})
	if err != nil {
		return false, fmt.Errorf("look for what is due: %w", err)
	}
	return found, nil
}
