package state

import "github.com/onced/onced/fsm"

// read calls f with the machine. An error means that what is stored cannot be
// read any more, so it is fatal, too.
func (s *State) read(f func(*fsm.Machine) error) error {
	l, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	if err := f(l.machine); err != nil {
		s.fail(err)
		return err
	}
	return nil
}

// Lookup is fsm.Machine's Lookup on the live state.
func (s *State) Lookup(namespace, key string) (rec *fsm.Record, err error) {
	err = s.read(func(m *fsm.Machine) (err error) {
		rec, err = m.Lookup(namespace, key)
		return err
	})
	return rec, err
}

// Records is fsm.Machine's List on the live state. (List is raft's word.)
func (s *State) Records(namespace string, q fsm.ListQuery) (listed []fsm.Listed, more bool, err error) {
	err = s.read(func(m *fsm.Machine) (err error) {
		listed, more, err = m.List(namespace, q)
		return err
	})
	return listed, more, err
}

// Resource is fsm.Machine's Resource on the live state.
func (s *State) Resource(namespace, id string) (resource *fsm.Resource, err error) {
	err = s.read(func(m *fsm.Machine) (err error) {
		resource, err = m.Resource(namespace, id)
		return err
	})
	return resource, err
}

// Resources is fsm.Machine's Resources on the live state.
func (s *State) Resources(namespace, after string, limit int) (listed []fsm.ListedResource, more bool, err error) {
	err = s.read(func(m *fsm.Machine) (err error) {
		listed, more, err = m.Resources(namespace, after, limit)
		return err
	})
	return listed, more, err
}

// Due is fsm.Machine's Due on the live state.
func (s *State) Due(now int64) (since int64, due bool, err error) {
	err = s.read(func(m *fsm.Machine) (err error) {
		since, due, err = m.Due(now)
		return err
	})
	return since, due, err
}

// Hash is fsm.Machine's Hash on the live state.
func (s *State) Hash() (sum [32]byte, err error) {
	err = s.read(func(m *fsm.Machine) (err error) {
		sum, err = m.Hash()
		return err
	})
	return sum, err
}

// Meta is fsm.Machine's Meta on the live state, empty once that is closed.
func (s *State) Meta() *fsm.Meta {
	l, release, err := s.acquire()
	if err != nil {
		return new(fsm.Meta)
	}
	defer release()
	return l.machine.Meta()
}
