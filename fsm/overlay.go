package fsm

import (
	"bytes"
	"slices"
)

// overlay is the Batch of every Store: the writes so far, in memory, in front
// of the store that they will go to. A batch is read by key far more often
// than it is scanned, so the writes are in a map and are sorted only for a
// Scan.
type overlay struct {
	base   Store
	writes map[string][]byte // nil: deleted
	// commit makes the writes visible in base together.
	commit func(writes map[string][]byte) error
}

func newOverlay(base Store, commit func(map[string][]byte) error) *overlay {
	return &overlay{base: base, writes: make(map[string][]byte), commit: commit}
}

func (o *overlay) Get(key []byte) ([]byte, error) {
	if value, ok := o.writes[string(key)]; ok {
		return bytes.Clone(value), nil
	}
	return o.base.Get(key)
}

func (o *overlay) Set(key, value []byte) error {
	o.writes[string(key)] = append(make([]byte, 0, len(value)), value...)
	return nil
}

func (o *overlay) Delete(key []byte) error {
	o.writes[string(key)] = nil
	return nil
}

func (o *overlay) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	pending := o.sorted(from, to)
	stopped := false
	show := func(key string, value []byte) {
		if value != nil && !stopped {
			stopped = !visit([]byte(key), value)
		}
	}
	err := o.base.Scan(from, to, func(key, value []byte) bool {
		for len(pending) > 0 && pending[0] < string(key) {
			show(pending[0], o.writes[pending[0]])
			pending = pending[1:]
		}
		if len(pending) > 0 && pending[0] == string(key) {
			show(pending[0], o.writes[pending[0]])
			pending = pending[1:]
		} else if !stopped {
			stopped = !visit(key, value)
		}
		return !stopped
	})
	if err != nil {
		return err
	}
	for _, key := range pending {
		show(key, o.writes[key])
	}
	return nil
}

// sorted returns the written keys in [from, to) in ascending order.
func (o *overlay) sorted(from, to []byte) []string {
	var keys []string
	for key := range o.writes {
		if key >= string(from) && (to == nil || key < string(to)) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (o *overlay) Commit() error {
	writes := o.writes
	o.Discard()
	if len(writes) == 0 {
		return nil
	}
	return o.commit(writes)
}

func (o *overlay) Discard() { o.writes = nil }
