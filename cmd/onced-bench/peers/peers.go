// Package peers starts systems that onced is compared with, and speaks to them.
//
// Each keeps a value under a key unless the key has one already. Servers run on
// free loopback ports with their data in a directory of the caller's, each
// with its settings for an answer to be durable.
package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	readyWithin = 30 * time.Second
	readyProbe  = 100 * time.Millisecond // between two looks
)

// Peer is a kind of system.
type Peer struct {
	Name     string
	Majority bool   // an answered create is on the disks of a majority of nodes
	Shared   bool   // one of its connections takes operations of many goroutines at once
	Setting  string // what is run, and how an operation is made

	install func(ctx context.Context, tools Tools) (program string, err error)
	start   func(ctx context.Context, s *System, program, dir string) error
}

// All are the peers there are, in the order they are named in.
var All = []Peer{
	{
		Name: "etcd", Majority: true, Shared: true, install: findEtcd, start: startEtcd,
		Setting: "three nodes; a transaction that puts the key if it has no revision, and gets it (linearizably) otherwise",
	}, {
		Name: "nats", Majority: true, Shared: true, install: findNATS, start: startNATS,
		Setting: "NATS JetStream, three nodes, key-value bucket of three replicas, sync_interval always; create, and get where the key exists",
	}, {
		Name: "postgres", install: findPostgres, start: startPostgres,
		Setting: "PostgreSQL, one node, synchronous_commit on; INSERT … ON CONFLICT DO NOTHING RETURNING, and SELECT on a conflict",
	}, {
		Name: "redis", install: findRedis, start: startRedis,
		Setting: "Redis, one node, appendfsync always; SET NX GET",
	},
}

// Find returns the peer of a name.
func Find(name string) (Peer, error) {
	if i := slices.IndexFunc(All, func(p Peer) bool { return p.Name == name }); i >= 0 {
		return All[i], nil
	}
	return Peer{}, fmt.Errorf("no system is called %q", name)
}

// Install returns the peer's server program, which it gets if it is missing
// and tools allow it to.
func (p Peer) Install(ctx context.Context, tools Tools) (string, error) {
	return p.install(ctx, tools)
}

// Conn is a client's connection to one node. One goroutine at a time uses it, but for one of
// a peer that is Shared.
type Conn interface {
	// Create keeps value under key unless the key has a value. It returns the
	// value the key has then, and whether it is the given one, newly kept.
	Create(ctx context.Context, key string, value []byte) (kept []byte, created bool, err error)
	// Close hangs up.
	Close()
}

// System is a running peer.
type System struct {
	nodes   []*server
	connect func(ctx context.Context, node int) (Conn, error)
	shared  map[int]*sharedConns // by node; see Share
}

// Start starts a new system of the peer with its data under dir, an empty
// directory, and returns once it takes creates on every node. After an error
// nothing is left running.
func (p Peer) Start(ctx context.Context, program, dir string) (*System, error) {
	s := new(System)
	if err := p.start(ctx, s, program, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", p.Name, err), s.Stop())
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", p.Name, err), s.Stop())
	}
	return s, nil
}

// Nodes returns how many nodes take creates.
func (s *System) Nodes() int { return len(s.nodes) }

// Share has all that Connect returns for a node stand for n connections, which take
// turns and stay open until the system is stopped. The peer must be one of those that are
// Shared, and nothing connected yet.
func (s *System) Share(n int) {
	s.shared = make(map[int]*sharedConns)
	for node := range s.nodes {
		s.shared[node] = &sharedConns{conns: make([]Conn, n)}
	}
}

// Connect returns a connection to the node, counted from 0.
func (s *System) Connect(ctx context.Context, node int) (Conn, error) {
	connect := func() (Conn, error) { return s.connect(ctx, node) }
	if shared := s.shared[node]; shared != nil {
		return shared.next(connect)
	}
	return connect()
}

// sharedConns are connections to one node, each opened when it is first needed.
type sharedConns struct {
	mu    sync.Mutex
	conns []Conn
	given int // how many times
}

func (c *sharedConns) next(connect func() (Conn, error)) (_ Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.given % len(c.conns)
	if c.conns[at] == nil {
		if c.conns[at], err = connect(); err != nil {
			return nil, err
		}
	}
	c.given++
	return sharedConn{c.conns[at]}, nil
}

func (c *sharedConns) close() {
	for _, conn := range c.conns {
		if conn != nil {
			conn.Close()
		}
	}
}

// sharedConn is a connection that others use too, so closing it is not for its user.
type sharedConn struct{ Conn }

func (sharedConn) Close() {}

// awaitReady creates a key through each node, again until it is taken.
func (s *System) awaitReady(ctx context.Context) error {
	for node := range s.nodes {
		if err := s.await(ctx, node, func(ctx context.Context) error { return s.tryCreate(ctx, node) }); err != nil {
			return err
		}
	}
	return nil
}

// await tries until it succeeds with a node, one of the servers ends or it
// has taken too long.
func (s *System) await(ctx context.Context, node int, try func(context.Context) error) error {
	limit, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		err := try(limit)
		if err == nil {
			return nil
		}
		if ended := s.Ended(); ended != nil {
			return ended
		}
		select {
		case <-limit.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s is not ready after %s: %w\n%s", s.nodes[node].name, readyWithin, err, s.nodes[node].lastWords())
		case <-time.After(readyProbe):
		}
	}
}

func (s *System) tryCreate(ctx context.Context, node int) error {
	const within = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := s.connect(ctx, node)
	if err != nil {
		return err
	}
	defer c.Close()
	key := fmt.Sprintf("00000000-0000-4000-8000-%012d", node)
	_, _, err = c.Create(ctx, key, []byte(`{}`))
	return err
}

// freePorts returns loopback ports that nothing listens on. They are held
// together, so that they differ, and let go for the servers to take.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find free port: %w", err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
