// Package logstore keeps raft's log and its term and vote on disk.
//
// Under it is one of two libraries. Neither raft nor bbolt checks what it reads
// back, and raft-wal takes a damaged end for a write that was cut short, so
// here every entry carries a digest and the log remembers how far it reached.
package logstore

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

// ErrCorrupt is wrapped by errors that say that the log does not hold what was
// written to it.
var ErrCorrupt = errors.New("log is corrupt")

// MaxEntry is the most bytes of data that an entry may have. raft-wal cannot
// read back more than 64 MiB, all told.
const MaxEntry = 60 << 20

// Options are the settings of a Store. The zero value takes the default that
// is named with each field.
type Options struct {
	// CacheEntries is how many of the newest entries are kept in memory.
	// Default 128: where they are large, of 512 KiB, that is 64 MiB.
	CacheEntries int
	// SegmentBytes is the size of a file of the wal kind. Default 16 MiB.
	SegmentBytes int
	// FS holds the files of the wal kind. Default: the disk.
	FS types.VFS
	// HangLimit is how long a write may take before it is fatal. Default 10 s.
	HangLimit time.Duration
	// OnFatal is told, at most once, that the log can no longer be trusted or
	// written to: an entry read back is not what was stored, a write failed,
	// or it hangs. It must not wait for the store. nil: nobody is told.
	OnFatal func(error)
	// Deferred has StoreLogs return before entries of this node's own are on
	// disk, so that they are sent to the others meanwhile. Who sets it must
	// call Await before an entry is applied, Settle before anything from a peer
	// reaches raft, and tell peers no more than Known to be committed.
	Deferred bool
	// OnAppend is told how long each append took that has succeeded. nil:
	// nobody is told.
	OnAppend func(took time.Duration)
	// Log takes what the wal kind has to say. Default: discarded.
	Log hclog.Logger
}

func (o Options) withDefaults() Options {
	if o.CacheEntries == 0 {
		o.CacheEntries = 128
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.HangLimit == 0 {
		o.HangLimit = 10 * time.Second
	}
	if o.OnFatal == nil {
		o.OnFatal = func(error) {}
	}
	if o.OnAppend == nil {
		o.OnAppend = func(time.Duration) {}
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	return o
}

// Store is raft's log.
type Store struct {
	cache *raft.LogCache
	disk  *disk
	limit time.Duration

	onFatal func(error)
	// onAppend is told of appends that have succeeded.
	onAppend func(time.Duration)
	failure  atomic.Pointer[error]
	closed   atomic.Bool

	defers   bool
	deferred deferred
	// contained is what Contained was given; nil: nothing.
	contained func() (index, term uint64)

	// appending is when the append in hand began, as nanoseconds after epoch,
	// or 0.
	appending atomic.Int64
	epoch     time.Time
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
)

// Backend is what keeps the entries.
type Backend interface {
	raft.LogStore
	io.Closer
}

// New returns the log that backend holds, with the file that remembers how far
// it reached, which is empty at first. It closes both, when it is closed or
// fails.
func New(backend Backend, reach File, o Options) (*Store, error) {
	m, err := newMark(reach)
	if err == nil {
		var s *Store
		if s, err = newStore(backend, m, o.withDefaults()); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("open log: %w", err), backend.Close(), reach.Close())
}

func newStore(b Backend, m *mark, o Options) (*Store, error) {
	d := &disk{Backend: b, mark: m}
	if err := guard(d.checkReach); err != nil {
		return nil, err
	}
	cache, err := raft.NewLogCache(o.CacheEntries, d)
	if err != nil {
		return nil, err
	}
	return &Store{cache: cache, disk: d, limit: o.HangLimit, onFatal: o.OnFatal, onAppend: o.OnAppend, defers: o.Deferred, epoch: time.Now().Add(-1)}, nil
}

// FirstIndex implements raft.LogStore.
func (s *Store) FirstIndex() (uint64, error) { return s.cache.FirstIndex() }

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (uint64, error) {
	if p := s.deferred.current(); p != nil {
		return p.last(), nil
	}
	return s.cache.LastIndex()
}

// IsMonotonic implements raft.MonotonicLogStore. The log says that it takes gaps,
// though one of the wal kind does not: else hashicorp/raft v1.7.3,
// installSnapshot, would delete all of it, also what is behind the snapshot, and
// go on to vote and to answer as if that were there still. Forget sees to it that
// none is made.
func (s *Store) IsMonotonic() bool { return false }

// Contained says up to which entry the state contains the log, which may
// be read from then on as far as that entry's term goes, though it begins only behind it: the
// leader may have no earlier place to go on from. It is called before raft starts, and
// the entry must be one that is committed.
func (s *Store) Contained(reached func() (index, term uint64)) { s.contained = reached }

// Forget deletes the entries up to index, which a snapshot that was installed
// contains. What is behind them stays: raft knows how far it reaches, and replaces what is not the
// leader's.
func (s *Store) Forget(index uint64) error {
	first, err := s.FirstIndex()
	if err != nil {
		return s.fail(fmt.Errorf("delete what a snapshot contains from log: %w", err))
	}
	last, err := s.LastIndex()
	if err != nil {
		return s.fail(fmt.Errorf("delete what a snapshot contains from log: %w", err))
	}
	if first == 0 || first > index {
		return nil
	}
	return s.DeleteRange(first, min(last, index))
}

// GetLog implements raft.LogStore. An entry that is not what was stored is not
// returned; the digest is checked for those in memory too, since from here
// they go to the other nodes.
func (s *Store) GetLog(index uint64, log *raft.Log) error {
	var found raft.Log
	var err error
	if !s.deferred.get(index, &found) {
		err = s.cache.GetLog(index, &found)
	}
	if err == nil {
		err = verify(&found, index)
	}
	if err == nil {
		*log = found
		return nil
	}
	if errors.Is(err, raft.ErrLogNotFound) && s.justContained(index, log) {
		return nil
	}
	if !errors.Is(err, raft.ErrLogNotFound) {
		err = s.fail(fmt.Errorf("read log entry %d: %w", index, err))
	}
	return err
}

// justContained fills in what is known of the entry before the first, if the
// state contains the log up to there. It can only be the place that others follow on: raft
// sends no entry without having read the one before, which is not there, and applies none twice.
func (s *Store) justContained(index uint64, log *raft.Log) bool {
	if s.contained == nil {
		return false
	}
	reached, term := s.contained()
	first, err := s.FirstIndex()
	if err != nil || index == 0 || index != reached || first > 0 && first != index+1 {
		return false
	}
	*log = raft.Log{Index: index, Term: term, Type: raft.LogNoop}
	return true
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. An entry without a digest is new and
// gets one; one that has it was received, and is refused with ErrCorrupt if it
// is not what its sender stored. Such a refusal is not fatal: this log is
// whole, and the sender checks what it sends.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	beside := s.defers && mayDefer(logs)
	for _, log := range logs {
		if len(log.Data) > MaxEntry {
			return fmt.Errorf("store log entry %d: %d bytes are more than %d", log.Index, len(log.Data), MaxEntry)
		}
		if len(log.Extensions) == 0 {
			stamp(log)
		} else if err := verify(log, log.Index); err != nil {
			return fmt.Errorf("store log entry %d: refused as received: %w", log.Index, err)
		}
	}
	if err := s.settled(); err != nil {
		return err
	}
	if beside {
		s.appendBeside(logs)
		return nil
	}
	return s.append(logs)
}

// append writes logs to the disk.
func (s *Store) append(logs []*raft.Log) error {
	began := time.Since(s.epoch)
	s.appending.Store(int64(began))
	defer s.appending.Store(0)
	defer s.watch("append to log").Stop()
	if err := s.cache.StoreLogs(logs); err != nil {
		// What is on disk is unknown now, and an fsync that failed must not
		// be tried again.
		return s.fail(fmt.Errorf("append to log: %w", err))
	}
	s.onAppend(time.Since(s.epoch) - began)
	return nil
}

// DeleteRange implements raft.LogStore.
func (s *Store) DeleteRange(min, max uint64) error {
	if err := s.settled(); err != nil {
		return err
	}
	defer s.watch("delete from log").Stop()
	if err := s.cache.DeleteRange(min, max); err != nil {
		return s.fail(fmt.Errorf("delete from log: %w", err))
	}
	return nil
}

// Stalled returns how long the append in hand has been running, 0 if there is
// none. A leader whose disk hangs has to keep silent, so that another is
// elected (hashicorp/raft#503).
func (s *Store) Stalled() time.Duration {
	began := s.appending.Load()
	if began == 0 {
		return 0
	}
	return time.Since(s.epoch) - time.Duration(began)
}

func (s *Store) watch(what string) *time.Timer {
	return time.AfterFunc(s.limit, func() {
		_ = s.fail(fmt.Errorf("%s: the write has hung for %v", what, s.limit)) // reported there
	})
}

// Err returns the fatal error, once there is one. From then on nothing is
// written any more.
func (s *Store) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes err the fatal error, unless there is one, and returns it.
func (s *Store) fail(err error) error {
	if !s.closed.Load() && s.failure.CompareAndSwap(nil, &err) {
		s.onFatal(err)
	}
	return err
}

// Verify reads the log from index from (0: from its beginning) to its end. It
// is called before raft is, which panics on an entry that it cannot read.
func (s *Store) Verify(from uint64) error {
	first, err := s.FirstIndex()
	if err != nil {
		return fmt.Errorf("verify log: %w", err)
	}
	last, err := s.LastIndex()
	if err != nil {
		return fmt.Errorf("verify log: %w", err)
	}
	if from == 0 {
		from = first
	}
	if last == 0 || last < from {
		return nil
	}
	if from < first {
		return fmt.Errorf("verify log: %w: it begins with entry %d, entry %d is missing", ErrCorrupt, first, from)
	}
	var term uint64
	for index := from; index <= last; index++ {
		var entry raft.Log
		if err := s.disk.GetLog(index, &entry); errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("verify log: %w: entry %d is missing, the last one is %d", ErrCorrupt, index, last)
		} else if err != nil {
			return fmt.Errorf("verify log: read entry %d: %w", index, err)
		}
		if err := verify(&entry, index); err != nil {
			return fmt.Errorf("verify log: entry %d: %w", index, err)
		}
		if entry.Term < term {
			return fmt.Errorf("verify log: %w: entry %d has term %d, the one before it %d", ErrCorrupt, index, entry.Term, term)
		}
		term = entry.Term
	}
	return nil
}

// Close closes the log. A call that comes later fails, which is not fatal.
func (s *Store) Close() error {
	s.closed.Store(true)
	defer s.deferred.running.Wait()
	if err := errors.Join(s.disk.Backend.Close(), s.disk.mark.Close()); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// disk is the log without its cache.
type disk struct {
	Backend
	mark *mark
}

func (d *disk) IsMonotonic() bool {
	m, ok := d.Backend.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (d *disk) GetLog(index uint64, log *raft.Log) error {
	return guard(func() error { return d.Backend.GetLog(index, log) })
}

func (d *disk) StoreLogs(logs []*raft.Log) error {
	if err := guard(func() error { return d.Backend.StoreLogs(logs) }); err != nil {
		return err
	}
	if len(logs) == 0 {
		return nil
	}
	return d.mark.raise(logs[len(logs)-1].Index)
}

func (d *disk) DeleteRange(from, to uint64) error {
	return guard(func() error {
		first, err := d.FirstIndex()
		if err != nil {
			return err
		}
		last, err := d.LastIndex()
		if err != nil {
			return err
		}
		// Once Forget has emptied the log, raft would have it delete from entry 0.
		from, to = max(from, first), min(to, last)
		if last == 0 || from > to {
			return nil
		}
		switch {
		case to < last:
		case from == first:
			err = d.mark.lower(0)
		default:
			err = d.mark.lower(from - 1)
		}
		if err != nil {
			return err
		}
		return d.Backend.DeleteRange(from, to)
	})
}

// checkReach refuses a log that has lost its end.
func (d *disk) checkReach() error {
	last, err := d.LastIndex()
	if err != nil {
		return err
	}
	if reached := d.mark.reached(); last < reached {
		return fmt.Errorf("%w: it ends with entry %d, but had reached entry %d", ErrCorrupt, last, reached)
	}
	return nil
}

// guard calls f and turns a panic, or a memory fault, into an error. bbolt
// reads through a memory map and follows what it finds there, and raft-wal's
// decoder slices by lengths that it has read: on a damaged file both panic.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}()
	return f()
}
