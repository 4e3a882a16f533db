package peer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/onced/onced/cluster/durable"
)

// A cluster may begin with content that was restored from a backup. Its nodes
// know that by the backup's SHA-256, their seed, and nodes of different seeds
// form no cluster. A node that joins has none: it gets all content from its
// leader.

// filling is the name of what is being filled.
const filling = ".restoring"

// CreateSeeded makes the data directory at path, missing or empty, that of a
// node of a new cluster. fill makes the directory that it is given, and fills
// it; in the data directory that is then called name. The identity is written
// last, so a directory that was cut short is no node's. If CreateSeeded fails,
// all that was made is removed.
func CreateSeeded(path, nodeID string, seed [32]byte, name string, fill func(dir string) error) error {
	if !validID(nodeID) {
		return fmt.Errorf("node id %q is not 1 to %d of A-Z a-z 0-9 . _ -", nodeID, maxID)
	}
	if err := checkUnused(path); err != nil {
		return err
	}
	_, err := os.Stat(path)
	made := errors.Is(err, fs.ErrNotExist)
	if err := makePrivate(path); err != nil {
		return fmt.Errorf("make data directory %s: %w", path, err)
	}
	lock, err := takeLock(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := checkUnused(path); err != nil { // what came before the lock did
		return err
	}
	if err := createSeeded(path, nodeID, seed, name, fill); err != nil {
		return errors.Join(err, removeMade(path, name, made))
	}
	return nil
}

func createSeeded(path, nodeID string, seed [32]byte, name string, fill func(dir string) error) error {
	dir := filepath.Join(path, filling)
	if err := os.RemoveAll(dir); err != nil { // left by one that was cut short
		return err
	}
	if err := fill(dir); err != nil {
		return err
	}
	if err := durable.Rename(dir, filepath.Join(path, name)); err != nil {
		return err
	}
	id, err := makeIdentity(nodeID)
	if err != nil {
		return err
	}
	id.Seed = hex.EncodeToString(seed[:])
	return save(fileKeeper{path: path}, id)
}

func removeMade(path, name string, made bool) error {
	var errs []error
	for _, entry := range []string{identityName, name, filling, lockName} {
		errs = append(errs, os.RemoveAll(filepath.Join(path, entry)))
	}
	if made {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// checkUnused reports what data there is at path. A lock is none, nor are
// hidden files and what a volume comes with.
func checkUnused(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read data directory %s: %w", path, reason(err))
	}
	for _, e := range entries {
		if name := e.Name(); name != lockName && name != "lost+found" && !strings.HasPrefix(name, ".") {
			return fmt.Errorf("data directory %s is not empty (it holds %s): a backup is restored into a new one, name it with --data-dir", path, name)
		}
	}
	return nil
}

// validSeed tells whether s may be a seed; "" is none.
func validSeed(s string) bool {
	return s == "" || len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// seedsDiffer reports that the node that was met begins with other content.
func seedsDiffer(l local, m meeting) error {
	if m.hello.Seed == l.seed {
		return nil
	}
	what := "was restored from another backup than this node"
	switch {
	case l.seed == "":
		what = "was restored from a backup and this node was not"
	case m.hello.Seed == "":
		what = "was not restored from the backup that this node was"
	}
	return ownRefusal(l, CodeSeedDiffers, "%s %s: run `onced restore` with the same file, into an empty data directory, for every node of the new cluster", m.peer.ID, what)
}

// Seeded reports whether the node began with content restored from a backup.
// Then it forms a cluster with nodes that began with the same.
func (d *Dir) Seeded() bool { return d.identity().Seed != "" }
