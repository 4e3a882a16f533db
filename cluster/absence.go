package cluster

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// absences knows whom this leader reaches neither with heartbeats nor with entries or
// snapshots. What else it has for such a peer waits until a heartbeat is answered.
// hashicorp/raft v1.7.3, replicateTo, waits twice as long after each failure, up to 10 s, and
// does not look meanwhile whether the peer answers heartbeats again: who had been away for some
// seconds would hear of no entry for as long again, and be ready only then; and each try of a
// snapshot copies and reads the whole store. As it is, an absence is few failures.
type absences struct {
	running func() *raft.Raft // nil until it has started
	closed  <-chan struct{}
	back    func(raft.ServerID) // told of who was missed and is no longer; nil: nobody is

	mu   sync.Mutex
	away map[raft.ServerID]absence
}

// absence is what has failed since a peer last answered.
type absence struct {
	term                uint64        // of the leader that misses it
	heartbeats, entries bool          // entries: or a snapshot
	over                chan struct{} // closed once it has answered
}

// stillMissed is how often who waits for a peer looks whether it is to be waited for.
const stillMissed = 100 * time.Millisecond

var errWasAway = errors.New("the peer was away: begin anew")

func newAbsences(running func() *raft.Raft, closed <-chan struct{}) *absences {
	return &absences{running: running, closed: closed, away: map[raft.ServerID]absence{}}
}

// note takes in what became of a heartbeat, or else of entries or a snapshot, that a leader sent to id.
func (a *absences) note(id raft.ServerID, term uint64, heartbeat bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, missed := a.away[id]
	if missed && last.term > term {
		return // it comes late
	}
	if missed && (err == nil || last.term < term) {
		close(last.over)
		delete(a.away, id)
		if a.back != nil && last.heartbeats && last.entries {
			a.back(id)
		}
		last = absence{}
	}
	if err == nil {
		return
	}
	if last.over == nil {
		last = absence{term: term, over: make(chan struct{})}
	}
	last.heartbeats = last.heartbeats || heartbeat
	last.entries = last.entries || !heartbeat
	a.away[id] = last
}

// of returns what is closed when id, whom the leader of that term does not reach, has
// answered; or nil if it reaches it.
func (a *absences) of(id raft.ServerID, term uint64) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.away[id]; last.term == term && last.heartbeats && last.entries {
		return last.over
	}
	return nil
}

// misses reports whether this node leads id in a term, and does not reach it.
func (a *absences) misses(id raft.ServerID, term uint64) bool {
	return a.of(id, term) != nil && a.leads(id, term)
}

// await returns once id has answered, or this node is no longer to send it anything, since it
// does not lead in that term, id is no member, or the node closes.
func (a *absences) await(id raft.ServerID, term uint64) {
	for over := a.of(id, term); over != nil && a.leads(id, term); over = a.of(id, term) {
		select {
		case <-over:
		case <-time.After(stillMissed):
		case <-a.closed:
			return
		}
	}
}

// leads reports whether this node leads id in a term.
func (a *absences) leads(id raft.ServerID, term uint64) bool {
	r := a.running()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	is := func(s raft.Server) bool { return s.ID == id }
	return slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, is)
}

// isHeartbeat tells raft's heartbeats from what else a leader sends, which follows on an
// entry or has some (as in hashicorp/raft v1.7.3, NetworkTransport).
func isHeartbeat(sent *raft.AppendEntriesRequest) bool {
	return sent.PrevLogEntry == 0 && sent.PrevLogTerm == 0 && len(sent.Entries) == 0 && sent.LeaderCommitIndex == 0
}
