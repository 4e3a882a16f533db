package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// hopsCommand shows where the time of a new key goes.
type hopsCommand struct {
	clusterOptions
	Connections []int         `default:"1,64" help:"Connections, each with one operation at a time; one table for each number."`
	Duration    time.Duration `default:"8s" help:"Measured time of a table."`
	Warmup      time.Duration `default:"1s" help:"Load before it, without measurement."`
}

// Run starts a cluster, and at each number of connections has it create keys and
// prints what the nodes' metrics say of them.
func (h *hopsCommand) Run(ctx context.Context, to streams) error {
	load := loadOptions{Work: []string{workNew}, Connections: h.Connections, Duration: h.Duration, Warmup: h.Warmup, Keys: 1}
	load.Timeout, load.ValueBytes = 15*time.Second, byteRange{300, 500}
	if err := load.check(); err != nil {
		return err
	}
	return h.withCluster(ctx, to, "", func(c *localCluster) error {
		b := newBench(load, c.addrs(), c.pids())
		for i, connections := range h.Connections {
			t, err := h.trace(ctx, c, b, 2*i+1, connections)
			if err != nil {
				return fmt.Errorf("trace new keys at %d connections: %w", connections, err)
			}
			if err := t.print(to.out); err != nil {
				return fmt.Errorf("print result: %w", err)
			}
		}
		return nil
	})
}

// trace has keys created and reads the nodes' metrics before and after. The two
// cells that it takes have the numbers from number on.
func (h *hopsCommand) trace(ctx context.Context, c *localCluster, b *bench, number, connections int) (*trace, error) {
	warm, measured := *b, *b
	warm.options.Duration, warm.options.Warmup = max(h.Warmup, 100*time.Millisecond), 0
	measured.options.Warmup = 0
	if _, err := warm.runCell(ctx, number, workNew, connections); err != nil {
		return nil, err
	}
	leader, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	before, err := c.times(ctx)
	if err != nil {
		return nil, err
	}
	done, err := measured.runCell(ctx, number+1, workNew, connections)
	if err != nil {
		return nil, err
	}
	after, err := c.times(ctx)
	if err != nil {
		return nil, err
	}
	if len(done.Failures) > 0 {
		return nil, fmt.Errorf("operations failed: %s", tell(done.Failures))
	}
	t := &trace{cell: done, leader: timings{}, followers: timings{}}
	for id, of := range after {
		if id == leader.id {
			t.leader.add(of, before[id])
		} else {
			t.followers.add(of, before[id])
		}
	}
	return t, t.check()
}

// timing is how often something was timed, and the seconds that it took in all.
type timing struct{ count, seconds float64 }

func (t timing) mean() float64 {
	if t.count == 0 {
		return 0
	}
	return 1000 * t.seconds / t.count
}

// timings are those of a node by what is timed.
type timings map[string]timing

// hopsTimed are the metrics that time a part of a new key's way.
var hopsTimed = map[string]string{
	"http": `http_request_seconds%s{route="/create"}`, "forward": "forward_seconds%s", "queue": "queue_seconds%s", "commit": "commit_seconds%s",
	"write": "log_write_seconds%s", "replicate": "replicate_seconds%s", "apply": "apply_seconds%s",
}

func timingsOf(metrics map[string]float64) timings {
	all := timings{}
	for what, name := range hopsTimed {
		of := func(part string) float64 { return metrics["onced_"+fmt.Sprintf(name, part)] }
		all[what] = timing{of("_count"), of("_sum")}
	}
	return all
}

// add adds what was timed between two moments.
func (t timings) add(now, before timings) {
	for what := range now {
		t[what] = timing{t[what].count + now[what].count - before[what].count, t[what].seconds + now[what].seconds - before[what].seconds}
	}
}

// times reads the metrics of every node.
func (c *localCluster) times(ctx context.Context) (map[string]timings, error) {
	all := map[string]timings{}
	for _, n := range c.nodes {
		m, err := n.metrics(ctx)
		if err != nil {
			return nil, err
		}
		all[n.id] = timingsOf(m)
	}
	return all, nil
}

// trace is where the time of new keys went: what nodes timed meanwhile.
type trace struct {
	cell              cell
	leader, followers timings
}

// check refuses a trace in which another node came to lead.
func (t *trace) check() error {
	if t.leader["commit"].count == 0 || t.followers["queue"].count > 0 {
		return errors.New("the leader changed meanwhile: measure again")
	}
	return nil
}

// hop is a part of the way, and its mean time.
type hop struct {
	name string
	ms   float64
}

// hops are the parts of the way. Those that are indented go on at the same time,
// or one in the other; the others add up to the whole.
func (t *trace) hops() []hop {
	var http timing
	for _, of := range []timings{t.leader, t.followers} {
		http = timing{http.count + of["http"].count, http.seconds + of["http"].seconds}
	}
	forward, queue, commit := t.followers["forward"], t.leader["queue"].mean(), t.leader["commit"].mean()
	var forwarded, share float64
	if forward.count > 0 {
		forwarded = forward.mean() - queue - commit
		share = forward.count / http.count
	}
	return []hop{
		{"client, and its connection to a node", t.cell.Mean - http.mean()},
		{"node: read, check, encode, answer", http.mean() - share*forwarded - queue - commit},
		{fmt.Sprintf("to the leader and back, %.2f ms for %.0f %% of them", forwarded, 100*share), share * forwarded},
		{"leader: wait for a log entry", queue},
		{fmt.Sprintf("leader: the entry, of %.0f commands, until it is applied", t.leader["queue"].count/t.leader["commit"].count), commit},
		{"  leader's log write and sync", t.leader["write"].mean()},
		{"  to a follower's disk and back", t.leader["replicate"].mean()},
		{"    follower's log write and sync", t.followers["write"].mean()},
		{"  leader applies it", t.leader["apply"].mean()},
	}
}

func (t *trace) print(to io.Writer) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(to, "new keys, connections: %d, %.0f a second\n", t.cell.Connections, t.cell.PerSecond)
	for _, h := range slices.Concat([]hop{{"mean, of which", t.cell.Mean}}, t.hops()) {
		fmt.Fprintf(table, "%.2f ms\t  %s\n", h.ms, h.name)
	}
	return table.Flush()
}
