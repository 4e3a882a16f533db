package main

import (
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

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/load"
	"github.com/onced/onced/chaos/report"
)

// runCommand makes a run and judges it.
type runCommand struct {
	Duration time.Duration `default:"60s" help:"How long the load and the faults last."`
	Seed     uint64        `help:"Decides the load and the order of faults. Default: a random one, which is told."`
	Faults   []string      `placeholder:"KIND" help:"The kinds of faults, each at least once if there is time. Default: all that can be made here. none: no fault."`
	Out      string        `placeholder:"DIR" help:"Where history, logs and report are kept. Default: .chaos/TIME-SEED."`
	Onced    string        `placeholder:"FILE" help:"The onced to test. Default: it is built from the source in the working directory."`
	Settle   time.Duration `default:"1s" help:"Time without a fault between two."`
	TTL      time.Duration `name:"ttl" default:"10s" help:"Retention of records that do not say it themselves."`
	Scripts  int           `default:"24" help:"How many keys are worked on at a time."`
	Data     string        `placeholder:"DIR" help:"Where the nodes keep their data, which is removed afterwards. Default: a temporary directory."`
}

// setup is what a target is made with.
type setup struct {
	binary string
	data   string   // a directory for the nodes' own, which is new
	logs   string   // a directory
	flags  []string // for every node
}

// Run makes a run, judges it and writes the report.
func (r *runCommand) Run(ctx context.Context, to streams) error {
	if r.Duration < time.Second || r.Settle < 0 || r.TTL < time.Second || r.Scripts < 1 {
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
	data, err := os.MkdirTemp(r.Data, "onced-chaos-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	if r.Onced == "" {
		r.Onced = filepath.Join(data, "onced")
		fmt.Fprintln(progress, "building onced")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", r.Onced, "./cmd/onced").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build onced: %w\n%s", err, out)
		}
	}
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the upstream: %w", err)
	}
	defer upstream.Close()
	s, err := r.setup(data, logs, upstream.Addr().String())
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "starting %d nodes, seed %d\n", clusterSize, r.Seed)
	c, err := startLoopback(ctx, s)
	if err != nil {
		return nil, err
	}
	run := &running{runCommand: r, target: c, progress: progress}
	return run.record(ctx, upstream)
}

// setup writes the nodes' configuration and returns what they are started with.
func (r *runCommand) setup(data, logs, upstream string) (setup, error) {
	config := filepath.Join(data, "onced.yaml")
	if err := os.WriteFile(config, []byte(load.NodeConfig()), 0o600); err != nil {
		return setup{}, fmt.Errorf("write configuration: %w", err)
	}
	binary, err := filepath.Abs(r.Onced)
	if err != nil {
		return setup{}, fmt.Errorf("find onced: %w", err)
	}
	return setup{binary: binary, data: data, logs: logs, flags: []string{
		"--config", config, "--upstream", "http://" + upstream, "--ttl", r.TTL.String(), "--unique", "email",
	}}, nil
}

// running is a run under way.
type running struct {
	*runCommand
	target
	progress io.Writer
	writer   *history.Writer
	load     *load.Load
	began    time.Time
	faults   int
	failures []string
}

func (r *running) clock() history.Nano { return history.Span(time.Since(r.began)) }

// record runs everything, in the order of a run, and returns its history.
func (r *running) record(ctx context.Context, on net.Listener) (h *history.History, err error) {
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, r.target.stop())
		}
	}()
	kinds, err := r.chooseKinds()
	if err != nil {
		return nil, err
	}
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
		Nodes: r.nodes(), Dial: r.dial, History: r.writer, Clock: r.clock, Seed: r.Seed, Scripts: r.Scripts, TTL: r.TTL,
	})
	defer r.load.Close()
	loadEnded := r.underLoad(ctx, kinds)
	if err := ctx.Err(); err != nil {
		upstream.Close()
		return nil, err
	}
	r.readBack(ctx)
	upstream.Close()
	stopped = true
	if err := r.target.stop(); err != nil {
		r.fail("a node did not stop as it should: %v", err)
	}
	return r.writer.Finish(history.End{At: r.clock(), LoadEnded: loadEnded, Failures: r.failures})
}

// chooseKinds returns the faults that were asked for.
func (r *running) chooseKinds() ([]string, error) {
	all := r.target.kinds()
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
	loading, cancel := context.WithTimeout(ctx, r.Duration)
	defer cancel()
	watching, unwatch := context.WithCancel(ctx)
	status := newStatusClient(r.dial)
	defer status.close()
	var helpers, clients sync.WaitGroup
	helpers.Go(func() { status.watch(watching, r.nodes(), r.writer, r.clock) })
	helpers.Go(func() { r.showProgress(watching) })
	clients.Go(func() { r.load.Run(loading) })
	if len(kinds) > 0 {
		r.breakThings(loading, ctx, r.plan(r.Seed, kinds))
	}
	<-loading.Done()
	if ctx.Err() == nil {
		if err := r.heal(ctx); err != nil {
			r.fail("not everything was healed: %v", err)
		}
	}
	clients.Wait()
	ended := r.clock()
	unwatch()
	helpers.Wait()
	return ended
}

// breakThings does one fault after the other until the load is over. One that
// has begun is healed first.
func (r *running) breakThings(loading, ctx context.Context, next planner) {
	for {
		if sleep(loading, r.Settle) != nil {
			return
		}
		s := next()
		f := r.inject(ctx, s, r.clock)
		r.writer.Fault(f)
		r.faults++
		line := fmt.Sprintf("%7s  %s", f.Begin, s)
		switch {
		case f.Error != "":
			line += " failed: " + f.Error
			r.fail("the fault %s failed: %s", s, f.Error)
		case f.Evidence == "":
			line += ": nothing shows that it bit"
		default:
			line += ": " + f.Evidence
		}
		fmt.Fprintf(r.progress, "%s\n", line)
	}
}

func (r *running) fail(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// progressEvery is between two lines of progress.
const progressEvery = 5 * time.Second

func (r *running) showProgress(ctx context.Context) {
	for sleep(ctx, progressEvery) == nil {
		made, answered := r.load.Calls()
		fmt.Fprintf(r.progress, "%7s  %d calls, %d answered\n", r.clock(), made, answered)
	}
}

// readBack has the nodes come to rest and reads from all of them.
func (r *running) readBack(ctx context.Context) {
	status := newStatusClient(r.dial)
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

// judge judges a history, writes the report into a directory and prints the
// verdict.
func judge(ctx context.Context, h *history.History, dir string, to streams) error {
	fmt.Fprintf(to.progress, "judging %d calls\n", len(h.Calls))
	v := check.Judge(ctx, h, check.Options{})
	if err := report.Write(dir, h, v); err != nil {
		return err
	}
	printVerdict(to.out, h, v, dir)
	switch v.Outcome {
	case check.Valid:
		return nil
	case check.Invalid:
		return fmt.Errorf("%w: %d findings, see %s", errInvalid, len(v.Findings), dir)
	}
	return fmt.Errorf("inconclusive: %s", strings.Join(v.Reasons, "; "))
}

func printVerdict(w io.Writer, h *history.History, v *check.Verdict, dir string) {
	shown := 0
	for _, f := range h.Faults {
		if f.Evidence != "" {
			shown++
		}
	}
	fmt.Fprintf(w, "%s: %d calls on %d keys, %d not answered; %d faults, %d of them with evidence; longest time without a success %v; seed %d\n",
		v.Outcome, v.Calls.All, v.Keys, v.Calls.Unanswered, len(h.Faults), shown, v.Availability.Longest.Length(), h.Run.Seed)
	for i, f := range v.Findings {
		if i == 5 {
			fmt.Fprintf(w, "  and %d more\n", len(v.Findings)-i)
			break
		}
		fmt.Fprintf(w, "  %s: %s (%s)\n", f.Rule, f.What, f.Key)
	}
	for _, why := range v.Reasons {
		fmt.Fprintf(w, "  %s\n", why)
	}
	fmt.Fprintf(w, "report: %s\n", filepath.Join(dir, report.Page))
}
