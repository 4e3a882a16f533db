package simulation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/onced/onced/cluster/state"
	"github.com/onced/onced/fsm"
)

// stores is a disk as package state has it.
type stores struct{ *disk }

var _ state.Disk = stores{}

// MakeDir implements state.Disk: directories are only names here.
func (s stores) MakeDir(string) error { return nil }

// Exists implements state.Disk.
func (s stores) Exists(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stores[path] != nil
}

// Names implements state.Disk.
func (s stores) Names(dir string) ([]string, error) { return s.names(dir), nil }

// Remove implements state.Disk.
func (s stores) Remove(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stores, path)
	delete(s.files, path)
	return nil
}

// Rename implements state.Disk.
func (s stores) Rename(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stores[from] == nil {
		return fmt.Errorf("rename %s: there is none", from)
	}
	s.stores[to] = s.stores[from]
	delete(s.stores, from)
	return nil
}

// ReadFile implements state.Disk.
func (s stores) ReadFile(path string) ([]byte, error) { return s.readFile(path) }

// WriteFile implements state.Disk.
func (s stores) WriteFile(path string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = slices.Clone(data)
	return nil
}

// Open implements state.Disk.
func (s stores) Open(path string, _ state.StoreOptions) (state.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stores[path]
	if st == nil {
		m := fsm.NewMem()
		st = &store{live: m, durable: m.Copy()}
		s.stores[path] = st
	}
	return &openStore{Mem: st.live, disk: s.disk, store: st}, nil
}

// openStore is a store in use.
type openStore struct {
	*fsm.Mem
	disk  *disk
	store *store
}

// batch counts what a crash would lose.
type batch struct {
	fsm.Batch
	of *openStore
}

// Batch implements fsm.Store.
func (o *openStore) Batch() fsm.Batch { return &batch{o.Mem.Batch(), o} }

// Commit implements fsm.Batch. Once in a while what is in memory is written out
// by itself, as Pebble does.
func (b *batch) Commit() error {
	if err := b.Batch.Commit(); err != nil {
		return err
	}
	d := b.of.disk
	written := d.dice.happens(0.02)
	d.mu.Lock()
	defer d.mu.Unlock()
	b.of.store.since++
	if written {
		b.of.store.flush()
	}
	return nil
}

func (s *store) flush() { s.write(s.copy()) }

// copy returns what is in memory, and which copy of it that is.
func (s *store) copy() (*fsm.Mem, int) {
	s.copies++
	return s.live.Copy(), s.copies
}

// write makes a copy survive, unless a later one does already.
func (s *store) write(m *fsm.Mem, copied int) {
	if copied > s.written {
		s.durable, s.written, s.since = m, copied, 0
	}
}

// Sync implements fsm.Store.
func (o *openStore) Sync() error {
	o.disk.mu.Lock()
	m, copied := o.store.copy()
	o.disk.mu.Unlock()
	o.disk.write()
	o.disk.mu.Lock()
	defer o.disk.mu.Unlock()
	o.store.write(m, copied)
	return nil
}

// Checkpoint implements state.Store.
func (o *openStore) Checkpoint(path string) error {
	if err := o.Sync(); err != nil {
		return err
	}
	o.disk.mu.Lock()
	defer o.disk.mu.Unlock()
	if o.disk.stores[path] != nil {
		return fmt.Errorf("checkpoint %s: it exists", path)
	}
	o.disk.stores[path] = &store{live: o.store.durable.Copy(), durable: o.store.durable.Copy()}
	return nil
}

// Size implements state.Store.
func (o *openStore) Size() int64 { return 1 }

// Halted implements state.Store.
func (o *openStore) Halted() bool { return false }

// Close implements fsm.Store. It does not sync.
func (o *openStore) Close() error { return nil }

// packed is a store on its way: pairs of length-prefixed key and value, and a
// digest.
type packed struct {
	*bytes.Reader
	close func()
}

// Close implements io.Closer.
func (p packed) Close() error {
	p.close()
	return nil
}

// Pack implements state.Disk.
func (s stores) Pack(path string) (io.ReadCloser, int64, error) {
	s.mu.Lock()
	st := s.stores[path]
	s.mu.Unlock()
	if st == nil {
		return nil, 0, fmt.Errorf("pack %s: there is none", path)
	}
	var b []byte
	err := st.live.Scan(nil, nil, func(key, value []byte) bool {
		b = append(binary.AppendUvarint(b, uint64(len(key))), key...)
		b = append(binary.AppendUvarint(b, uint64(len(value))), value...)
		return true
	})
	if err != nil {
		return nil, 0, err
	}
	b = binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
	return packed{bytes.NewReader(b), func() { _ = s.Remove(path) }}, int64(len(b)), nil
}

var errPacked = errors.New("unpack: it is damaged")

// Unpack implements state.Disk.
func (s stores) Unpack(r io.Reader, path string) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(b) < 8 || binary.BigEndian.Uint64(b[len(b)-8:]) != xxhash.Sum64(b[:len(b)-8]) {
		return errPacked
	}
	b = b[:len(b)-8]
	m := fsm.NewMem()
	into := m.Batch()
	field := func() (f []byte) {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			err = errPacked
			b = nil
			return nil
		}
		f, b = b[size:size+int(n)], b[size+int(n):]
		return f
	}
	for len(b) > 0 && err == nil {
		key := field()
		value := field()
		if err == nil {
			err = into.Set(key, value)
		}
	}
	if err = errors.Join(err, into.Commit()); err != nil {
		return err
	}
	s.write()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stores[path] = &store{live: m, durable: m.Copy()}
	return nil
}
