// Package state keeps the replicated state of a node on disk: it is raft's
// state machine and, since the store is durable by itself, also raft's
// snapshots.
//
// A state directory holds numbered stores, of which the file CURRENT names the
// one that counts. There is more than one only while a snapshot is installed.
package state

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// errClosed is what a call after Close gets.
var errClosed = errors.New("state is closed")

// Options are the settings of a State.
type Options struct {
	// Disk keeps the stores. nil: directories, of Pebble's with its defaults.
	Disk Disk
	// OnChange is told, once they are applied, of the keys whose record left
	// the state claimed, or ended. nil: nobody is told. It and OnApply are
	// called from the goroutine that applies, which waits for them.
	OnChange func([]fsm.Key)
	// OnApply is told of each batch: how many log entries and commands it
	// had, and how long it took. nil: nobody is told.
	OnApply func(entries, commands int, took time.Duration)
	// OnSnapshot is told of each snapshot that was made for raft: how long it
	// took, and how many bytes were written out for it and meanwhile. nil:
	// nobody is told.
	OnSnapshot func(took time.Duration, wrote uint64)
	// OnInstall is told that a snapshot, up to the log entry at index, took the place of the state: any key
	// may have changed. nil: nobody is told.
	OnInstall func(index uint64)
	// OnFatal is told, at most once, that the state can no longer be trusted
	// or written to, and that the node must stop. It must not wait for the
	// state. nil: panic.
	OnFatal func(error)
	// Await returns once the log entry at index is on this node's disk: none is
	// applied before. An error says that it never will be, which whoever keeps
	// the log has reported. nil: all are.
	Await func(index uint64) error
	// Closed is closed when the node stops. Until then an entry that could
	// not be applied is held, so that raft never takes it for applied.
	Closed <-chan struct{}
	// Log takes what is worth an operator's notice. Default: discarded.
	Log *slog.Logger
}

func (o Options) disk() Disk {
	if o.Disk != nil {
		return o.Disk
	}
	return defaultDisk()
}

// State is the state of a node. Apply, ApplyBatch, Snapshot and Restore are
// for raft, which calls one of them at a time; everything else may be called
// by any number of goroutines.
type State struct {
	dir  string
	disk Disk
	opts Options

	// mu guards the fields below. It is held for moments only: who uses the
	// store counts as its user instead, see acquire.
	mu        sync.RWMutex
	live      *store  // nil once closed
	installed uint64  // index of the last snapshot that was installed
	pending   *parcel // received, not yet restored

	// applying is held while entries are applied or raft's place in the log
	// is noted.
	applying sync.Mutex
	applied  atomic.Pointer[position]

	temporaries atomic.Uint64 // numbers the directories made
	installs    atomic.Uint64
	failure     atomic.Pointer[error]
}

type position struct{ index, term uint64 }

// store is an open store with the machine on it.
type store struct {
	number  uint64
	data    Store
	machine *fsm.Machine
	// synced is the machine's state as far as it is known to be on disk.
	synced atomic.Pointer[fsm.Meta]
	users  sync.WaitGroup
}

// leave waits until nobody uses the store any more.
func (l *store) leave() {
	l.users.Wait()
}

var (
	_ raft.BatchingFSM   = (*State)(nil)
	_ raft.SnapshotStore = (*State)(nil)
)

// Open opens the state in dir, which is made if it is missing; its parent must
// exist. What a process that was cut short has left there is removed.
func Open(dir string, o Options) (*State, error) {
	s := &State{dir: dir, disk: o.disk(), opts: o}
	if s.disk == nil {
		return nil, errors.New("open state: this platform has no disk of its own to keep it on")
	}
	if s.opts.Log == nil {
		s.opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := s.disk.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	c, err := s.readCurrent()
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	if err := s.removeLeftovers(c.Store); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	s.temporaries.Store(c.Store)
	if s.live, err = s.openStore(c.Store); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	s.installed = c.Installed
	s.noteApplied(s.live.machine.Meta())
	return s, nil
}

// openStore opens a numbered store to be the live one.
func (s *State) openStore(number uint64) (*store, error) {
	data, machine, err := openMachine(s.disk, s.storeDir(number), StoreOptions{Log: s.opts.Log, OnFatal: s.fail})
	if err != nil {
		return nil, err
	}
	l := &store{number: number, data: data, machine: machine}
	l.synced.Store(machine.Meta()) // what was read at opening is on disk
	return l, nil
}

func openMachine(disk Disk, dir string, o StoreOptions) (Store, *fsm.Machine, error) {
	data, err := disk.Open(dir, o)
	if err != nil {
		return nil, nil, err
	}
	machine, err := fsm.Open(data)
	if err != nil {
		return nil, nil, errors.Join(err, data.Close())
	}
	return data, machine, nil
}

// acquire returns the live store, to be released after use: until then it
// stays open, even if another takes its place.
func (s *State) acquire() (l *store, release func(), err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.live == nil {
		return nil, nil, errClosed
	}
	s.live.users.Add(1)
	return s.live, s.live.users.Done, nil
}

// Applied returns index and term of the last entry that was applied. Raft does
// not show its own entries (no-ops, barriers) to a state machine: they count
// only at Open, and only if a snapshot was taken behind them. So two nodes
// that have applied the same log may differ by them, until the next entry that
// is shown.
func (s *State) Applied() (index, term uint64) {
	p := s.applied.Load()
	return p.index, p.term
}

// Reached returns index and term of the last entry that is contained in the
// state: that of Applied, or one of raft's own behind it. It is 0 once the state is closed.
func (s *State) Reached() (index, term uint64) {
	l, release, err := s.acquire()
	if err != nil {
		return 0, 0
	}
	defer release()
	return l.machine.Reached()
}

func (s *State) noteApplied(m *fsm.Meta) {
	s.applied.Store(&position{m.AppliedIndex, m.AppliedTerm})
}

// Apply implements raft.FSM.
func (s *State) Apply(log *raft.Log) any { return s.ApplyBatch([]*raft.Log{log})[0] }

// ApplyBatch implements raft.BatchingFSM. The response to a command entry is
// its []*fsm.Outcome, nil if it had been applied before.
//
// If the entries cannot be applied the node is told to stop, and the call
// returns, without responses, only when it does: otherwise raft would go on as
// if they had been.
func (s *State) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	if s.opts.Await != nil && len(logs) > 0 && s.opts.Await(logs[len(logs)-1].Index) != nil {
		<-s.opts.Closed
		return responses
	}
	began := time.Now()
	applied, err := s.apply(convert(logs), true)
	if err != nil {
		s.fail(err)
		<-s.opts.Closed
		return responses
	}
	commands := 0
	for i, outcomes := range applied.Outcomes {
		responses[i] = outcomes
		commands += len(outcomes)
	}
	if s.opts.OnChange != nil && len(applied.Changed) > 0 {
		s.opts.OnChange(applied.Changed)
	}
	if s.opts.OnApply != nil {
		s.opts.OnApply(len(logs), commands, time.Since(began))
	}
	return responses
}

func convert(logs []*raft.Log) []fsm.LogEntry {
	entries := make([]fsm.LogEntry, len(logs))
	for i, log := range logs {
		entries[i] = fsm.LogEntry{Index: log.Index, Term: log.Term}
		if log.Type == raft.LogConfiguration {
			entries[i].Configuration = log.Data
		} else {
			entries[i].Data = log.Data
		}
	}
	return entries
}

// apply applies entries; shown are those that raft has shown to the machine.
func (s *State) apply(entries []fsm.LogEntry, shown bool) (fsm.Applied, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	// After an entry that could not be applied no later one may be.
	if err := s.failed(); err != nil {
		return fsm.Applied{}, err
	}
	l, release, err := s.acquire()
	if err != nil {
		return fsm.Applied{}, err
	}
	defer release()
	applied, err := l.machine.Apply(entries)
	if err != nil {
		return fsm.Applied{}, err
	}
	if shown {
		s.noteApplied(l.machine.Meta())
	}
	return applied, nil
}

// fail reports err as fatal, unless the state is only closed.
func (s *State) fail(err error) {
	if errors.Is(err, errClosed) || !s.failure.CompareAndSwap(nil, &err) {
		return
	}
	if s.opts.OnFatal == nil {
		panic(err)
	}
	s.opts.OnFatal(err)
}

func (s *State) failed() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Size returns the bytes that the state takes on disk.
func (s *State) Size() int64 {
	l, release, err := s.acquire()
	if err != nil {
		return 0
	}
	defer release()
	return l.data.Size()
}

// Flushed returns the bytes that the store wrote out from memory since it was
// opened, 0 if it does not say.
func (s *State) Flushed() uint64 {
	l, release, err := s.acquire()
	if err != nil {
		return 0
	}
	defer release()
	if counting, ok := l.data.(interface{ Flushed() uint64 }); ok {
		return counting.Flushed()
	}
	return 0
}

// Compactions returns how many compactions of the store have ended since it
// was opened, 0 if it does not say.
func (s *State) Compactions() int64 {
	l, release, err := s.acquire()
	if err != nil {
		return 0
	}
	defer release()
	if counting, ok := l.data.(interface{ Compactions() int64 }); ok {
		return counting.Compactions()
	}
	return 0
}

// Installs returns how many snapshots of a leader were installed since Open.
func (s *State) Installs() uint64 { return s.installs.Load() }

// Close writes out what is in memory, unless the state has failed, and closes
// it. Raft must have ended.
func (s *State) Close() error {
	s.mu.Lock()
	l := s.live
	s.live = nil
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	if l.data.Halted() {
		return nil // it was reported; some of its users may never return
	}
	l.leave()
	if hurrying, ok := l.data.(interface{ Hurry() }); ok {
		hurrying.Hurry()
	}
	var err error
	if s.failed() == nil {
		err = l.data.Sync()
	}
	if err = errors.Join(err, l.data.Close()); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}
