package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// mark remembers how far the log has reached, so that a log whose end was lost
// is not taken for a shorter one: raft-wal drops what it cannot read at its
// end, and bbolt goes back to the transaction before.
//
// It is written after each append but synced only when it is lowered. So after
// a power cut it may lag behind the log, which makes the check weaker, but it
// is never ahead of it.
type mark struct {
	mu    sync.Mutex
	file  File
	kind  byte
	index uint64
}

const (
	markFile    = "mark"
	markVersion = 1
	markSize    = 24 // version, kind, 6 zero, index, xxhash64 of these
)

// File is the file of a mark.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	io.Closer
}

// newMark takes the mark in a file of the caller's, which is empty at first.
func newMark(f File) (*mark, error) {
	m := &mark{file: f}
	if n, err := f.ReadAt(make([]byte, 1), 0); n == 0 && errors.Is(err, io.EOF) {
		return m, m.set(0)
	}
	return m, m.decode(f)
}

func (m *mark) decode(from io.ReaderAt) error {
	data := make([]byte, markSize)
	if _, err := from.ReadAt(data, 0); err != nil {
		return fmt.Errorf("%w: read file %s: %w", ErrCorrupt, markFile, err)
	}
	if binary.BigEndian.Uint64(data[16:]) != xxhash.Sum64(data[:16]) || data[0] != markVersion {
		return fmt.Errorf("%w: the file %s does not match its digest", ErrCorrupt, markFile)
	}
	m.kind, m.index = data[1], binary.BigEndian.Uint64(data[8:])
	return nil
}

func (m *mark) encode() []byte {
	data := make([]byte, 16, markSize)
	data[0], data[1] = markVersion, m.kind
	binary.BigEndian.PutUint64(data[8:], m.index)
	return binary.BigEndian.AppendUint64(data, xxhash.Sum64(data))
}

func (m *mark) reached() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index
}

// raise notes that the entry of index is on disk.
func (m *mark) raise(index uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set(index)
}

// lower notes that entries after index are about to be deleted. Unlike raise
// it syncs: a mark left above the log would condemn it.
func (m *mark) lower(index uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index >= m.index {
		return nil
	}
	if err := m.set(index); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return fmt.Errorf("sync file %s: %w", markFile, err)
	}
	return nil
}

func (m *mark) set(index uint64) error {
	m.index = index
	if _, err := m.file.WriteAt(m.encode(), 0); err != nil {
		return fmt.Errorf("write file %s: %w", markFile, err)
	}
	return nil
}

func (m *mark) Close() error { return m.file.Close() }
