package cluster

import (
	"sync"

	"github.com/hashicorp/raft"
)

// leadership follows who leads, for those who wait for a change of it.
type leadership struct {
	mu      sync.Mutex
	id      string
	changed chan struct{} // closed at the next change
	changes uint64
}

// leader returns the leader's id, "" while none is known, and a channel that
// is closed when that is no longer so.
func (l *leadership) leader() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.changed
}

func (l *leadership) set(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.id {
		return false
	}
	l.id = id
	if id != "" {
		l.changes++
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// follow keeps l up to date from raft's observations until the node stops.
func (n *Node) follow() {
	seen := make(chan raft.Observation, 64)
	obs := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(obs)
	n.goes(func() {
		defer n.raft.DeregisterObserver(obs)
		for {
			_, id := n.raft.LeaderWithID()
			if n.leadership.set(string(id)) {
				n.met.leaderChanges.Inc()
				n.log.Debug("leader changed", "leader", id)
			}
			select {
			case <-seen:
			case <-n.stopped:
				return
			}
		}
	})
}
