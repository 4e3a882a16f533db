//go:build !wasip1

package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/onced/onced/cluster/durable"
)

// The files beside the mark.
const (
	boltFile     = "log.db"
	stableFile   = "stable.db"
	segmentsFile = "segments"
)

// Open opens the log in dir, which is made if it is missing; its parent must
// exist. kind is "wal" or "bolt", the same for ever.
func Open(dir, kind string, o Options) (*Store, error) {
	o = o.withDefaults()
	open, ok := map[string]func(string, Options) (Backend, error){"wal": openWAL, "bolt": openBoltLog}[kind]
	if !ok {
		return nil, fmt.Errorf("open log: no kind %q: use wal or bolt", kind)
	}
	if err := durable.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	m, err := openMark(dir, kind)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	var b Backend
	err = guard(func() (err error) {
		b, err = open(dir, o)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log %s: %w", dir, err), m.Close())
	}
	s, err := newStore(b, m, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log %s: %w", dir, err), b.Close(), m.Close())
	}
	return s, nil
}

// openMark opens the mark in dir, or makes it if dir holds no log yet. Term and
// vote, where they are kept in dir, come after the log.
func openMark(dir, kind string) (*mark, error) {
	m := &mark{kind: kind[0]}
	path := filepath.Join(dir, markFile)
	if !exists(path) {
		if exists(dir, boltFile) || exists(dir, segmentsFile) || exists(dir, stableFile) {
			return nil, fmt.Errorf("%w: the file %s is missing", ErrCorrupt, markFile)
		}
		if err := durable.WriteFile(path, m.encode()); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	m.file = f
	if err := m.decode(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if m.kind != kind[0] {
		made := map[byte]string{'w': "wal", 'b': "bolt"}[m.kind]
		return nil, errors.Join(fmt.Errorf("the log was made as kind %q and cannot be opened as %q: start with the log store it was made with", made, kind), f.Close())
	}
	return m, nil
}

// readMark returns how far the log in dir, if there is one, has reached.
func readMark(dir string) (index uint64, err error) {
	data, err := os.ReadFile(filepath.Join(dir, markFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	var m mark
	if err == nil {
		err = m.decode(bytes.NewReader(data))
	}
	return m.index, err
}

// exists tells whether there is a file at the path of elem.
func exists(elem ...string) bool {
	_, err := os.Stat(filepath.Join(elem...))
	return err == nil
}
