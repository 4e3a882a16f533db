package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// loadCommand drives a cluster that is running already.
type loadCommand struct {
	Addrs []string `default:"127.0.0.1:8001,127.0.0.1:8002,127.0.0.1:8003" help:"HTTP addresses of the nodes, on loopback; connections are spread over them."`
	Pids  []int    `help:"The servers' process ids, to add up their CPU time."`
	loadOptions
}

// Run drives the cluster. Refusals are part of the result; wrong answers are
// an error.
func (l *loadCommand) Run(ctx context.Context, to streams) error {
	if err := errors.Join(l.check(), checkLoopback(l.Addrs), checkProcesses(l.Pids)); err != nil {
		return err
	}
	failures, err := newBench(l.loadOptions, l.Addrs, l.Pids).run(ctx, to)
	if err != nil {
		return err
	}
	if n := failures[string(wrong)]; n > 0 {
		return fmt.Errorf("%d wrong answers", n)
	}
	return nil
}

// bench runs the cells of one command, one after the other.
type bench struct {
	options  loadOptions
	addrs    []string
	pids     []int
	material *material
	recorded [][]byte // answers to the keys numbered 0 and up, for replays
	charges  bool     // the work is of the service behind the gateway, not POST /create
}

func newBench(options loadOptions, addrs []string, pids []int) *bench {
	return &bench{
		options:  options,
		addrs:    addrs,
		pids:     pids,
		material: newMaterial(rand.Uint64(), options.ValueBytes),
	}
}

// run runs every cell, prints each as it ends, and returns all failures.
// A cell in which nothing succeeded is an error.
func (b *bench) run(ctx context.Context, to streams) (map[string]int64, error) {
	print := tablePrinter(to.out)
	if b.options.JSON {
		print = jsonPrinter(to.out)
	}
	failures := make(map[string]int64)
	number := 0
	for _, work := range b.options.Work {
		if work == workReplay && b.recorded == nil {
			fmt.Fprintf(to.progress, "creating %d keys to replay\n", b.options.Keys)
			if err := b.recordAll(ctx); err != nil {
				return nil, fmt.Errorf("create keys to replay: %w", err)
			}
		}
		for _, connections := range b.options.Connections {
			number++
			c, err := b.runCell(ctx, number, work, connections)
			if err != nil {
				return nil, fmt.Errorf("run %s at %d connections: %w", work, connections, err)
			}
			if err := print(c); err != nil {
				return nil, fmt.Errorf("print result: %w", err)
			}
			for kind, n := range c.Failures {
				failures[kind] += n
			}
			if c.FirstFailure != "" {
				fmt.Fprintf(to.progress, "%s at %d connections, first failure: %s\n", work, connections, c.FirstFailure)
			}
			if c.Operations == 0 {
				return nil, fmt.Errorf("run %s at %d connections: no operation succeeded", work, connections)
			}
		}
	}
	return failures, nil
}
