package main

import (
	"context"
	"net"

	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/load"
)

// target is a cluster that can be broken.
type target interface {
	// nodes are where clients reach it, through dial.
	nodes() []load.Node
	dial(ctx context.Context, network, addr string) (net.Conn, error)
	// kinds are the faults that there are, each once.
	kinds() []string
	// plan returns the faults of a run, the same for the same seed.
	plan(seed uint64, kinds []string) planner
	// inject does one fault and heals it, and says what came of it.
	inject(ctx context.Context, s step, clock func() history.Nano) *history.Fault
	// heal has every node run, and every link and disk work.
	heal(ctx context.Context) error
	// stop stops every node; none may have ended by itself.
	stop() error
}

// step is one fault that is planned.
type step interface {
	// String names it, and what it is done to.
	String() string
}

// planner returns the faults of a run, one after the other.
type planner func() step
