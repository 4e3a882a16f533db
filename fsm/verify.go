package fsm

import "fmt"

// Verify reads everything that is stored and reports ErrCorrupt for whatever is
// not as it was written.
func (m *Machine) Verify() error {
	var failed error
	err := m.store.Scan(nil, nil, func(key, value []byte) bool {
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
