package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"time"
)

// Config is what a Transport is started with.
type Config struct {
	// Dir is the node's data directory, open. The transport stores the roster
	// in it and does not close it.
	Dir *Dir
	// NodeID is the node's id; it must be the directory's.
	NodeID string
	// Addr is where peers reach this node, and where it listens.
	Addr string
	// Peers is the whole list of a new cluster, this node included. Empty,
	// without Join: a cluster of one. It is not looked at once there is a roster.
	Peers []Peer
	// Join is the peer address of a member of the cluster that is to admit
	// this node, written as that cluster writes it.
	Join string

	// Listener is used instead of listening on Addr, if it is set.
	Listener net.Listener
	// Listen and Dial make the connections, so that TLS can wrap them. Default:
	// plain TCP.
	Listen func(addr string) (net.Listener, error)
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	// Verify checks that the far end of c may call itself id (by its
	// certificate). Default: no check.
	Verify func(c net.Conn, id string) error
	// PrefaceTimeout is how long either side may take until a connection is
	// accepted, 5 s at most. Default 2 s.
	PrefaceTimeout time.Duration

	// Log takes the node's events; default slog.Default().
	Log *slog.Logger

	// Fields that only tests set.
	maxPending, maxConns int
	pause                func() time.Duration // between rounds of formation
}

const (
	// maxPending bounds the connections that have not been accepted yet, and
	// maxConns all those that peers have made to this node.
	maxPending = 256
	maxConns   = 512

	longestPreface = 5 * time.Second
	// handOver bounds the wait for raft to take an accepted connection.
	handOver = 5 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Listen == nil {
		c.Listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}
	if c.Verify == nil {
		c.Verify = func(net.Conn, string) error { return nil }
	}
	if c.PrefaceTimeout == 0 {
		c.PrefaceTimeout = 2 * time.Second
	}
	c.PrefaceTimeout = min(c.PrefaceTimeout, longestPreface)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.maxPending == 0 {
		c.maxPending = maxPending
	}
	if c.maxConns == 0 {
		c.maxConns = maxConns
	}
	if c.pause == nil {
		c.pause = func() time.Duration { return 100*time.Millisecond + rand.N(400*time.Millisecond) }
	}
	if len(c.Peers) == 0 && c.Join == "" {
		c.Peers = []Peer{{ID: c.NodeID, Addr: c.Addr}}
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Dir == nil || c.Dir.NodeID() != c.NodeID:
		return fmt.Errorf("the data directory is not that of %s", c.NodeID)
	case !validAddr(c.Addr):
		return fmt.Errorf("peer address %q is not host:port", c.Addr)
	case c.Dir.identity().formed():
		return nil
	case c.Join != "" && c.Dir.Seeded():
		return errors.New("the data directory holds a restored backup, which a new cluster may begin with: start with the list of its peers, or join from an empty directory")
	case c.Join != "" && len(c.Peers) > 0:
		return errors.New("both a list of peers and an address to join: use one")
	case c.Join != "":
		if !validAddr(c.Join) {
			return fmt.Errorf("address to join %q is not host:port", c.Join)
		}
		return nil
	}
	if err := checkList(c.Peers); err != nil {
		return fmt.Errorf("list of peers: %w", err)
	}
	if !slices.Contains(c.Peers, Peer{ID: c.NodeID, Addr: c.Addr}) {
		return fmt.Errorf("list of peers: it does not name this node (%s=%s)", c.NodeID, c.Addr)
	}
	return nil
}
