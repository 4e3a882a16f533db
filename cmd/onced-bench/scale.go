package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// scaleCommand compares what things cost with few keys stored and with many.
type scaleCommand struct {
	clusterOptions
	Keys            []uint64      `default:"10000,1000000,10000000" help:"Keys stored at each level, rising. The cluster goes from one to the next."`
	Connections     int           `default:"64" help:"Connections that are measured with."`
	FillConnections int           `default:"256" help:"Connections that fill it."`
	Duration        time.Duration `default:"20s" help:"Measured time of each kind of work, of all its turns together but for expiry."`
	Warmup          time.Duration `default:"2s" help:"Time before it, with load and without measurement; not of expiry."`
	Timeout         time.Duration `default:"30s" help:"After which an operation's connection is given up."`
	AnswerBytes     int           `default:"300" help:"Size of a stored response."`
	ExpiryRate      int64         `default:"2000" help:"Keys a second that are claimed and completed, open loop, where expiry is measured: as many end."`
	ExpiryTurns     int           `default:"21" help:"How often that is measured, each time with keys that end and with keys that do not, for a quarter of the duration and after 4 s without measurement."`
	Plot            string        `default:"scale.png" help:"PNG of it all; empty for none." placeholder:"FILE"`
	JSON            bool          `name:"json" help:"Print one JSON object a level instead of the table."`
}

const (
	maxLevel       = 100_000_000
	expiryShare    = 4               // of the duration, a turn of expiry is measured for one in so many
	shortestEnding = 2 * time.Second // ttl of keys that end while they are measured
	untilAsManyEnd = 2 * shortestEnding
	settledFor     = 3 * time.Second // without a compaction
	settledWithin  = 10 * time.Minute
	sweptWithin    = 2 * time.Minute
)

func (s *scaleCommand) check() error {
	var b bounds
	b.within("number of levels of --keys", int64(len(s.Keys)), 1, 16)
	if !slices.IsSorted(s.Keys) || len(slices.Compact(slices.Clone(s.Keys))) != len(s.Keys) {
		b.refuse("--keys %v does not rise", s.Keys)
	}
	for _, level := range s.Keys {
		if level < 1 || level > maxLevel {
			b.refuse("--keys %d is not within 1 and %d", level, uint64(maxLevel))
		}
	}
	b.within("--connections", int64(s.Connections), 1, maxConnections)
	b.within("--fill-connections", int64(s.FillConnections), 1, maxConnections)
	b.lasts("--duration", s.Duration, 100*time.Millisecond, maxDuration)
	b.lasts("--warmup", s.Warmup, 0, maxDuration)
	b.lasts("--timeout", s.Timeout, 100*time.Millisecond, maxTimeout)
	b.within("--answer-bytes", int64(s.AnswerBytes), 100, maxValue)
	b.within("--expiry-rate", s.ExpiryRate, 1, maxRate)
	b.within("--expiry-turns", int64(s.ExpiryTurns), 1, 99)
	return b.err()
}

// Run measures level after level. Wrong answers and failures are errors;
// missing a target is not.
func (s *scaleCommand) Run(ctx context.Context, to streams) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.withCluster(ctx, to, "", func(c *localCluster) error {
		run := &scaleRun{scaleCommand: s, cluster: c, driver: newDriver(s.AnswerBytes, s.Timeout), to: to, nodes: len(c.nodes)}
		err := run.measure(ctx)
		if len(run.levels) == 0 {
			return err
		}
		return errors.Join(err, s.report(to, run.levels), run.failed())
	})
}

// scaleRun is one run of the command.
type scaleRun struct {
	*scaleCommand
	cluster *localCluster
	driver  *driver
	to      streams
	nodes   int // there have been, for the names of new ones
	levels  []scaleLevel
}

// measure measures level after level, until one fails.
func (r *scaleRun) measure(ctx context.Context) error {
	for _, keys := range r.Keys {
		l, err := r.level(ctx, keys)
		if err != nil {
			return fmt.Errorf("measure with %d keys: %w", keys, err)
		}
		r.levels = append(r.levels, l)
	}
	return nil
}

// level fills the cluster up to so many keys and measures all there is.
func (r *scaleRun) level(ctx context.Context, keys uint64) (scaleLevel, error) {
	l := scaleLevel{Keys: keys, Failures: map[string]int64{}}
	snapshots, err := r.snapshots(ctx)
	if err != nil {
		return l, err
	}
	steps := []struct {
		name string
		do   func(context.Context, *scaleLevel) error
	}{
		{"filling", r.fill},
		{"settling", r.settle},
		{"memory", r.memory},
		{"replays and new keys, by turns with a small cluster", r.beside},
		{"expiry", r.expiry},
		{"settling", r.settle},
		{"restarts", r.restarts},
		{"settling", r.settle},
		{"disk", r.disk},
		{"a new node", r.joining},
	}
	for _, step := range steps {
		fmt.Fprintf(r.to.progress, "%s keys: %s\n", count(float64(keys)), step.name)
		if step.name == "restarts" { // with which the counters begin anew
			after, err := r.snapshots(ctx)
			if err != nil {
				return l, err
			}
			l.noteSnapshots(snapshots, after)
		}
		if err := errors.Join(step.do(ctx, &l), ctx.Err()); err != nil {
			return l, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return l, nil
}

func (r *scaleRun) failed() error {
	var errs []error
	for _, l := range r.levels {
		failures := maps.Clone(l.Failures)
		for _, slow := range []outcome{unsent, late} { // not wrong: the table tells
			delete(failures, string(slow))
		}
		if len(failures) > 0 {
			errs = append(errs, fmt.Errorf("operations failed with %d keys: %s: %s", l.Keys, tell(failures), l.FirstFailure))
		}
	}
	return errors.Join(errs...)
}

func (r *scaleRun) fill(ctx context.Context, l *scaleLevel) (err error) {
	r.driver.bench.addrs = r.cluster.addrs()
	// Those of the levels before, replaced nodes' addresses among them, are gone.
	l.FillPerSecond, err = r.driver.fill(ctx, l.Keys, min(r.FillConnections, int(l.Keys)), r.to.progress)
	return err
}

func (r *scaleRun) settle(ctx context.Context, _ *scaleLevel) error {
	return r.settled(ctx, r.cluster.nodes)
}

// settled returns once none of the nodes has ended a compaction for a while, nor
// changed its size.
func (r *scaleRun) settled(ctx context.Context, nodes []*localNode) error {
	limit := time.Now().Add(settledWithin)
	var last [2]float64
	for since := time.Now(); time.Since(since) < settledFor; {
		var now [2]float64
		for _, n := range nodes {
			m, err := n.metrics(ctx)
			if err != nil {
				return err
			}
			now[0] += m["onced_store_compactions"]
			now[1] += m["onced_store_bytes"]
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(limit) {
			fmt.Fprintf(r.to.progress, "still compacting after %s\n", settledWithin)
			return nil
		}
		if err := sleepUntil(ctx, time.Now().Add(settledFor/10)); err != nil {
			return err
		}
	}
	return nil
}

// memory reads what the nodes take of it: the most of any node's.
func (r *scaleRun) memory(_ context.Context, l *scaleLevel) error {
	const mebi = 1 << 20
	for _, n := range r.cluster.nodes {
		memory, err := residentOf(n.process.Process.Pid)
		if err != nil {
			return err
		}
		l.ResidentMiB = max(l.ResidentMiB, float64(memory.all)/mebi)
		l.AnonymousMiB = max(l.AnonymousMiB, float64(memory.anonymous)/mebi)
		l.MappedMiB = max(l.MappedMiB, float64(memory.file)/mebi)
	}
	return nil
}

// disk reads what the followers take of it: the most of any one's. One that was
// restarted has nothing in memory that is yet to be written out.
func (r *scaleRun) disk(ctx context.Context, l *scaleLevel) error {
	leader, err := r.cluster.leader(ctx)
	if err != nil {
		return err
	}
	for _, n := range r.cluster.nodes {
		if n == leader {
			continue
		}
		m, err := n.metrics(ctx)
		if err != nil {
			return err
		}
		if l.Stored = max(l.Stored, m[`onced_records{state="completed"}`]); l.Stored == 0 {
			return fmt.Errorf("%s stores no key", n.id)
		}
		state, errState := dirBytes(filepath.Join(n.dataDir(), "state"))
		log, errLog := dirBytes(filepath.Join(n.dataDir(), "raft"))
		if err := errors.Join(errState, errLog); err != nil {
			return err
		}
		l.StateBytesPerKey = max(l.StateBytesPerKey, float64(state)/l.Stored)
		l.LogMiB = max(l.LogMiB, float64(log)/(1<<20))
	}
	l.DiskPerPayload = l.StateBytesPerKey / float64(r.AnswerBytes+len("00000000-0000-4000-8000-000000000000"))
	return nil
}

// expiry measures claims and their completions at a fixed rate, in turns of keys that
// end in a day and of keys that end as fast as they come, each now first, now second. A
// single stall decides the p99 of a turn, so there are many short ones; what they
// come to together, and the median of the ratios of two that follow one another.
func (r *scaleRun) expiry(ctx context.Context, l *scaleLevel) error {
	var without, with turns
	var before float64
	for left := r.ExpiryTurns; left > 0; left-- {
		for _, ends := range []bool{left%2 == 0, left%2 != 0} {
			if !ends {
				without.add(r.lasting(ctx, 24*time.Hour, l))
				continue
			}
			var err error
			if before, err = r.records(ctx); err != nil {
				return err
			}
			with.add(r.lasting(ctx, shortestEnding, l))
		}
	}
	l.P99WithoutExpiry, l.P99WithExpiry = without.p99(), with.p99()
	l.EndingPerSecond = float64(with.operations) / (float64(r.ExpiryTurns) * r.expiryTurn().Seconds())
	if ratios := with.to(without); len(ratios) > 0 {
		ratio := spreadOf(ratios)
		l.P99RatioByExpiry = &ratio
	}
	var err error
	l.SweptAfterSeconds, err = r.swept(ctx, before, time.Now().Add(shortestEnding))
	return err
}

// lasting measures keys that end after ttl.
func (r *scaleRun) lasting(ctx context.Context, ttl time.Duration, l *scaleLevel) *tally {
	ending := func(k *keeper) operation { return k.ending(func() time.Duration { return ttl }) }
	t := r.driver.run(ctx, untilAsManyEnd, r.expiryTurn(), flow{connections: r.Connections, rate: r.ExpiryRate, operation: ending})[0]
	l.noteFailures(t)
	return t
}

func (r *scaleRun) expiryTurn() time.Duration { return r.Duration / expiryShare }

// swept returns how long after due there were no more records than wanted.
func (r *scaleRun) swept(ctx context.Context, want float64, due time.Time) (float64, error) {
	for {
		now, err := r.records(ctx)
		if err != nil {
			return 0, err
		}
		if now <= want {
			return max(0, time.Since(due).Seconds()), nil
		}
		if time.Since(due) > sweptWithin {
			return 0, fmt.Errorf("%.0f records are left %s after they ended", now-want, sweptWithin)
		}
		if err := sleepUntil(ctx, time.Now().Add(probeEvery)); err != nil {
			return 0, err
		}
	}
}

// records returns how many there are on the leader, in whatever state.
func (r *scaleRun) records(ctx context.Context) (float64, error) {
	leader, err := r.cluster.leader(ctx)
	if err != nil {
		return 0, err
	}
	m, err := leader.metrics(ctx)
	return m[`onced_records{state="completed"}`] + m[`onced_records{state="claimed"}`] + m[`onced_records{state="unknown"}`], err
}

// snapshots returns the metrics of snapshots, added up over the nodes.
func (r *scaleRun) snapshots(ctx context.Context) (sum snapshotSums, err error) {
	for _, n := range r.cluster.nodes {
		m, err := n.metrics(ctx)
		if err != nil {
			return sum, err
		}
		sum.count += m["onced_snapshot_seconds_count"]
		sum.seconds += m["onced_snapshot_seconds_sum"]
		sum.bytes += m["onced_snapshot_bytes_total"]
	}
	return sum, nil
}

// restarts has a follower stop and come back, by itself and after a kill.
func (r *scaleRun) restarts(ctx context.Context, l *scaleLevel) error {
	for _, by := range []struct {
		signal  syscall.Signal
		seconds *float64
	}{{syscall.SIGKILL, &l.KilledSeconds}, {syscall.SIGTERM, &l.RestartSeconds}} {
		n, err := r.cluster.follower(ctx)
		if err != nil {
			return err
		}
		took, err := r.cluster.restart(ctx, n, by.signal)
		if err != nil {
			return err
		}
		*by.seconds = took.Seconds()
	}
	return nil
}

// joining has a new, empty node take a follower's place, and measures until it
// has caught up.
func (r *scaleRun) joining(ctx context.Context, l *scaleLevel) error {
	leader, err := r.cluster.leader(ctx)
	if err != nil {
		return err
	}
	leaves, err := r.cluster.follower(ctx)
	if err != nil {
		return err
	}
	if _, err := leader.ask(ctx, "DELETE", "/v1/cluster/nodes/"+leaves.id, "", 204); err != nil {
		return err
	}
	if err := errors.Join(leaves.end(syscall.SIGTERM), os.RemoveAll(leaves.dataDir())); err != nil {
		return err
	}
	r.nodes++
	comes := &localNode{id: fmt.Sprintf("n%d", r.nodes), httpAddr: leaves.httpAddr, raftAddr: leaves.raftAddr, exited: make(chan struct{})}
	home := filepath.Dir(leaves.dataDir())
	comes.log = filepath.Join(home, comes.id+".log")
	args := append([]string{"serve", "--node-id", comes.id, "--data-dir", filepath.Join(home, comes.id),
		"--http-addr", comes.httpAddr, "--raft-addr", comes.raftAddr, "--join", leader.raftAddr}, r.ServeArg...)
	if err := r.cluster.replace(leaves, comes, leaves.process.Path, args); err != nil {
		return err
	}
	return r.catchUp(ctx, leader, comes, l)
}

func (r *scaleRun) catchUp(ctx context.Context, leader, comes *localNode, l *scaleLevel) error {
	limit := time.Now().Add(readyWithin)
	for { // it has to listen first
		if _, err := comes.ask(ctx, "GET", "/livez", "", 200); err == nil {
			break
		} else if time.Now().After(limit) {
			return fmt.Errorf("%w\n%s", err, comes.lastWords())
		}
		if err := sleepUntil(ctx, time.Now().Add(probeEvery)); err != nil {
			return err
		}
	}
	at, err := leader.metrics(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	body := fmt.Sprintf(`{"id":%q,"raft_addr":%q}`, comes.id, comes.raftAddr)
	if _, err := leader.ask(ctx, "POST", "/v1/cluster/nodes", body, 201); err != nil {
		return fmt.Errorf("%w\n%s", err, comes.lastWords())
	}
	err = comes.awaitReady(ctx, func(m map[string]float64) bool { return m["onced_applied_index"] >= at["onced_applied_index"] })
	if err != nil {
		return err
	}
	l.CatchUpSeconds = time.Since(began).Seconds()
	m, err := comes.metrics(ctx)
	if err != nil {
		return err
	}
	if m["onced_snapshot_installs"] > 0 {
		rate := m["onced_store_bytes"] / 1e6 / l.CatchUpSeconds
		l.CatchUpMBPerSecond = &rate
	}
	runtime.GC() // of this program, before it measures again
	return nil
}
