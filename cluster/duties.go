package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

const (
	// pingEvery is how often the leader hears every clock and tells its time.
	pingEvery = 100 * time.Millisecond
	// sweepEvery is how often the leader looks for records that are due.
	sweepEvery = 250 * time.Millisecond
)

// lead runs the leader's duties whenever this node leads, until the node
// stops. raft.LeaderCh keeps only the newest transition: two gains in a row
// mean that leadership was lost in between, so every gain starts afresh.
func (n *Node) lead() {
	n.goes(func() {
		stop := func() {}
		defer func() { stop() }()
		for {
			select {
			case leads := <-n.raft.LeaderCh():
				stop()
				stop = func() {}
				if leads {
					stop = n.startDuties()
				}
			case <-n.stopped:
				return
			}
		}
	})
}

// startDuties begins the duties of one term and returns what ends them and
// waits.
func (n *Node) startDuties() (stop func()) {
	ctx, cancel := context.WithCancel(n.context)
	var running sync.WaitGroup
	n.clock.reset()
	n.current.Store(false)
	running.Go(func() { n.keepTime(ctx) })
	running.Go(func() { n.keepSwept(ctx) })
	return func() {
		cancel()
		n.proposer.setOpen(false) // what waits is sent back at once
		running.Wait()
		n.proposer.setOpen(false)
	}
}

// keepTime hears the clocks, and begins to propose once a majority of them is
// known.
func (n *Node) keepTime(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	n.pingVoters(ctx)
	for open := false; ; {
		if _, ok := n.clock.stamp(); ok && !open {
			n.proposer.setOpen(true)
			open = true
			n.pingVoters(ctx) // the others learn the time at once
		}
		select {
		case <-n.clockHeard:
		case <-tick.C:
			n.pingVoters(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// keepSwept binds the cluster, and then expires what is due.
//
// It begins with an entry of its own: raft's no-op is not shown to the state
// machine, and without one a follower could seem behind for ever. Once that is
// applied, so is all that was committed in terms before.
func (n *Node) keepSwept(ctx context.Context) {
	for {
		if _, err := n.Propose(ctx, &fsm.Command{Kind: fsm.Kind_READ}); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
	}
	n.current.Store(true)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if n.bound() {
			n.raiseLevel(ctx)
			n.sweep(ctx)
		} else {
			n.bind(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pingVoters hears the clock of every other server, and tells each the
// cluster time, without waiting for those that do not answer.
func (n *Node) pingVoters(ctx context.Context) {
	var voters []string
	servers := n.servers()
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, string(s.ID))
		}
	}
	n.clock.setVoters(voters)
	now, ok := n.clock.stamp()
	// After a start the leader may have applied little of its log yet. Until it
	// has come to its own term, nobody has caught up by being as far.
	var applied uint64
	if n.current.Load() {
		applied, _ = n.state.Applied()
	}
	if ok {
		n.clock.hear(now)
		n.ready.leaderApplied(applied)
	}
	for _, s := range servers {
		id := string(s.ID)
		if id == n.cfg.NodeID || !n.pinging.begin(id) {
			continue
		}
		n.goes(func() {
			defer n.pinging.end(id)
			p := ping{From: n.cfg.NodeID, Leader: ok, Time: now, Applied: applied}
			answer, err := n.pingPeer(ctx, id, p)
			if err == nil {
				n.clock.read(id, answer.Wall)
				select {
				case n.clockHeard <- struct{}{}:
				default:
				}
			}
		})
	}
}

// servers returns raft's latest configuration.
func (n *Node) servers() []raft.Server {
	return n.raft.GetConfiguration().Configuration().Servers
}

// raftIfRunning is raft, or nil for those who come before it has started.
func (n *Node) raftIfRunning() *raft.Raft {
	select {
	case <-n.running:
		return n.raft
	default:
		return nil
	}
}

// bind proposes the entry that names the cluster and its nodes, once every
// listed node has stored that roster. Until then no client command is
// accepted, so a node that is wiped meanwhile loses nothing acknowledged.
func (n *Node) bind(ctx context.Context) {
	clusterID, members := n.peers.Roster()
	for _, m := range members {
		if m.Id != n.cfg.NodeID && !n.peers.Formed(ctx, m) {
			return
		}
	}
	o, err := n.Propose(ctx, &fsm.Command{Kind: fsm.Kind_BIND, ClusterId: clusterID, Members: members})
	switch {
	case err != nil && !errors.Is(err, ErrUnavailable):
		n.log.Error("bind cluster", "err", err)
	case err == nil && o.Code != fsm.Code_OK:
		n.log.Error("bind cluster", "err", o.Reason)
	}
}

// raiseLevel raises the feature level to the highest that every member
// supports. What is gated on a level is used only from that entry on, and a
// binary below it refuses to start.
func (n *Node) raiseLevel(ctx context.Context) {
	meta := n.state.Meta()
	level := fsm.FeatureLevel
	if meta.FeatureLevel >= level {
		return
	}
	for _, m := range meta.Members {
		if m.Id == n.cfg.NodeID {
			continue
		}
		answer, err := n.pingPeer(ctx, m.Id, ping{From: n.cfg.NodeID})
		if err != nil {
			return // asked again at the next tick
		}
		level = min(level, answer.Level)
	}
	if level > meta.FeatureLevel {
		_, _ = n.Propose(ctx, &fsm.Command{Kind: fsm.Kind_FEATURE_LEVEL, Level: level})
	}
}

// watchClock says loudly, once a minute, when this node's clock is far off.
func (n *Node) watchClock() {
	n.goes(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		var said time.Time
		for {
			select {
			case <-tick.C:
			case <-n.stopped:
				return
			}
			skew, ok := n.clock.skew()
			if !ok || skew.Abs() <= n.cfg.MaxClockSkew || time.Since(said) < time.Minute {
				continue
			}
			said = time.Now()
			n.log.Warn("this node's clock is far from the majority's: nothing ends early by it, but its replays cost a commit; set the clock",
				"ahead", skew.Round(time.Millisecond), "allowed", n.cfg.MaxClockSkew)
		}
	})
}
