//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/fault"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/load"
)

// runCommand makes a run and judges it.
type runCommand struct {
	Duration time.Duration `default:"60s" help:"How long the load and the faults last at least: they go on until each kind of fault was made."`
	Seed     uint64        `help:"Decides the load and the order of faults. Default: a random one, which is told."`
	Faults   []string      `placeholder:"KIND" help:"The kinds of faults, or none. Default: all that can be made here."`
	Loopback bool          `help:"Run the nodes on loopback, without hosts and disks of their own: needs no root, and leaves fewer kinds of faults. Without root it is so in any case."`
	Out      string        `placeholder:"DIR" help:"Where history, logs and report are kept. Default: .chaos/TIME-SEED."`
	Onced    string        `placeholder:"FILE" help:"The onced to test. Default: it is built from the source in the working directory."`
	TTL      time.Duration `name:"ttl" default:"10s" help:"Retention of records that do not say it themselves."`
	Scripts  int           `default:"24" help:"How many keys are worked on at a time."`
	Flags    []string      `placeholder:"FLAG" sep:"none" help:"A further flag for every node, as --flags=--log-store=bolt; may be given several times."`
}

// Run makes a run, judges it and writes the report.
func (r *runCommand) Run(ctx context.Context, to streams) error {
	if r.Duration < time.Second || r.TTL < time.Second || r.Scripts < 1 {
		return errors.New("--duration and --ttl are at least 1s, --scripts at least 1")
	}
	for r.Seed == 0 {
		r.Seed = rand.Uint64() >> 32
	}
	if r.Out == "" {
		r.Out = filepath.Join(".chaos", fmt.Sprintf("%s-%d", time.Now().UTC().Format("20060102T150405"), r.Seed))
	}
	logs := filepath.Join(r.Out, "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	h, err := r.make(ctx, logs, to.progress)
	if err != nil {
		return err
	}
	return judge(ctx, h, r.Out, to)
}

// make makes the history of a run, and leaves nothing else behind than that and
// the logs.
func (r *runCommand) make(ctx context.Context, logs string, progress io.Writer) (h *history.History, err error) {
	scratch, err := os.MkdirTemp("", "onced-chaos-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if r.Onced == "" {
		r.Onced = filepath.Join(scratch, "onced")
		fmt.Fprintln(progress, "building onced")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", r.Onced, "./cmd/onced").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build onced: %w\n%s", err, out)
		}
	}
	binary, err := filepath.Abs(r.Onced)
	if err != nil {
		return nil, fmt.Errorf("find onced: %w", err)
	}
	config := filepath.Join(scratch, "onced.yaml")
	if err := os.WriteFile(config, []byte(load.NodeConfig()), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	if os.Geteuid() != 0 {
		r.Loopback = true
	}
	c, err := fault.New(ctx, fault.Options{Binary: binary, Dir: logs, Loopback: r.Loopback, DiskSize: diskSize})
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
		for _, m := range c.Nodes {
			err = errors.Join(err, os.RemoveAll(filepath.Join(logs, m.ID))) // its data, where it has no disk of its own
		}
	}()
	upstream, err := c.Listen(ctx)
	if err != nil {
		return nil, fmt.Errorf("listen for the upstream: %w", err)
	}
	defer upstream.Close()
	run := &running{runCommand: r, cluster: c, progress: progress}
	kinds, err := run.chooseKinds()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "starting %d nodes%s, seed %d\n", len(c.Nodes), map[bool]string{true: " on loopback"}[r.Loopback], r.Seed)
	flags := append([]string{"--config", config, "--upstream", "http://" + upstream.Addr().String(), "--ttl", r.TTL.String(), "--unique", "email"}, fault.ShortLog...)
	flags = append(flags, r.Flags...)
	if err := c.Start(ctx, flags...); err != nil {
		return nil, err
	}
	return run.record(ctx, upstream, kinds)
}

// diskSize is that of each node's disk, in bytes; it takes only what is written.
// A log store holds some files of 64 MiB.
const diskSize = 2 << 30

// running is a run under way.
type running struct {
	*runCommand
	cluster  *fault.Cluster
	progress io.Writer
	writer   *history.Writer
	load     *load.Load
	began    time.Time
	failures []string
}

func (r *running) clock() history.Nano { return history.Span(time.Since(r.began)) }

// nodes are where the clients reach the cluster. A node that came back under
// another id is still the same to them.
func (r *running) nodes() (nodes []load.Node) {
	for _, m := range r.cluster.Nodes {
		nodes = append(nodes, load.Node{ID: m.ID, API: m.API(), Gateway: m.Gateway()})
	}
	return nodes
}

// record runs everything, in the order of a run, and returns its history.
func (r *running) record(ctx context.Context, on net.Listener, kinds []string) (h *history.History, err error) {
	file, err := os.OpenFile(filepath.Join(r.Out, "history.ndjson"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create history: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	about := history.Run{Seed: r.Seed, Started: time.Now().UTC(), Faults: kinds, TTL: history.Span(r.TTL), Load: history.Span(r.Duration)}
	about.Host, _ = os.Hostname()
	for _, n := range r.nodes() {
		about.Nodes = append(about.Nodes, n.ID)
	}
	r.began = time.Now()
	r.writer = history.NewWriter(file, about)
	upstream := load.StartUpstream(on, r.writer, r.clock)
	r.load = load.New(load.Config{
		Nodes: r.nodes(), Dial: r.cluster.DialContext, History: r.writer, Clock: r.clock, Seed: r.Seed, Scripts: r.Scripts, TTL: r.TTL,
	})
	defer r.load.Close()
	loadEnded := r.underLoad(ctx, kinds)
	if err := ctx.Err(); err != nil {
		upstream.Close()
		return nil, err
	}
	r.readBack(ctx)
	upstream.Close()
	r.terminate(ctx)
	if err := r.readLogs(); err != nil {
		return nil, err
	}
	return r.writer.Finish(history.End{At: r.clock(), LoadEnded: loadEnded, Failures: r.failures})
}

// terminate stops every node as an operator does.
func (r *running) terminate(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stoppedWithin)
	defer cancel()
	var wg sync.WaitGroup
	said := make([]string, len(r.cluster.Nodes))
	for i, m := range r.cluster.Nodes {
		wg.Go(func() {
			if status, err := m.Terminate(ctx); err != nil || status != 0 {
				said[i] = fmt.Sprintf("%s did not stop as it should: status %d, %v", m.Name(), status, err)
			}
		})
	}
	wg.Wait()
	for _, what := range said {
		if what != "" {
			r.fail("%s", what)
		}
	}
}

// readLogs looks for nodes that fell over: those that could not go on say so,
// and why, in words of their own.
func (r *running) readLogs() error {
	for _, m := range r.cluster.Nodes {
		said, err := os.ReadFile(m.Log)
		if err != nil {
			return fmt.Errorf("read log of %s: %w", m.ID, err)
		}
		for _, sign := range []string{"\npanic: ", "\nfatal error: ", "\nSIG"} {
			if at := bytes.Index(said, []byte(sign)); at >= 0 {
				r.fail("%s fell over: %.200s", m.ID, said[at+1:])
			}
		}
	}
	return nil
}

// stoppedWithin is how long a node may take to stop; it is promised within 30 s.
const stoppedWithin = 35 * time.Second

// chooseKinds returns the faults that were asked for.
func (r *running) chooseKinds() ([]string, error) {
	all := r.cluster.Kinds()
	switch {
	case len(r.Faults) == 0:
		return all, nil
	case slices.Equal(r.Faults, []string{"none"}):
		return nil, nil
	}
	for _, kind := range r.Faults {
		if !slices.Contains(all, kind) {
			return nil, fmt.Errorf("the fault %q cannot be made here: there are %s", kind, strings.Join(all, ", "))
		}
	}
	return r.Faults, nil
}

// underLoad runs load and faults, and returns when the load ended.
func (r *running) underLoad(ctx context.Context, kinds []string) history.Nano {
	loading, endLoad := context.WithCancel(ctx)
	defer endLoad()
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	status := newStatusClient(r.cluster.DialContext)
	defer status.close()
	var helpers, clients sync.WaitGroup
	helpers.Go(func() { status.watch(watching, r.nodes(), r.writer, r.clock) })
	helpers.Go(func() { r.showProgress(watching) })
	clients.Go(func() { r.load.Run(loading) })
	if err := r.breakThings(ctx, kinds); err != nil {
		r.fail("%v", err)
	}
	if ctx.Err() == nil {
		if err := r.cluster.Heal(ctx); err != nil {
			r.fail("not everything was healed: %v", err)
		}
	}
	endLoad()
	clients.Wait()
	ended := r.clock()
	unwatch()
	helpers.Wait()
	return ended
}

// breakThings does one fault after the other until the time is over and each
// kind was made. Those of which nothing showed that they bit are made again.
func (r *running) breakThings(ctx context.Context, kinds []string) error {
	until := r.began.Add(r.Duration)
	if len(kinds) == 0 {
		_ = sleep(ctx, time.Until(until)) // cut short, the run is given up
		return nil
	}
	unseen := slices.Clone(kinds)
	for again := range uint64(1 + againAtMost) {
		plan, err := fault.NewPlanner(r.Seed+again, unseen)
		if err != nil {
			return err
		}
		missing := slices.Clone(unseen)
		for ctx.Err() == nil && (len(missing) > 0 || time.Now().Before(until)) {
			step := plan.Next()
			bit, err := r.inject(ctx, step)
			if err != nil {
				return err
			}
			missing = less(missing, step.Kinds)
			if bit {
				unseen = less(unseen, step.Kinds)
			}
		}
		if len(unseen) == 0 || ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// againAtMost is how often a kind is made again for want of evidence.
const againAtMost = 2

func less(kinds, those []string) []string {
	return slices.DeleteFunc(kinds, func(kind string) bool { return slices.Contains(those, kind) })
}

// inject does a step, and reports whether there is evidence that it bit. An error
// says that what was broken is so still, so that nothing further may be.
func (r *running) inject(ctx context.Context, step fault.Step) (bit bool, err error) {
	if sleep(ctx, step.Pause) != nil {
		return false, nil
	}
	e := r.cluster.Inject(ctx, r.began, step)
	f := &history.Fault{Kind: e.Kind, Nodes: e.Nodes, Begin: history.Span(e.Begin), End: history.Span(e.End), Evidence: e.Evidence}
	if e.Err != nil {
		f.Error = e.Err.Error()
	}
	r.writer.Fault(f)
	r.tell(f)
	if e.Err != nil {
		if err := r.cluster.Heal(ctx); err != nil {
			return false, fmt.Errorf("the fault %s failed, and was not healed: %w", e.Kind, err)
		}
	}
	return e.Evidence != "", nil
}

func (r *running) tell(f *history.Fault) {
	line := fmt.Sprintf("%9s  %s", f.Begin, f.Kind)
	switch {
	case f.Error != "":
		line += " failed: " + f.Error
	case f.Evidence == "":
		line += ": nothing shows that it bit"
	default:
		line += ": " + f.Evidence
	}
	fmt.Fprintln(r.progress, line)
}

func (r *running) fail(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// progressEvery is between two lines of progress.
const progressEvery = 5 * time.Second

func (r *running) showProgress(ctx context.Context) {
	for sleep(ctx, progressEvery) == nil {
		made, answered := r.load.Calls()
		fmt.Fprintf(r.progress, "%9s  %d calls, %d answered\n", r.clock(), made, answered)
	}
}

// readBack has the nodes come to rest and reads from all of them.
func (r *running) readBack(ctx context.Context) {
	status := newStatusClient(r.cluster.DialContext)
	defer status.close()
	fmt.Fprintln(r.progress, "reading everything back")
	if err := status.awaitSame(ctx, r.nodes(), r.writer); err != nil {
		r.fail("%v", err)
		return
	}
	r.load.ReadBack(ctx)
	if err := status.awaitSame(ctx, r.nodes(), r.writer); err != nil {
		r.fail("%v", err)
	}
}
