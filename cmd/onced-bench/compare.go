package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/onced/onced/cmd/onced-bench/peers"
	"github.com/onced/onced/cmd/onced-bench/standings"
)

const (
	oncedName  = "onced"
	mostVisits = 100
	mostShared = 64
)

// compareCommand puts the same load on onced and on other systems.
type compareCommand struct {
	clusterOptions
	Systems     []string      `default:"onced,etcd,nats,postgres,redis" help:"Systems, of onced, etcd, nats, postgres and redis."`
	Connections []int         `default:"1,16,64,256" help:"Connections, each with one operation at a time; one cell for each number."`
	Shared      int           `default:"0" help:"Connections a node of etcd and of NATS, which take many operations at once on one; 0: each operation has its own." placeholder:"N"`
	Rounds      int           `default:"3" help:"Rounds; each visits every system, in an order that turns."`
	Duration    time.Duration `default:"5s" help:"Measured time of a cell."`
	Warmup      time.Duration `default:"1s" help:"Time before it, with load and without measurement."`
	Timeout     time.Duration `default:"15s" help:"After which an operation is given up."`
	ValueBytes  byteRange     `default:"300-500" help:"Size of a value, uniform in this range."`
	Keys        int           `default:"10000" help:"Keys that replays are spread over, created beforehand."`
	Out         string        `default:".tools/compare" help:"Where compare.png and compare.csv are written." placeholder:"DIR"`
	Tools       string        `default:".tools" help:"Where servers that are built from source are kept." placeholder:"DIR"`
	Install     bool          `default:"true" negatable:"" help:"Get servers that are missing: from the Go module proxy, and as root from Debian."`
}

// load returns the options of a cell.
func (c *compareCommand) load() loadOptions {
	return loadOptions{
		Work: []string{workNew, workReplay}, Connections: c.Connections, Duration: c.Duration, Warmup: c.Warmup,
		Timeout: c.Timeout, ValueBytes: c.ValueBytes, Keys: c.Keys,
	}
}

func (c *compareCommand) check() error {
	load := c.load()
	errs := []error{load.check()}
	if c.Rounds < 1 || c.Rounds > mostVisits {
		errs = append(errs, fmt.Errorf("--rounds %d is not within 1 and %d", c.Rounds, mostVisits))
	}
	if c.Shared < 0 || c.Shared > mostShared {
		errs = append(errs, fmt.Errorf("--shared %d is not within 0 and %d", c.Shared, mostShared))
	}
	if c.Shared > 0 && !slices.ContainsFunc(c.Systems, func(name string) bool { p, err := peers.Find(name); return err == nil && p.Shared }) {
		errs = append(errs, errors.New("--shared is for etcd and nats, and --systems has neither"))
	}
	if len(c.Systems) == 0 {
		errs = append(errs, errors.New("no systems"))
	}
	for i, name := range c.Systems {
		if _, err := peers.Find(name); err != nil && name != oncedName {
			errs = append(errs, fmt.Errorf("--systems: %w", err))
		}
		if slices.Contains(c.Systems[:i], name) {
			errs = append(errs, fmt.Errorf("--systems: %s is there twice", name))
		}
	}
	return errors.Join(errs...)
}

// Run measures every system in every round, and prints and plots the result. A
// system that cannot be had or does not stay up is named as left out.
func (c *compareCommand) Run(ctx context.Context, to streams) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", c.Out, err)
	}
	dir, err := os.MkdirTemp(c.Dir, "onced-bench-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o711); err != nil { // PostgreSQL's user goes through it
		return fmt.Errorf("open directory: %w", err)
	}
	run := &comparing{command: c, to: to, dir: dir, leftOut: make(map[string]error)}
	if err := run.find(ctx); err != nil {
		return err
	}
	if err := run.rounds(ctx); err != nil {
		return err
	}
	return run.report()
}

// comparing is one run of the command.
type comparing struct {
	command  *compareCommand
	to       streams
	dir      string
	systems  []contender
	leftOut  map[string]error
	measured []standings.Cell
}

// find gets the program of every system.
func (r *comparing) find(ctx context.Context) error {
	for _, name := range r.command.Systems {
		if name == oncedName {
			program, err := r.command.binary(ctx, r.dir)
			if err != nil {
				return err
			}
			r.systems = append(r.systems, &oncedContender{program: program, flags: r.command.ServeArg})
			continue
		}
		peer, err := peers.Find(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(r.to.progress, "finding %s\n", name)
		switch system, err := r.findPeer(ctx, peer); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.leaveOut(name, err)
		default:
			r.systems = append(r.systems, system)
		}
	}
	if len(r.systems) == 0 {
		return errors.New("no system is left to measure")
	}
	return nil
}

func (r *comparing) findPeer(ctx context.Context, peer peers.Peer) (*peerContender, error) {
	program, err := peer.Install(ctx, peers.Tools{Dir: r.command.Tools, Install: r.command.Install})
	if err != nil {
		return nil, err
	}
	version, err := peers.Version(ctx, program)
	if err != nil {
		version = err.Error()
	}
	system := &peerContender{peer: peer, program: program, version: version}
	if peer.Shared {
		system.shared = r.command.Shared
	}
	return system, nil
}

func (r *comparing) leaveOut(name string, reason error) {
	r.leftOut[name] = reason
	fmt.Fprintf(r.to.progress, "%s is left out: %v\n", name, reason)
}

// rounds runs the rounds. Each begins with another system, so that none has the
// machine in the same state each time.
func (r *comparing) rounds(ctx context.Context) error {
	for round := range r.command.Rounds {
		for i := range r.systems {
			system := r.systems[(i+round)%len(r.systems)]
			if r.leftOut[system.name()] != nil {
				continue
			}
			fmt.Fprintf(r.to.progress, "round %d: %s\n", round+1, system.name())
			err := r.visit(ctx, system, round)
			switch {
			case ctx.Err() != nil:
				return errors.Join(ctx.Err(), err)
			case err != nil && system.name() == oncedName:
				return err
			case err != nil:
				r.leaveOut(system.name(), err)
			}
		}
	}
	return nil
}

// visit starts a system anew, measures all its cells and removes it.
func (r *comparing) visit(ctx context.Context, system contender, round int) (err error) {
	dir := filepath.Join(r.dir, fmt.Sprintf("%s-%d", system.name(), round+1))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := system.start(ctx, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, system.stop()) }()
	b := newBench(r.command.load(), nil, system.pids())
	number := 0
	for _, work := range b.options.Work {
		if work == workReplay {
			if err := b.keepAll(ctx, system); err != nil {
				return fmt.Errorf("create keys to replay: %w", err)
			}
		}
		for _, connections := range b.options.Connections {
			number++
			c, err := b.compareCell(ctx, system, number, work, connections)
			if err != nil {
				return fmt.Errorf("run %s at %d connections: %w", work, connections, err)
			}
			if len(c.Failures) > 0 || c.Operations == 0 {
				return fmt.Errorf("run %s at %d connections: failed operations: %s: %s", work, connections, tell(c.Failures), c.FirstFailure)
			}
			r.measured = append(r.measured, standings.Cell{
				System: system.name(), Round: round + 1, Work: work, Connections: connections, PerSecond: c.PerSecond,
				P50: c.P50, P99: c.P99, P999: c.P999, ServerCPU: c.ServerCPU, ClientCPU: c.ClientCPU,
			})
		}
	}
	return nil
}

// report prints the table and what it is of, and writes the plot and the cells.
func (r *comparing) report() error {
	rows := standings.Summarize(r.measured, oncedName)
	if err := standings.WriteTable(r.to.out, rows); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	if err := r.describe(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	write := func(name string, content func(*os.File) error) error {
		file, err := os.Create(filepath.Join(r.command.Out, name))
		if err != nil {
			return fmt.Errorf("create %s: %w", name, err)
		}
		return errors.Join(content(file), file.Close())
	}
	return errors.Join(
		write("compare.csv", func(f *os.File) error { return standings.WriteCSV(f, r.measured) }),
		write("compare.png", func(f *os.File) error { return standings.WritePlot(f, rows) }),
	)
}

// describe says which answers are durable on what, and what was left out.
func (r *comparing) describe() error {
	var majority, one []string
	var text strings.Builder
	for _, s := range r.systems {
		if r.leftOut[s.name()] != nil {
			continue
		}
		if s.majority() {
			majority = append(majority, s.name())
		} else {
			one = append(one, s.name())
		}
		fmt.Fprintf(&text, "%s: %s\n", s.name(), s.setting())
	}
	fmt.Fprintf(&text, "durable on a majority of three nodes: %s; on one node only: %s\n", named(majority), named(one))
	for _, name := range r.command.Systems {
		if reason := r.leftOut[name]; reason != nil {
			first, _, _ := strings.Cut(reason.Error(), "\n")
			fmt.Fprintf(&text, "left out: %s: %s\n", name, first)
		}
	}
	_, err := fmt.Fprint(r.to.out, "\n", text.String())
	return err
}

func named(systems []string) string {
	if len(systems) == 0 {
		return "none"
	}
	return strings.Join(systems, ", ")
}
