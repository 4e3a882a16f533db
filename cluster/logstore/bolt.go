//go:build !wasip1

package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	boltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/onced/onced/cluster/durable"
)

// OpenStable opens raft's term and vote, kept in a file of their own in dir,
// which is made if it is missing; its parent must exist. dir may be that of
// the log: then a missing file is refused if the log has entries, since a node
// that forgot its vote could vote twice.
func OpenStable(dir string) (*boltdb.BoltStore, error) {
	if err := durable.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("open stable store: %w", err)
	}
	if !exists(dir, stableFile) {
		if reached, err := readMark(dir); err != nil {
			return nil, fmt.Errorf("open stable store: %w", err)
		} else if reached > 0 {
			return nil, fmt.Errorf("open stable store: %w: the log has entries, but the file %s beside it is missing", ErrCorrupt, stableFile)
		}
	}
	s, err := openBolt(filepath.Join(dir, stableFile))
	if err != nil {
		return nil, fmt.Errorf("open stable store: %w", err)
	}
	return s, nil
}

func openBoltLog(dir string, _ Options) (Backend, error) {
	s, err := openBolt(filepath.Join(dir, boltFile))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openBolt opens the store at path. It makes a new one under another name
// first: bbolt cannot open a file whose making was cut short, and does not
// sync the directory that it makes it in.
func openBolt(path string) (s *boltdb.BoltStore, err error) {
	if !exists(path) {
		if err := makeBolt(path); err != nil {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
	}
	err = guard(func() error {
		if err := checkBolt(path); err != nil {
			return err
		}
		s, err = boltdb.New(boltdb.Options{Path: path, BoltOptions: boltOptions()})
		return err
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

func makeBolt(path string) error {
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	s, err := boltdb.New(boltdb.Options{Path: fresh, BoltOptions: boltOptions()})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	return durable.Rename(fresh, path)
}

func boltOptions() *bbolt.Options {
	return &bbolt.Options{
		Timeout: time.Second, // for the lock on the file
		// Else each commit writes out the whole list, which grows long after
		// a burst.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	}
}

// checkBolt refuses a file whose pages are missing or do not lead to one
// another. bbolt walks them itself when it opens a file, but in a goroutine of
// its own, so that what it panics about there nobody can recover.
func checkBolt(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, bbolterrors.ErrTimeout) || errors.Is(err, os.ErrPermission) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer db.Close() // only read
	return db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: the file has %d bytes of %d", ErrCorrupt, info.Size(), tx.Size())
		}
		return tx.ForEach(checkBucket)
	})
}

// checkBucket finds each key of b, which touches everything that leads to one.
func checkBucket(name []byte, b *bbolt.Bucket) error {
	b.Stats() // visits the pages
	find := b.Cursor()
	return b.ForEach(func(key, _ []byte) error {
		if found, _ := find.Seek(key); !bytes.Equal(found, key) {
			return fmt.Errorf("%w: key %x of bucket %q cannot be found", ErrCorrupt, key, name)
		}
		return nil
	})
}
