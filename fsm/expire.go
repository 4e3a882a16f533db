package fsm

import (
	"bytes"
	"cmp"
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
// moves sweptTo to where the next sweep may begin: behind the last, or at what
// may yet come to be due now.
func (t *transaction) dueKeys(limit int) ([][]byte, error) {
	var keys [][]byte
	if limit == 0 {
		return nil, nil
	}
	err := t.batch.Scan(dueFrom(t.sweptTo), dueUntil(t.meta.Time), func(key, _ []byte) bool {
		keys = append(keys, bytes.Clone(key))
		return len(keys) < limit
	})
	if err != nil {
		return nil, err
	}
	next := appendDueKey(nil, t.meta.Time, nil)
	if len(keys) == limit {
		next = append(bytes.Clone(keys[limit-1]), 0)
	}
	t.sweptTo = &next
	return keys, nil
}

// dueFrom is where the part of the due index begins that is yet to be swept.
func dueFrom(sweptTo *[]byte) []byte {
	if sweptTo == nil {
		return appendDueKey(nil, 0, nil)
	}
	return *sweptTo
}

// dueUntil is the end of the part of the due index that is due at now.
func dueUntil(now int64) []byte { return appendDueKey(nil, now+1, nil) }

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

// Due reports whether there is anything that EXPIRE would touch at now, and
// since when, in milliseconds of cluster time, the first of it is due.
func (m *Machine) Due(now int64) (since int64, due bool, err error) {
	from, until := m.lookFrom(), dueUntil(now)
	if bytes.Compare(from, until) >= 0 {
		return 0, false, nil
	}
	// Before the store is read: what comes later is due after it.
	looked := appendDueKey(nil, min(now, m.meta.Load().Time), nil)
	var failed error
	err = m.store.Scan(from, until, func(key, _ []byte) bool {
		if since, _, due = splitDueKey(key); !due {
			failed = corrupt(key, "its key is too short")
		}
		if bytes.Compare(key, looked) < 0 {
			looked = bytes.Clone(key)
		}
		return false
	})
	if err = cmp.Or(err, failed); err != nil {
		return 0, false, fmt.Errorf("look for what is due: %w", err)
	}
	m.lookedTo.Store(&looked)
	return since, due, nil
}

// lookFrom is where Due begins: neither among the remains of what was swept, nor of the
// leases of all that was completed since.
func (m *Machine) lookFrom() []byte {
	from := dueFrom(m.sweptTo.Load())
	if looked := m.lookedTo.Load(); looked != nil && bytes.Compare(*looked, from) > 0 {
		return *looked
	}
	return from
}
