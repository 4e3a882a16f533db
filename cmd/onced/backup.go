package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

type backupCmd struct {
	target
	File  string `arg:"" help:"File to write; - is standard output."`
	Force bool   `help:"Replace the file if it exists."`
}

// Run writes the whole backup, checked, or no file at all.
func (c *backupCmd) Run(s *session) error {
	if c.File != "-" && !c.Force {
		if _, err := os.Lstat(c.File); err == nil {
			return fmt.Errorf("%s exists: name another file, or give --force", c.File)
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, c.Timeout)
	defer cancel()
	res, err := c.send(ctx, http.MethodGet, "/v1/backup", nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if c.File == "-" {
		_, err := copyBackup(s.stdout, res.Body)
		return err
	}
	size, err := saveBackup(c.File, res.Body)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s: %d bytes, checksum verified\n", c.File, size)
	return err
}

// saveBackup writes the backup beside path under another name (private to this
// user: it holds every response), checks it, syncs it, renames it to path and
// syncs the directory.
func saveBackup(path string, backup io.Reader) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if size, err = copyBackup(f, backup); err != nil {
		return 0, err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return 0, fmt.Errorf("write backup: %w", err)
	}
	return size, syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// copyBackup copies a backup and checks that it ends with the SHA-256 of
// everything before: one that was cut short does not.
func copyBackup(to io.Writer, backup io.Reader) (int64, error) {
	check := &trailingSum{sum: sha256.New()}
	size, err := io.Copy(io.MultiWriter(to, check), backup)
	if err != nil {
		return size, fmt.Errorf("copy backup: %w", err)
	}
	if !check.right() {
		return size, errors.New("the backup is damaged or was cut short: its checksum is wrong; take it again")
	}
	return size, nil
}

// trailingSum hashes all that is written to it but the last bytes, which
// should be that hash.
type trailingSum struct {
	sum  hash.Hash
	tail []byte // at most sum.Size() bytes, not hashed yet
}

// Write never fails.
func (t *trailingSum) Write(p []byte) (int, error) {
	t.tail = append(t.tail, p...)
	if more := len(t.tail) - t.sum.Size(); more > 0 {
		t.sum.Write(t.tail[:more])
		t.tail = append(t.tail[:0], t.tail[more:]...)
	}
	return len(p), nil
}

func (t *trailingSum) right() bool { return bytes.Equal(t.sum.Sum(nil), t.tail) }
