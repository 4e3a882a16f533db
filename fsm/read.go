package fsm

import (
	"bytes"
	"fmt"
)

// read answers with the record as of this place in the log. Without a key it
// is only that: a place in the log.
func (t *transaction) read(c *Command) (*Outcome, error) {
	if c.Key == "" {
		return done(), nil
	}
	s, err := t.slot(c)
	if err != nil {
		return nil, err
	}
	rec := s.rec.asOf(t.meta.Time)
	if rec == nil {
		return &Outcome{Code: Code_NOT_FOUND}, nil
	}
	return &Outcome{Code: Code_OK, Record: rec}, fillBody(t.batch, c.Namespace, rec)
}

// Lookup returns the record of a key as of the last entry that was applied, or
// nil: one that has ended by then is absent, one that has lapsed is unknown.
func (m *Machine) Lookup(namespace, key string) (*Record, error) {
	now := m.meta.Load().Time
	rec, err := readRecord(m.store, appendName(nil, tableRecord, namespace, key))
	if err == nil {
		rec = rec.asOf(now)
		err = fillBody(m.store, namespace, rec)
	}
	if err != nil {
		return nil, fmt.Errorf("look up record: %w", err)
	}
	return rec, nil
}

// Resource returns a resource, or nil if there is none of that id.
func (m *Machine) Resource(namespace, id string) (*Resource, error) {
	resource, err := readResource(m.store, appendName(nil, tableResource, namespace, id))
	if err != nil {
		return nil, fmt.Errorf("look up resource: %w", err)
	}
	return resource, nil
}

// ListQuery says which records List returns.
type ListQuery struct {
	// State is the one they are in; ABSENT is any.
	State State
	// Prefix is what their keys begin with.
	Prefix string
	// After is the key that the list begins behind.
	After string
	// Limit is how many there are at most.
	Limit int
}

// Listed is a record in a list.
type Listed struct {
	Key    string
	Record *Record
}

// ListedResource is a resource in a list.
type ListedResource struct {
	ID       string
	Resource *Resource
}

// maxPage is about how many bytes of bodies, uncompressed, there are at most in
// one list. It then ends before its limit, with at least one element.
const maxPage = 8 << 20

// List returns records of a namespace in the order of their keys, each as
// Lookup does, and whether there are more behind the last.
func (m *Machine) List(namespace string, q ListQuery) ([]Listed, bool, error) {
	var (
		listed []Listed
		page   = page{limit: q.Limit}
		now    = m.meta.Load().Time
		failed error
	)
	from, to := nameRange(tableRecord, namespace, q.Prefix, q.After)
	err := m.store.Scan(from, to, func(key, value []byte) bool {
		rec, err := openRecord(key, value)
		if err != nil {
			failed = err
			return false
		}
		rec = rec.asOf(now)
		if rec == nil || q.State != State_ABSENT && rec.State != q.State {
			return true
		}
		if !page.add(rec.Response.GetSize()) {
			return false
		}
		_, name, _ := splitName(key)
		listed = append(listed, Listed{name, rec})
		return true
	})
	for i := 0; i < len(listed) && err == nil && failed == nil; i++ {
		err = fillBody(m.store, namespace, listed[i].Record)
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, false, fmt.Errorf("list records: %w", err)
	}
	return listed, page.full, nil
}

// Resources returns up to limit resources of a namespace in the order of their
// ids, behind the id after, and whether there are more.
func (m *Machine) Resources(namespace, after string, limit int) ([]ListedResource, bool, error) {
	var (
		listed []ListedResource
		page   = page{limit: limit}
		failed error
	)
	from, to := nameRange(tableResource, namespace, "", after)
	err := m.store.Scan(from, to, func(key, value []byte) bool {
		resource := new(Resource)
		if failed = openValue(key, value, resource); failed != nil {
			return false
		}
		if !page.add(resource.Size) {
			return false
		}
		_, id, _ := splitName(key)
		listed = append(listed, ListedResource{id, resource})
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, false, fmt.Errorf("list resources: %w", err)
	}
	return listed, page.full, nil
}

// page counts what is in a list.
type page struct {
	limit, count int
	bytes        int64
	full         bool
}

// add reports whether there is room for one more, of size bytes.
func (p *page) add(size int64) bool {
	if p.count >= p.limit || p.count > 0 && p.bytes+size > maxPage {
		p.full = true
		return false
	}
	p.count++
	p.bytes += size
	return true
}

// nameRange bounds the keys of what is in a namespace, begins with prefix and
// comes behind after.
func nameRange(table byte, namespace, prefix, after string) (from, to []byte) {
	from = appendName(nil, table, namespace, prefix)
	to = append(bytes.Clone(from), 0xff) // no byte of a name is 0xff
	if after >= prefix && after != "" {
		from = append(appendName(nil, table, namespace, after), 0)
	}
	if bytes.Compare(from, to) > 0 {
		from = to
	}
	return from, to
}
