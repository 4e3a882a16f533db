package cluster

import (
	"context"
	"io"
	"net"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/cluster/state"
)

// Ground is what a node stands on: what it keeps, and how it reaches its peers.
// The product's is a data directory and TCP; a simulation brings its own.
// Whatever is opened the node closes.
type Ground interface {
	// Dir opens what the node knows of itself.
	Dir(nodeID string) (*peer.Dir, error)
	// State, Log and Stable open the replicated state, raft's log, and its term
	// and vote.
	State(o state.Options) (*state.State, error)
	Log(o logstore.Options) (*logstore.Store, error)
	Stable() (StableStore, error)
	// Started tells whether MarkStarted was ever called, and that is on disk
	// when it returns.
	Started() (bool, error)
	MarkStarted() error

	// Listen and Dial make the connections with peers; nil is plain TCP.
	Listen() func(addr string) (net.Listener, error)
	Dial() func(ctx context.Context, addr string) (net.Conn, error)
	// RaftTransport carries raft's messages between members that layer lets in.
	RaftTransport(layer raft.StreamLayer, log hclog.Logger) RaftTransport
}

// StableStore keeps raft's term and vote.
type StableStore interface {
	raft.StableStore
	io.Closer
}

// RaftTransport carries raft's messages. Pre-vote is silently off where one
// cannot ask for it.
type RaftTransport interface {
	raft.Transport
	raft.WithPreVote
	io.Closer
}
