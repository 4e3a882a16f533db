package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// timelineCommand shows the latency over time, through events that could move it.
type timelineCommand struct {
	clusterOptions
	Rate        int64         `default:"1500" help:"New keys a second, open loop."`
	ReplayRate  int64         `default:"1500" help:"Replays a second beside them, open loop."`
	Connections int           `default:"64" help:"Connections for each of the two."`
	Keys        uint64        `default:"10000" help:"Keys created beforehand, for replays to begin with."`
	Expiring    int64         `default:"1000000" help:"Keys made beforehand that all end at one moment."`
	Between     time.Duration `default:"15s" help:"Time from one event to the next."`
	Interval    time.Duration `default:"250ms" help:"Part of time that has its own histogram."`
	Timeout     time.Duration `default:"30s" help:"After which an operation's connection is given up."`
	AnswerBytes int           `default:"300" help:"Size of a stored response."`
	Plot        string        `default:"timeline.png" help:"PNG of it all; empty for none." placeholder:"FILE"`
	JSON        bool          `name:"json" help:"Print one JSON object an event instead of the table."`
}

// The events, in parts of --between from the start.
const (
	transferAt = 1
	killAt     = 2
	expiryAt   = 4
	endAt      = 6
)

// sweptASecond is how many keys a cluster sweeps at least: the load goes on for so much
// longer.
const sweptASecond = 15_000

func (t *timelineCommand) lasts() time.Duration {
	return endAt*t.Between + time.Duration(t.Expiring)*time.Second/sweptASecond
}

func (t *timelineCommand) check() error {
	var b bounds
	b.within("--rate", t.Rate, 1, maxRate)
	b.within("--replay-rate", t.ReplayRate, 1, maxRate)
	b.within("--connections", int64(t.Connections), 1, maxConnections)
	b.within("--keys", int64(t.Keys), 1, maxKeys)
	b.within("--expiring", t.Expiring, 1, maxLevel)
	b.within("--answer-bytes", int64(t.AnswerBytes), 100, maxValue)
	b.lasts("--between", t.Between, time.Second, 10*time.Minute)
	b.lasts("--interval", t.Interval, 10*time.Millisecond, t.Between)
	b.lasts("--timeout", t.Timeout, 100*time.Millisecond, maxTimeout)
	return b.err()
}

// Run drives the cluster through the events. Refusals and broken connections
// are part of the result; wrong answers are an error.
func (t *timelineCommand) Run(ctx context.Context, to streams) error {
	if err := t.check(); err != nil {
		return err
	}
	return t.withCluster(ctx, to, "", func(c *localCluster) error {
		run := &timelineRun{timelineCommand: t, cluster: c, driver: newDriver(t.AnswerBytes, t.Timeout), progress: to.progress}
		run.driver.bench.addrs = c.addrs()
		if err := run.prepare(ctx); err != nil {
			return err
		}
		if err := run.drive(ctx); err != nil {
			return err
		}
		if err := run.report(to.out); err != nil {
			return err
		}
		return run.wrongAnswers()
	})
}

// timelineRun is one run of the command.
type timelineRun struct {
	*timelineCommand
	cluster  *localCluster
	driver   *driver
	progress io.Writer

	begin   time.Time // of the load
	made    *intervals
	replays *intervals
	tallies []*tally

	mu     sync.Mutex
	events []event
}

// What the names of events begin with that happen by themselves.
const (
	snapshotOf   = "snapshot of "
	compactionOf = "compaction of "
)

// event is something that happened, counted from the start of the load.
type event struct {
	name     string
	from, to time.Duration
}

// note notes an event that has just ended.
func (r *timelineRun) note(name string, from time.Time) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{name, from.Sub(r.begin), now.Sub(r.begin)})
}

// prepare makes the keys to replay and those that end together, and waits for
// the moment from which they end when the expiry is due.
func (r *timelineRun) prepare(ctx context.Context) error {
	const gauged, slower, atLeast = 2 * time.Second, 1.6, 5 * time.Second
	if _, err := r.driver.fill(ctx, r.Keys, min(r.Connections, int(r.Keys)), r.progress); err != nil {
		return err
	}
	// How fast such keys can be made says when they can end at the earliest.
	day := func(k *keeper) operation { return k.ending(func() time.Duration { return 24 * time.Hour }) }
	t := r.driver.run(ctx, 0, gauged, flow{connections: r.Connections, operation: day})[0]
	if t.operations == 0 {
		return fmt.Errorf("make keys that end: %w", errors.Join(t.firstFailure, ctx.Err(), errors.New("none succeeded")))
	}
	perSecond := float64(t.operations) / gauged.Seconds()
	making := time.Duration(slower * float64(r.Expiring) / perSecond * float64(time.Second))
	r.begin = time.Now().Add(making + atLeast)
	ends := r.begin.Add(expiryAt * r.Between)
	fmt.Fprintf(r.progress, "making %s keys that end together, at most until %s\n", count(float64(r.Expiring)), r.begin.Format(time.TimeOnly))
	if err := r.makeEnding(ctx, ends); err != nil {
		return err
	}
	if late := time.Since(r.begin); late > 0 {
		return fmt.Errorf("make keys that end together: it took %s too long", late)
	}
	return sleepUntil(ctx, r.begin)
}

// makeEnding makes the keys that end at one moment.
func (r *timelineRun) makeEnding(ctx context.Context, at time.Time) error {
	var mu sync.Mutex
	left := r.Expiring
	return r.driver.each(ctx, r.Connections, func(ctx context.Context, k *keeper) (bool, error) {
		mu.Lock()
		left--
		number := left
		mu.Unlock()
		if number < 0 {
			return false, nil
		}
		make := k.ending(func() time.Duration { return time.Until(at) })
		// A number of their own: others' have a run's in the upper half.
		if result, detail := make(ctx, uint64(number)|1<<61); result != done {
			return false, fmt.Errorf("make key that ends: %s: %w", result, detail)
		}
		return true, nil
	})
}

// drive puts the load on, has the events happen, and watches for those that
// happen by themselves.
func (r *timelineRun) drive(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.made, r.replays = newIntervals(r.begin, r.Interval), newIntervals(r.begin, r.Interval)
	watching, stopWatching := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { r.watch(watching) })
	beside.Go(func() {
		if err := r.happen(ctx); err != nil {
			cancel(err)
		}
	})
	r.tallies = r.driver.run(ctx, 0, r.lasts(),
		flow{connections: r.Connections, rate: r.Rate, operation: creatingNew, also: r.made},
		flow{connections: r.Connections, rate: r.ReplayRate, operation: replayingAny, also: r.replays})
	stopWatching()
	beside.Wait()
	return context.Cause(ctx)
}

// happen has the events happen, each at its time.
func (r *timelineRun) happen(ctx context.Context) error {
	for _, e := range []struct {
		name string
		at   time.Duration
		do   func(context.Context) error
	}{
		{"leadership transferred", transferAt, r.transfer},
		{"leader killed", killAt, r.kill},
		{"expiry of " + count(float64(r.Expiring)), expiryAt, r.expire},
	} {
		at := r.begin.Add(e.at * r.Between)
		if err := sleepUntil(ctx, at); err != nil {
			return err
		}
		fmt.Fprintf(r.progress, "%s\n", e.name)
		began := time.Now()
		if err := e.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		r.note(e.name, began)
		if without := time.Since(r.begin) - r.lasts(); without > 0 {
			fmt.Fprintf(r.progress, "%s went on for %s after the load had ended\n", e.name, without.Round(time.Millisecond))
		}
		if e.at == killAt {
			if err := r.restartKilled(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// transfer has the leader hand its place to another node.
func (r *timelineRun) transfer(ctx context.Context) error {
	leader, err := r.cluster.leader(ctx)
	if err != nil {
		return err
	}
	if _, err := leader.ask(ctx, "POST", "/v1/cluster/transfer", "{}", 204); err != nil {
		return err
	}
	_, err = r.cluster.leader(ctx)
	return err
}

// kill kills the leader, and returns once there is another.
func (r *timelineRun) kill(ctx context.Context) error {
	leader, err := r.cluster.leader(ctx)
	if err != nil {
		return err
	}
	if err := leader.end(syscall.SIGKILL); err != nil {
		return err
	}
	_, err = r.cluster.leader(ctx)
	return err
}

// restartKilled starts the node again that was killed.
func (r *timelineRun) restartKilled(ctx context.Context) error {
	for _, n := range r.cluster.nodes {
		select {
		case <-n.exited:
			began := time.Now()
			if _, err := r.cluster.revive(ctx, n); err != nil {
				return err
			}
			r.note("killed node back", began)
			return nil
		default:
		}
	}
	return nil
}

// expire returns once the keys that end together are gone.
func (r *timelineRun) expire(ctx context.Context) error {
	for {
		var gone float64 // each node counts what it removed while it led
		for _, n := range r.cluster.nodes {
			m, err := n.metrics(ctx)
			if err != nil {
				return err
			}
			gone += m["onced_expired_total"]
		}
		if gone >= float64(r.Expiring) {
			return nil
		}
		if time.Since(r.begin) > expiryAt*r.Between+sweptWithin {
			return fmt.Errorf("%.0f keys are gone %s after they ended", gone, sweptWithin)
		}
		if err := sleepUntil(ctx, time.Now().Add(r.Interval)); err != nil {
			return err
		}
	}
}

// watch notes snapshots and compactions as they happen. A node that does not
// answer is down, and its counters begin anew.
func (r *timelineRun) watch(ctx context.Context) {
	last := make(map[string]map[string]float64)
	addrs := r.cluster.addrs() // stay when a process is replaced
	for ctx.Err() == nil {
		since := time.Now()
		for i, addr := range addrs {
			n := &localNode{id: fmt.Sprintf("n%d", i+1), httpAddr: addr}
			m, err := n.metrics(ctx)
			before := last[n.id]
			last[n.id] = m // nil after an error
			if err != nil || before == nil {
				continue
			}
			if m["onced_snapshot_seconds_count"] > before["onced_snapshot_seconds_count"] {
				took := m["onced_snapshot_seconds_sum"] - before["onced_snapshot_seconds_sum"]
				r.note(snapshotOf+n.id, time.Now().Add(-time.Duration(took*float64(time.Second))))
			}
			if m["onced_store_compactions"] > before["onced_store_compactions"] {
				r.note(compactionOf+n.id, since.Add(-r.Interval))
			}
		}
		_ = sleepUntil(ctx, since.Add(r.Interval)) // an end of ctx ends the loop
	}
}

func (r *timelineRun) wrongAnswers() error {
	var wrongs int64
	var first error
	for _, t := range r.tallies {
		if n := t.failures[string(wrong)]; n > 0 {
			wrongs += n
			first = t.firstFailure
		}
	}
	if wrongs > 0 {
		return fmt.Errorf("%d wrong answers: %w", wrongs, first)
	}
	return nil
}
