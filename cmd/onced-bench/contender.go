package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/onced/onced/cmd/onced-bench/peers"
)

// contender is a system that is compared. It is started anew for each round.
type contender interface {
	name() string
	majority() bool // an answer is on the disks of a majority
	setting() string
	start(ctx context.Context, dir string) error
	stop() error
	pids() []int
	nodes() int
	// dial returns a connection to a node, which may dial with its first operation.
	dial(ctx context.Context, b *bench, node int) (client, error)
}

// client is a connection of the load to a contender. hangUp may be called
// beside none, abort beside all of the others.
type client struct {
	create, replay, record operation
	abort, hangUp          func()
}

type oncedContender struct {
	program string
	flags   []string
	cluster *localCluster
}

func (o *oncedContender) name() string    { return oncedName }
func (o *oncedContender) majority() bool  { return true }
func (o *oncedContender) setting() string { return "three nodes; POST /create" }
func (o *oncedContender) stop() error     { return o.cluster.stop() }
func (o *oncedContender) pids() []int     { return o.cluster.pids() }
func (o *oncedContender) nodes() int      { return clusterSize }

func (o *oncedContender) start(ctx context.Context, dir string) (err error) {
	o.cluster, err = startCluster(ctx, o.program, dir, "", o.flags)
	return err
}

func (o *oncedContender) dial(_ context.Context, b *bench, node int) (client, error) {
	c := newConn(o.cluster.addrs()[node:node+1], 0, b.options.Timeout)
	operator := b.newOperator(c)
	return client{operator.create, operator.replay, operator.record, c.abort, c.hangUp}, nil
}

type peerContender struct {
	peer    peers.Peer
	program string
	version string
	shared  int // connections a node that all operations share; 0: each has its own
	system  *peers.System
}

func (p *peerContender) name() string   { return p.peer.Name }
func (p *peerContender) majority() bool { return p.peer.Majority }
func (p *peerContender) stop() error    { return p.system.Stop() }
func (p *peerContender) pids() []int    { return p.system.Pids() }
func (p *peerContender) nodes() int     { return p.system.Nodes() }

func (p *peerContender) setting() string {
	setting := p.peer.Setting
	if p.shared > 0 {
		setting += fmt.Sprintf("; %d connections a node, which all operations share", p.shared)
	}
	return setting + " (" + p.version + ")"
}

func (p *peerContender) start(ctx context.Context, dir string) (err error) {
	if p.system, err = p.peer.Start(ctx, p.program, dir); err == nil && p.shared > 0 {
		p.system.Share(p.shared)
	}
	return err
}

func (p *peerContender) dial(ctx context.Context, b *bench, node int) (client, error) {
	limit, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	c, err := p.system.Connect(limit, node)
	if err != nil {
		return client{}, err
	}
	o := &peerOperator{conn: c, material: b.material, timeout: b.options.Timeout, keys: uint64(b.options.Keys)}
	return client{o.create, o.replay, o.record, func() {}, c.Close}, nil // the context of an operation aborts it
}

// peerOperator runs operations on one connection to a peer.
type peerOperator struct {
	conn     peers.Conn
	material *material
	timeout  time.Duration
	keys     uint64
	key      []byte
	value    []byte
}

func (o *peerOperator) create(ctx context.Context, number uint64) (outcome, error) {
	created, result, err := o.run(ctx, number)
	if result == done && !created {
		return wrong, errors.New("a new key had a value")
	}
	return result, err
}

func (o *peerOperator) replay(ctx context.Context, number uint64) (outcome, error) {
	created, result, err := o.run(ctx, number%o.keys)
	if result == done && created {
		return wrong, errors.New("a recorded key had no value")
	}
	return result, err
}

func (o *peerOperator) record(ctx context.Context, number uint64) (outcome, error) {
	_, result, err := o.run(ctx, number)
	return result, err
}

// run creates a number's key, and checks that it has the number's value.
func (o *peerOperator) run(ctx context.Context, number uint64) (created bool, result outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	o.key = o.material.appendKey(o.key[:0], number)
	o.value = o.material.appendData(o.value[:0], number)
	kept, created, err := o.conn.Create(ctx, string(o.key), o.value)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return false, timedOut, err
	case err != nil:
		return false, connectionError, err
	case !bytes.Equal(kept, o.value):
		return false, wrong, fmt.Errorf("kept %.200q, sent was %.200q", kept, o.value)
	}
	return created, done, nil
}

// dialAll returns connections spread over the contender's nodes.
func (b *bench) dialAll(ctx context.Context, to contender, n int) ([]client, error) {
	var clients []client
	for i := range n {
		c, err := to.dial(ctx, b, i%to.nodes())
		if err != nil {
			for _, open := range clients {
				open.hangUp()
			}
			return nil, err
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// elsewhere returns the key that a replay repeats: one of those recorded by
// another node than the connection's, where there are several.
func elsewhere(turn, node, nodes, keys uint64) uint64 {
	if nodes == 1 || keys < nodes {
		return turn % keys
	}
	others := nodes - 1
	groups := keys / nodes
	return turn/others%groups*nodes + (node+1+turn%others)%nodes
}

// compareCell runs one kind of work at one number of connections.
func (b *bench) compareCell(ctx context.Context, on contender, cellNumber int, work string, connections int) (cell, error) {
	clients, err := b.dialAll(ctx, on, connections)
	if err != nil {
		return cell{}, err
	}
	defer context.AfterFunc(ctx, func() {
		for _, c := range clients {
			c.abort()
		}
	})()
	from := time.Now().Add(b.options.Warmup)
	t := newTally(from, from.Add(b.options.Duration))
	var workers sync.WaitGroup
	for i, c := range clients {
		// Zero is the cell of the keys that are replayed.
		w := &worker{operate: c.create, tally: t, number: uint64(cellNumber)<<48 | uint64(i)<<32}
		if work == workReplay {
			node, nodes, keys := uint64(i%on.nodes()), uint64(on.nodes()), uint64(b.options.Keys)
			w.number = uint64(i) * keys / uint64(connections)
			w.operate = func(ctx context.Context, turn uint64) (outcome, error) {
				return c.replay(ctx, elsewhere(turn, node, nodes, keys))
			}
		}
		workers.Go(func() {
			defer c.hangUp()
			w.closedLoop(ctx)
		})
	}
	spent, err := b.observe(ctx, t.from, t.to)
	workers.Wait()
	if err != nil {
		return cell{}, err
	}
	return b.report(work, connections, t, spent), nil
}

// keepAll creates the keys that are replayed, each through the node of its
// number.
func (b *bench) keepAll(ctx context.Context, on contender) error {
	const connections = 63 // a multiple of the nodes there may be
	b.recorded = make([][]byte, b.options.Keys)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clients, err := b.dialAll(ctx, on, connections)
	if err != nil {
		return err
	}
	var workers sync.WaitGroup
	for i, c := range clients {
		workers.Go(func() {
			defer c.hangUp()
			for number := i; number < b.options.Keys; number += connections {
				if result, detail := c.record(ctx, uint64(number)); result != done {
					cancel(fmt.Errorf("create key %d: %w", number, detail))
					return
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
