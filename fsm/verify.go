package fsm

import "fmt"

// walker is a Store with a quicker way to everything in it than a Scan.
type walker interface {
	// Walk calls visit with each key once, in no order, from one consistent view,
	// until visit returns false. visit must not keep the slices.
	Walk(visit func(key, value []byte) bool) error
}

// Verify reads everything that is stored and reports ErrCorrupt for whatever is
// not as it was written.
func (m *Machine) Verify() error {
	walk := func(visit func(key, value []byte) bool) error { return m.store.Scan(nil, nil, visit) }
	if w, ok := m.store.(walker); ok {
		walk = w.Walk
	}
	var failed error
	err := walk(func(key, value []byte) bool {
		_, failed = openStored(key, value)
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("verify state: %w", err)
	}
	return nil
}

// openStored checks and decodes what is stored under key, of whatever table: a
// message, the id that a unique value belongs to, or nil for an entry of the
// due index.
func openStored(key, value []byte) (any, error) {
	if len(key) == 0 {
		return nil, corrupt(key, "a key is empty")
	}
	switch key[0] {
	case tableMeta:
		meta := new(Meta)
		return meta, openValue(key, value, meta)
	case tableRecord:
		return openRecord(key, value)
	case tableResource:
		resource := new(Resource)
		return resource, openValue(key, value, resource)
	case tableDone:
		return openDone(key, value)
	case tableUnique:
		return openPayload(key, value)
	case tableDue:
		return nil, nil
	}
	return nil, corrupt(key, "there is no such table")
}
