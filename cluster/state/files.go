//go:build !wasip1

package state

import (
	"errors"
	"io"
	"os"

	"github.com/onced/onced/cluster/durable"
	"github.com/onced/onced/fsm"
)

// directories is the Disk of the product: directories of Pebble's.
type directories struct{ pebble fsm.PebbleOptions }

// Files is a Disk of directories, each a store of Pebble's with these settings.
func Files(o fsm.PebbleOptions) Disk { return directories{o} }

func defaultDisk() Disk { return directories{fsm.PebbleOptions{Pace: pace}} }

func (directories) MakeDir(path string) error { return durable.MakeDir(path) }

func (directories) Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (directories) Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (directories) Remove(path string) error { return os.RemoveAll(path) }

func (directories) Rename(from, to string) error { return durable.Rename(from, to) }

func (directories) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (directories) WriteFile(path string, data []byte) error { return durable.WriteFile(path, data) }

func (d directories) Open(path string, o StoreOptions) (Store, error) {
	settings := d.pebble
	if o.CacheBytes > 0 {
		settings.CacheBytes = o.CacheBytes
	}
	settings.ReadOnly, settings.Log, settings.OnFatal = o.ReadOnly, o.Log, o.OnFatal
	p, err := fsm.OpenPebble(path, settings)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (directories) Pack(path string) (io.ReadCloser, int64, error) {
	s, err := newSending(path)
	if err != nil {
		return nil, 0, errors.Join(err, os.RemoveAll(path))
	}
	return s, s.size, nil
}

func (directories) Unpack(r io.Reader, path string) error { return unpack(r, path) }
