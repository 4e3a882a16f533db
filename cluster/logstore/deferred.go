package logstore

import (
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// deferred is the append that goes on while its entries are sent to the other
// nodes already (Ongaro, "Consensus: Bridging Theory and Practice", 10.2.1: the
// leader's disk writes in parallel). There is one at a time: whatever else
// changes the log waits for it.
//
// Raft counts the leader among those that hold an entry as soon as StoreLogs
// returns, so an entry may count as committed that is not on the leader's disk.
// It must have no consequence until it is: see Await, Settle and Known.
type deferred struct {
	mu      sync.Mutex
	now     *pending // nil: none
	running sync.WaitGroup
}

// pending is an append that has not ended well: it goes on, or it failed, and
// then stays for ever.
type pending struct {
	logs  []*raft.Log
	ended chan struct{}
	err   error // set before ended is closed
}

func (p *pending) first() uint64 { return p.logs[0].Index }
func (p *pending) last() uint64  { return p.logs[len(p.logs)-1].Index }

// mayDefer reports whether logs are commands of this node's own as the leader.
// Raft's own entries, its configurations above all, take effect in raft itself,
// where nothing could wait for them.
func mayDefer(logs []*raft.Log) bool {
	for _, log := range logs {
		if log.Type != raft.LogCommand || len(log.Extensions) != 0 {
			return false
		}
	}
	return len(logs) > 0
}

func (d *deferred) current() *pending {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// get copies the entry at index to log, if it is being appended.
func (d *deferred) get(index uint64, log *raft.Log) bool {
	p := d.current()
	if p == nil || index < p.first() || index > p.last() {
		return false
	}
	*log = *p.logs[index-p.first()]
	return true
}

// appendBeside begins to append logs and returns.
func (s *Store) appendBeside(logs []*raft.Log) {
	d, p := &s.deferred, &pending{logs: logs, ended: make(chan struct{})}
	d.mu.Lock()
	d.now = p
	d.mu.Unlock()
	d.running.Go(func() {
		if p.err = s.append(logs); p.err == nil {
			d.mu.Lock()
			d.now = nil
			d.mu.Unlock()
		}
		close(p.ended)
	})
}

// errStopped is what Await says when it stops waiting.
var errStopped = errors.New("stopped while an entry was not on disk yet")

// Await returns once the entry at index is on disk, or else why it may never
// be, which is no fatal error of the log where stop was closed. No entry may be
// applied before.
func (s *Store) Await(index uint64, stop <-chan struct{}) error {
	p := s.deferred.current()
	if p == nil || index < p.first() {
		return nil
	}
	select {
	case <-p.ended:
		return p.err
	case <-stop:
		return errStopped
	}
}

// Settle returns once all that is in the log is on disk, or when stop is
// closed. Nothing that a peer sent may reach raft before: its answer would tell
// the peer that this node holds what it has.
func (s *Store) Settle(stop <-chan struct{}) {
	p := s.deferred.current()
	if p == nil {
		return
	}
	select {
	case <-p.ended:
		if p.err != nil {
			<-stop
		}
	case <-stop:
	}
}

// Known returns how far peers may be told that the log is committed, where raft
// says commit: entries that are not on disk here do not count yet.
func (s *Store) Known(commit uint64) uint64 {
	if p := s.deferred.current(); p != nil && p.first() <= commit {
		return p.first() - 1
	}
	return commit
}

// settled waits for the append under way, and returns why nothing may be
// written any more.
func (s *Store) settled() error {
	if p := s.deferred.current(); p != nil {
		<-p.ended
		if p.err != nil {
			return p.err
		}
	}
	return s.Err()
}
