package cluster

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// checkStarted refuses a data directory that has kept its identity and lost its
// log. The identity alone does not show that log and state were lost: with it,
// and without them, a node would vote and acknowledge anew. So it is marked
// once raft has kept something there.
func (n *Node) checkStarted(stable raft.StableStore) error {
	if started, err := n.ground.Started(); err != nil || !started {
		return err
	}
	if lost, err := n.lost(stable); err != nil {
		return fmt.Errorf("check data directory: %w", err)
	} else if lost {
		return fmt.Errorf("data directory %s has lost its log, or log and state: put them back, or remove %s with `onced node remove %[2]s` on a running node and start this one empty, under a new id, with --join", n.cfg.DataDir, n.cfg.NodeID)
	}
	n.marked = true
	return nil
}

// lost reports whether raft's own files are those of a node that never ran, or
// whether nothing is left of what they tell of. The state alone shows neither:
// after a kill it may be as it was restored or installed, when no log went with
// it yet.
func (n *Node) lost(stable raft.StableStore) (bool, error) {
	ran, err := raft.HasExistingState(n.logs, stable, raft.NewDiscardSnapshotStore())
	if err != nil || !ran {
		return err == nil, err
	}
	last, err := n.logs.LastIndex()
	applied, _ := n.state.Applied()
	return last == 0 && applied == 0, err
}

// markStarted notes that there is something to lose from now on.
func (n *Node) markStarted() error {
	if n.marked {
		return nil
	}
	if err := n.ground.MarkStarted(); err != nil {
		return fmt.Errorf("mark data directory: %w", err)
	}
	n.marked = true
	return nil
}
