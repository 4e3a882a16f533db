package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

const (
	currentFile = "CURRENT"
	storePrefix = "store-"
)

// current is what the file CURRENT says.
type current struct {
	// Store is the number of the store that counts.
	Store uint64 `json:"store"`
	// Installed is the index of the snapshot that the store was installed
	// from, 0 if it was not.
	Installed uint64 `json:"installed"`
}

func (s *State) storeDir(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s%06d", storePrefix, number))
}

// temporaryDir returns the path of a directory that is yet to be made. It does
// not outlive the process.
func (s *State) temporaryDir(purpose string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%06d", purpose, s.temporaries.Add(1)))
}

// readCurrent reads CURRENT. A directory without it is a new one, and gets it
// before its first store.
func (s *State) readCurrent() (c current, err error) {
	data, err := s.disk.ReadFile(filepath.Join(s.dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := s.disk.Names(s.dir)
		if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, storePrefix) }) {
			return c, fmt.Errorf("%w: there are stores, but the file %s is missing", fsm.ErrCorrupt, currentFile)
		}
		c.Store = 1
		return c, s.writeCurrent(c)
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%w: file %s: %w", fsm.ErrCorrupt, currentFile, err)
	}
	// The first store may not have been made yet; any other was.
	if c.Store != 1 && !s.disk.Exists(s.storeDir(c.Store)) {
		return c, fmt.Errorf("%w: file %s: there is no store %d", fsm.ErrCorrupt, currentFile, c.Store)
	}
	return c, nil
}

func (s *State) writeCurrent(c current) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode %s: %w", currentFile, err)
	}
	return s.disk.WriteFile(filepath.Join(s.dir, currentFile), append(data, '\n'))
}

// removeLeftovers removes everything but CURRENT and the store it names.
func (s *State) removeLeftovers(number uint64) error {
	names, err := s.disk.Names(s.dir)
	if err != nil {
		return err
	}
	keep := filepath.Base(s.storeDir(number))
	for _, name := range names {
		if name != currentFile && name != keep {
			if err := s.disk.Remove(filepath.Join(s.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// parcel is a snapshot that was received, checked and synced, in a directory
// of its own. To raft it is the snapshot's content, which only Restore takes.
type parcel struct {
	meta raft.SnapshotMeta
	dir  string
}

// Read implements io.Reader.
func (p *parcel) Read([]byte) (int, error) {
	return 0, errors.New("a received snapshot is restored as a whole, not read")
}

// Close implements io.Closer.
func (p *parcel) Close() error { return nil }

// Restore implements raft.FSM: it replaces the whole state by a snapshot. When
// it returns, that is on disk. If it fails, the state is as before.
func (s *State) Restore(content io.ReadCloser) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	p, err := s.unwrap(content)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	number, err := s.place(p)
	if err != nil {
		return errors.Join(fmt.Errorf("restore snapshot: %w", err), s.disk.Remove(p.dir))
	}
	next, err := s.openStore(number)
	if err != nil {
		return errors.Join(fmt.Errorf("restore snapshot: %w", err), s.disk.Remove(s.storeDir(number)))
	}
	installed := next.machine.Meta().AppliedIndex
	if err := s.writeCurrent(current{Store: number, Installed: installed}); err != nil {
		// It may or may not be on disk, so neither store is certain to be
		// the one that counts.
		next.leave()
		err = errors.Join(fmt.Errorf("restore snapshot: %w", err), next.data.Close())
		s.fail(err)
		return err
	}
	s.adopt(next, installed)
	return nil
}

// unwrap returns the parcel that raft has wrapped up. Any other content is
// received first.
func (s *State) unwrap(content io.ReadCloser) (*parcel, error) {
	for inner := content; ; {
		if p, ok := inner.(*parcel); ok {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.pending == p {
				s.pending = nil
			}
			return p, nil
		}
		w, ok := inner.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		inner = w.WrappedReadCloser()
	}
	return s.receive(content)
}

// place gives p the directory of a store.
func (s *State) place(p *parcel) (number uint64, err error) {
	number = s.temporaries.Add(1)
	return number, s.disk.Rename(p.dir, s.storeDir(number))
}

// adopt makes next the live store, and closes and removes the one before.
func (s *State) adopt(next *store, installed uint64) {
	s.mu.Lock()
	old := s.live
	s.live, s.installed = next, installed
	s.mu.Unlock()
	s.noteApplied(next.machine.Meta())
	s.installs.Add(1)
	if s.opts.OnInstall != nil {
		s.opts.OnInstall(installed)
	}
	if old == nil {
		return
	}
	old.leave()
	if err := errors.Join(old.data.Close(), s.disk.Remove(s.storeDir(old.number))); err != nil {
		s.opts.Log.Warn("the store before an installed snapshot is left over until the next start", "error", err)
	}
}

// CheckLog tells whether log goes with the state. It is called before raft
// starts, which otherwise would panic, or apply nothing, or apply what does
// not follow. An install that was cut off before raft emptied its log is
// completed.
func (s *State) CheckLog(log raft.LogStore) error {
	index, term := s.Applied()
	if index == 0 {
		return nil
	}
	s.mu.RLock()
	fresh := s.installed == index // nothing was applied since the install
	s.mu.RUnlock()
	wrong, err := mismatch(log, index, term)
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	if wrong != "" && !fresh {
		return fmt.Errorf("the log does not go with the state, which has applied entry %d of term %d: %s; one of them was lost or put back, so this node must join anew under another id", index, term, wrong)
	}
	if wrong == "" {
		return nil
	}
	return empty(log)
}

// mismatch says what is wrong with log as the log of a state that has applied
// it up to index, or "".
func mismatch(log raft.LogStore, index, term uint64) (string, error) {
	last, err := log.LastIndex()
	if err != nil {
		return "", err
	}
	if last < index {
		return fmt.Sprintf("the log ends with entry %d", last), nil
	}
	var entry raft.Log
	err = log.GetLog(index, &entry)
	switch {
	case err == nil && entry.Term != term:
		return fmt.Sprintf("the log has that entry of term %d", entry.Term), nil
	case err == nil:
		return "", nil
	case !errors.Is(err, raft.ErrLogNotFound):
		return "", err
	}
	// It was compacted away; what follows has to be there.
	if err := log.GetLog(index+1, &entry); errors.Is(err, raft.ErrLogNotFound) {
		return "the log lacks the entry after it", nil
	} else if err != nil {
		return "", err
	}
	return "", nil
}

func empty(log raft.LogStore) error {
	first, err := log.FirstIndex()
	if err == nil && first > 0 {
		var last uint64
		if last, err = log.LastIndex(); err == nil {
			err = log.DeleteRange(first, last)
		}
	}
	if err != nil {
		return fmt.Errorf("empty the log that an installed snapshot replaces: %w", err)
	}
	return nil
}
