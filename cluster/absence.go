package cluster

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// absences knows whom this leader's heartbeats do not reach. Entries for such a
// peer wait until it has answered one. hashicorp/raft v1.7.3, replicateTo, waits twice
// as long after each failure, up to 10 s, and does not look meanwhile whether the
// peer answers heartbeats again: who had been away for some seconds would hear of no entry
// for as long again, and be ready only then. As it is, the failures of a peer that is away are few.
type absences struct {
	running func() *raft.Raft // nil until it has started
	closed  <-chan struct{}

	mu   sync.Mutex
	away map[raft.ServerID]absence
}

type absence struct {
	term uint64        // of the leader that misses it
	over chan struct{} // closed once it has answered
}

// stillMissed is how often who waits for a peer looks whether it is to be waited for.
const stillMissed = 100 * time.Millisecond

func newAbsences(running func() *raft.Raft, closed <-chan struct{}) *absences {
	return &absences{running: running, closed: closed, away: map[raft.ServerID]absence{}}
}

// note takes in what became of a heartbeat to id.
func (a *absences) note(id raft.ServerID, term uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, missed := a.away[id]
	if missed && (err == nil || last.term != term) {
		close(last.over)
		delete(a.away, id)
		missed = false
	}
	if err != nil && !missed {
		a.away[id] = absence{term, make(chan struct{})}
	}
}

// of returns what ends when id, whom a leader's heartbeats of that term did not reach,
// has answered; or nil if they do.
func (a *absences) of(id raft.ServerID, term uint64) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last, missed := a.away[id]; missed && last.term == term {
		return last.over
	}
	return nil
}

// await returns once id answers heartbeats, or this node is no longer to send it any: it
// does not lead in that term, id is no member, or the node closes.
func (a *absences) await(id raft.ServerID, term uint64) {
	for over := a.of(id, term); over != nil && a.leads(id, term); over = a.of(id, term) {
		look := time.NewTimer(stillMissed)
		select {
		case <-over:
		case <-look.C:
		case <-a.closed:
			return
		}
		look.Stop()
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
