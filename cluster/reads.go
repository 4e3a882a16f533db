package cluster

import (
	"github.com/google/uuid"

	"github.com/onced/onced/fsm"
)

// The reads below answer from this node's applied state alone; after a Barrier
// they see everything that was committed before it.

// Lookup returns the record of a key as this node has it, or nil.
func (n *Node) Lookup(namespace, key string) (*fsm.Record, error) {
	return n.state.Lookup(namespace, key)
}

// List returns a page of records in the order of their keys, and whether there
// are more.
func (n *Node) List(namespace string, q fsm.ListQuery) ([]fsm.Listed, bool, error) {
	return n.state.Records(namespace, q)
}

// Resource returns a resource as this node has it, or nil.
func (n *Node) Resource(namespace, id string) (*fsm.Resource, error) {
	return n.state.Resource(namespace, id)
}

// Resources returns a page of resources in the order of their ids, and whether
// there are more.
func (n *Node) Resources(namespace, after string, limit int) ([]fsm.ListedResource, bool, error) {
	return n.state.Resources(namespace, after, limit)
}

// Meta returns what the state machine knows beside the records.
func (n *Node) Meta() *fsm.Meta { return n.state.Meta() }

// Hash returns the digest of the whole logical state: equal on all nodes that
// have applied the same entries.
func (n *Node) Hash() ([32]byte, error) { return n.state.Hash() }

func clusterIDString(id []byte) string {
	u, err := uuid.FromBytes(id)
	if err != nil {
		return ""
	}
	return u.String()
}
