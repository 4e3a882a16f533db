package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// handovers remembers to whom this node has tried in vain to hand leadership.
//
// It is what keeps hashicorp/raft v1.7.3, leadershipTransfer, from blocking for
// ever. That function asks the goroutine that replicates to the target to catch
// up, through a channel of depth 1, and does not look meanwhile whether it is to
// stop. A try that timed out may have left its request there, and a second then
// waits until that is taken: in a backoff, or behind an RPC that hangs. All that
// time this leader refuses every entry. If it steps down meanwhile nobody takes
// the request any more, the transfer counts as in progress for ever, and entries
// are refused whenever this node leads again.
//
// A first try always finds room: the channel is made anew in each term. So in a
// term nobody is tried twice, unless long after, nor who is away: nothing is taken for that one.
type handovers struct {
	mu    sync.Mutex
	tried map[raft.ServerID]try
}

type try struct {
	term uint64
	at   time.Time // when it ended, or began if it has not
}

// handOverAgain is when the request of a try that failed has been taken, even by
// a goroutine that was in raft's longest backoff (10 s) and then in an RPC (5 s); or, if it
// waited for the heir, so long after that is back.
const handOverAgain = 20 * time.Second

// begin reports whether id may be tried in a term, and begins that.
func (h *handovers) begin(id raft.ServerID, term uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wasTried(id, term) {
		return false
	}
	h.tried[id] = try{term, time.Now()}
	return true
}

// may reports whether id may be tried in a term.
func (h *handovers) may(id raft.ServerID, term uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.wasTried(id, term)
}

func (h *handovers) wasTried(id raft.ServerID, term uint64) bool {
	last, ok := h.tried[id]
	return ok && last.term == term && time.Since(last.at) < handOverAgain
}

// postpone is told that id, who was away, answers again.
func (h *handovers) postpone(id raft.ServerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last, ok := h.tried[id]; ok {
		h.tried[id] = try{last.term, time.Now()}
	}
}

// end takes in how a try of id ended, and in which term.
func (h *handovers) end(id raft.ServerID, term uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil || errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		delete(h.tried, id) // it left nothing, or was none
		return
	}
	h.tried[id] = try{term, time.Now()}
}

var (
	errTried  = fmt.Errorf("leadership could not be handed on a moment ago: name another voter, or try again in %v", handOverAgain)
	errNoHeir = errors.New("there is no other voter")
	errAway   = errors.New("the voter does not answer, or no other one does: start it, or name another")
	errLags   = errors.New("the voter has not caught up, or no other one has: try again later, or name another")
)

// caughtUpWithin bounds the wait for an heir. Raft usually asks who is away again within 1 s,
// and a ping then says how far that one is. Meanwhile entries are taken, which they are not
// while raft waits for an heir to catch up.
const caughtUpWithin = 3 * time.Second

// handOver hands leadership to the voter to, or with to "" to the best heir, once
// it has answered after the call and has applied what this node had at the call. The error is
// raft's, errMoved if this node no longer leads, or says why there is no heir.
func (n *Node) handOver(ctx context.Context, to raft.ServerID) error {
	heirs, err := n.awaitHeirs(ctx, to)
	if err != nil {
		return err
	}
	return n.tryHeirs(ctx, heirs)
}

// tryHeirs tries the first heir that was not tried already.
func (n *Node) tryHeirs(ctx context.Context, heirs []raft.Server) error {
	for _, heir := range heirs {
		if n.handovers.begin(heir.ID, n.raft.CurrentTerm()) {
			err := awaitContext(ctx, n.raft.LeadershipTransferToServer(heir.ID, heir.Address), n.stopped)
			n.handovers.end(heir.ID, n.raft.CurrentTerm(), err)
			return err
		}
	}
	return errTried
}

// awaitHeirs waits until there are fit heirs, and returns them.
func (n *Node) awaitHeirs(ctx context.Context, to raft.ServerID) ([]raft.Server, error) {
	called := time.Now()
	target, _ := n.state.Applied()
	tick := time.NewTicker(stillMissed)
	defer tick.Stop()
	late := time.After(caughtUpWithin)
	for {
		heirs, err := n.fitHeirs(to, called, target)
		switch {
		case n.raft.State() != raft.Leader:
			return nil, errMoved
		case err == nil, errors.Is(err, errNoHeir), errors.Is(err, errTried):
			return heirs, err
		}
		select {
		case <-tick.C:
		case <-late:
			return nil, err
		case <-ctx.Done():
			return nil, err
		case <-n.stopped:
			return nil, errStopped
		}
	}
}

// fitHeirs returns the voters that may be tried, have answered since, and have applied
// target, the best first; or with to the one of that id, if so. Else the error says what there
// is not: the one of the voter that is nearest to be fit.
func (n *Node) fitHeirs(to raft.ServerID, since time.Time, target uint64) (fit []raft.Server, err error) {
	err = errNoHeir
	term := n.raft.CurrentTerm()
	for _, heir := range n.heirs() {
		last := n.contacts.get(string(heir.ID))
		switch {
		case to != "" && heir.ID != to:
		case !n.handovers.may(heir.ID, term):
			if errors.Is(err, errNoHeir) {
				err = errTried
			}
		case n.raftTrans.absent.misses(heir.ID, term) || last.at.Before(since):
			if !errors.Is(err, errLags) {
				err = errAway
			}
		case last.applied < target:
			err = errLags
		default:
			fit = append(fit, heir)
		}
	}
	if len(fit) > 0 {
		return fit, nil
	}
	return nil, err
}

// heirs are the other voters: first those that answer, and of these first those
// that are furthest along.
func (n *Node) heirs() []raft.Server {
	heirs := slices.DeleteFunc(slices.Clone(n.servers()), func(s raft.Server) bool {
		return s.Suffrage != raft.Voter || string(s.ID) == n.cfg.NodeID
	})
	rank := func(s raft.Server) uint64 {
		last := n.contacts.get(string(s.ID))
		if time.Since(last.at) > pingTimeout+pingEvery {
			return 0
		}
		return last.applied + 1
	}
	slices.SortStableFunc(heirs, func(a, b raft.Server) int { return cmp.Compare(rank(b), rank(a)) })
	return heirs
}
