// Package durable writes files and directories so that a power cut leaves
// either what was there before or what is there now.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// temporary is the suffix of a file that is being written.
const temporary = ".tmp"

// WriteFile puts data into the file at path, mode 0600, in one step that is on
// disk when it returns: temporary file, fsync, rename, fsync of the directory.
func WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write file %s: %w", path, err)
	}
	return Rename(path+temporary, path)
}

// Rename moves a file or directory within its directory, on disk when it
// returns. What is moved must be synced already.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return SyncDir(filepath.Dir(to))
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// MakeDir makes dir, mode 0700, in a parent that exists. It is on disk when it
// returns. A directory that is there already keeps its mode.
func MakeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	return SyncDir(filepath.Dir(dir))
}
