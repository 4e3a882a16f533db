package cluster

import (
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// foresight is raft's connections, to members too whose admission this node has
// stored and not applied.
//
// Raft goes by the latest configuration in its log, and the table of members by
// what is applied. If the leader is lost in between, the others may need the
// vote of a member that their tables do not have, and nothing is applied before
// there is a leader. So the log is asked. It can be trusted: a node is made a
// voter only after its admission was applied, which comes before in the same
// log, and so is committed wherever the configuration is stored.
type foresight struct {
	raft.StreamLayer
	node *Node
}

// Dial connects to the server of raft's that is at address.
func (f foresight) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if !f.node.peers.Knows(string(address)) {
		m, err := f.node.foreseen(address)
		if err == nil && m != nil {
			err = f.node.peers.Expect(m)
		}
		if err != nil {
			return nil, fmt.Errorf("dial %s for raft: look for its admission in the log: %w", address, err)
		}
	}
	return f.StreamLayer.Dial(address, timeout)
}

// foreseen returns the member that the log is about to put at address, nil if
// raft's latest configuration has none there, or that is applied.
func (n *Node) foreseen(address raft.ServerAddress) (*fsm.Member, error) {
	meta := n.state.Meta()
	id, until, err := n.configuredAt(address, meta.AppliedIndex)
	if err != nil || until == 0 {
		return nil, err
	}
	for index := meta.AppliedIndex + 1; index < until; index++ {
		var entry raft.Log
		if err := n.logs.GetLog(index, &entry); err != nil {
			return nil, err
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		if meta, err = fsm.Foresee(meta, entry.Data); err != nil {
			return nil, err
		}
	}
	for _, m := range meta.Members {
		if m.Id == string(id) && m.RaftAddr == string(address) {
			return m, nil
		}
	}
	return nil, nil
}

// configuredAt returns which server the last configuration in the log behind
// applied has at address, and the index of that configuration; 0 if it has none
// there.
func (n *Node) configuredAt(address raft.ServerAddress, applied uint64) (raft.ServerID, uint64, error) {
	index, err := n.logs.LastIndex()
	for ; err == nil && index > applied; index-- {
		var entry raft.Log
		if err = n.logs.GetLog(index, &entry); err != nil || entry.Type != raft.LogConfiguration {
			continue
		}
		for _, s := range raft.DecodeConfiguration(entry.Data).Servers {
			if s.Address == address {
				return s.ID, index, nil
			}
		}
		break
	}
	return "", 0, err
}
