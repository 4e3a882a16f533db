//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onced/onced/chaos/fault"
	"github.com/onced/onced/chaos/measure"
)

// measureCommand takes figures.
type measureCommand struct {
	Failover  failoverCommand  `cmd:"" help:"How long clients of the surviving nodes are without a success when the leader is lost, and the failures they see."`
	Rolling   rollingCommand   `cmd:"" help:"What clients see while every node is restarted, one after the other."`
	Recovery  recoveryCommand  `cmd:"" help:"How long a cluster takes to be back when all nodes were killed, by its number of keys."`
	PowerCuts powerCutsCommand `cmd:"" help:"What cutting the power of all nodes takes of the acknowledged, and what it takes of a onced that does not sync. Needs root."`
}

// laboratory is what every measurement is made on.
type laboratory struct {
	Loopback    bool     `help:"Run the nodes on loopback, without hosts and disks of their own: needs no root, and cannot cut links or power. Without root it is so in any case."`
	Onced       string   `placeholder:"FILE" help:"The onced to measure. Default: it is built from the source in the working directory."`
	RaftProfile string   `default:"lan" enum:"lan,wan" help:"--raft-profile of every node."`
	Flags       []string `placeholder:"FLAG" sep:"none" help:"A further flag for every node, as --flags=--log-store=bolt; may be given several times."`
	JSON        bool     `name:"json" help:"Print the figures as JSON."`
}

// measured is what is done to a running cluster.
type measured func(context.Context, *fault.Cluster) error

// on builds onced with tags, unless a binary is given, starts a fresh cluster of
// it and does what is to be measured. Only an error leaves something behind: the
// last that each node said is in it.
func (l *laboratory) on(ctx context.Context, binary, tags string, to streams, do measured) (err error) {
	scratch, err := os.MkdirTemp("", "onced-measure-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if binary == "" {
		binary = filepath.Join(scratch, "onced")
		fmt.Fprintln(to.progress, strings.TrimSpace("building onced "+tags))
		if out, err := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", binary, "github.com/onced/onced/cmd/onced").CombinedOutput(); err != nil {
			return fmt.Errorf("build onced: %w\n%s", err, out)
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return fmt.Errorf("find onced: %w", err)
	}
	if os.Geteuid() != 0 {
		l.Loopback = true
	}
	c, err := fault.New(ctx, fault.Options{Binary: binary, Dir: scratch, Loopback: l.Loopback, DiskSize: measuredDisk})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, lastWords(c))
		}
	}()
	fmt.Fprintf(to.progress, "starting %d nodes\n", len(c.Nodes))
	if err := c.Start(ctx, append([]string{"--raft-profile", l.RaftProfile}, l.Flags...)...); err != nil {
		return err
	}
	return do(ctx, c)
}

// measuredDisk is the size of each node's disk, in bytes; it takes only what is
// written. Each change of leader may begin a log file of 64 MiB.
const measuredDisk = 16 << 30

// lastWords is an error with what each node said last.
func lastWords(c *fault.Cluster) error {
	var all []error
	for _, m := range c.Nodes {
		said, err := m.Said(max(0, m.LogSize()-2000))
		all = append(all, fmt.Errorf("%s said last: %s", m.Name(), said), err)
	}
	return errors.Join(all...)
}

// failoverCommand measures the loss of the leader.
type failoverCommand struct {
	laboratory
	Tries  int      `default:"50" help:"How often the leader is lost, for each kind of fault."`
	Faults []string `placeholder:"KIND" help:"Of kill-leader, pause-leader, partition-leader. Default: all that can be made here."`
}

// Run prints the figures.
func (m *failoverCommand) Run(ctx context.Context, to streams) error {
	if m.Tries < 1 {
		return errors.New("--tries is at least 1")
	}
	return m.on(ctx, m.Onced, "", to, func(ctx context.Context, c *fault.Cluster) error {
		kinds := m.Faults
		if len(kinds) == 0 {
			kinds = c.Strikes()
		}
		for _, kind := range kinds {
			if !slices.Contains(c.Strikes(), kind) {
				return fmt.Errorf("the fault %q cannot be made here: there are %s", kind, strings.Join(c.Strikes(), ", "))
			}
		}
		figures, err := measure.FailoverOf(ctx, c, m.RaftProfile, m.Tries, kinds, to.progress)
		if len(figures.Faults) > 0 {
			err = errors.Join(err, measure.Write(to.out, figures, m.JSON))
		}
		return err
	})
}

// rollingCommand measures rolling restarts.
type rollingCommand struct {
	laboratory
	Rounds int `default:"5" help:"How often every node is restarted."`
}

// Run prints the figures.
func (m *rollingCommand) Run(ctx context.Context, to streams) error {
	if m.Rounds < 1 {
		return errors.New("--rounds is at least 1")
	}
	return m.on(ctx, m.Onced, "", to, func(ctx context.Context, c *fault.Cluster) error {
		figures, err := measure.RollingOf(ctx, c, m.Rounds, to.progress)
		if err != nil {
			return err
		}
		return measure.Write(to.out, figures, m.JSON)
	})
}

// recoveryCommand measures the loss of all nodes.
type recoveryCommand struct {
	laboratory
	Keys  []int `default:"1000,100000,1000000" help:"Numbers of keys, each in a fresh cluster."`
	Tries int   `default:"5" help:"How often all nodes are killed, for each number of keys."`
}

// Run prints the figures.
func (m *recoveryCommand) Run(ctx context.Context, to streams) error {
	if m.Tries < 1 || slices.ContainsFunc(m.Keys, func(n int) bool { return n < 1 }) {
		return errors.New("--keys and --tries are at least 1")
	}
	var figures measure.Recovery
	for _, keys := range m.Keys {
		err := m.on(ctx, m.Onced, "", to, func(ctx context.Context, c *fault.Cluster) error {
			size, err := measure.SizeOf(ctx, c, keys, m.Tries, to.progress)
			figures.Sizes = append(figures.Sizes, size)
			return err
		})
		if err != nil {
			return err
		}
	}
	return measure.Write(to.out, &figures, m.JSON)
}

// powerCutsCommand measures power cuts of all nodes, and judges them.
type powerCutsCommand struct {
	laboratory
	Cuts        int    `default:"200" help:"How often the power of all nodes is cut."`
	ControlCuts int    `default:"3" help:"How often it is cut of nodes that do not sync their log."`
	Seed        uint64 `help:"Decides which of the earlier answers are read again after a cut. Default: a random one."`
}

// Run prints the figures; its error is the verdict.
func (m *powerCutsCommand) Run(ctx context.Context, to streams) error {
	switch {
	case m.Cuts < 1 || m.ControlCuts < 1:
		return errors.New("--cuts and --control-cuts are at least 1")
	case m.Loopback || os.Geteuid() != 0:
		return errors.New("the power can be cut of nodes with disks of their own only: as root, and not with --loopback")
	}
	for m.Seed == 0 {
		m.Seed = rand.Uint64()
	}
	var figures measure.PowerCuts
	cut := func(binary, tags string, cuts int, into *measure.Cuts) error {
		return m.on(ctx, binary, tags, to, func(ctx context.Context, c *fault.Cluster) (err error) {
			*into, err = measure.CutsOf(ctx, c, cuts, m.Seed, tags != "", to.progress)
			return err
		})
	}
	// The control is first: without it the rest would show nothing.
	if err := cut("", "nosync", m.ControlCuts, &figures.Control); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	err := cut(m.Onced, "", m.Cuts, &figures.Synced)
	if err != nil && figures.Synced.Lost == 0 {
		return err
	}
	if err := errors.Join(err, measure.Write(to.out, &figures, m.JSON)); err != nil {
		return err
	}
	verdict := figures.Verdict()
	if errors.Is(verdict, measure.ErrLost) {
		return fmt.Errorf("%w: %w", errInvalid, verdict)
	}
	return verdict
}
