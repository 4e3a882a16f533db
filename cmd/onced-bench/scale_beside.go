package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// besideTurns is how often each kind of work is measured with the cluster, and
// as often with a small one.
const besideTurns = 3

// sideBySide is one kind of work with the cluster, and in relation to the same
// work with a small one just before: medians of the turns.
type sideBySide struct {
	PerSecond   float64 `json:"per_second"`
	P99         float64 `json:"p99_ms"`
	RateToSmall float64 `json:"rate_to_small"`
	P99ToSmall  float64 `json:"p99_to_small"`
}

// beside measures what should cost the same however much is stored, by turns with a
// fresh cluster that stores as little as the first level: the speed of a machine may
// move by more than is asked for from one level to the next.
func (r *scaleRun) beside(ctx context.Context, l *scaleLevel) (err error) {
	home := filepath.Join(filepath.Dir(r.cluster.nodes[0].dataDir()), "small")
	if err := os.Mkdir(home, 0o700); err != nil {
		return fmt.Errorf("make directory of a small cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	c, err := startCluster(ctx, r.cluster.nodes[0].process.Path, home, "", r.ServeArg)
	if err != nil {
		return fmt.Errorf("start small cluster: %w", err)
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	small := newDriver(r.AnswerBytes, r.Timeout)
	small.bench.addrs = c.addrs()
	if _, err := small.fill(ctx, r.Keys[0], min(r.FillConnections, int(r.Keys[0])), r.to.progress); err != nil {
		return err
	}
	for _, of := range []struct {
		work func(*keeper) operation
		into *sideBySide
	}{
		{replayingAny, &l.Replays}, {replayingNewest, &l.Newest},
		{creatingNew, &l.New}, // last: it makes the small one larger
	} {
		if *of.into, err = r.byTurns(ctx, l, small, c.nodes, of.work); err != nil {
			return err
		}
	}
	return nil
}

// byTurns measures one kind of work, closed loop. What either cluster still writes
// out of one turn must not count against the other in the next.
func (r *scaleRun) byTurns(ctx context.Context, l *scaleLevel, small *driver, smallNodes []*localNode, work func(*keeper) operation) (s sideBySide, err error) {
	lasting := r.Duration / besideTurns
	nodes := slices.Concat(r.cluster.nodes, smallNodes)
	turn := func(d *driver) (perSecond, p99 float64, err error) {
		if err := r.settled(ctx, nodes); err != nil {
			return 0, 0, err
		}
		t := d.run(ctx, r.Warmup, lasting, flow{connections: r.Connections, operation: work})[0]
		l.noteFailures(t)
		return float64(t.operations) / lasting.Seconds(), t.milliseconds(99), nil
	}
	var rates, p99s, rateTo, p99To []float64
	for range besideTurns {
		smallRate, smallP99, err := turn(small)
		if err != nil {
			return s, err
		}
		rate, p99, err := turn(r.driver)
		if err != nil {
			return s, err
		}
		rates, p99s = append(rates, rate), append(p99s, p99)
		// Nothing done is a failure, which is reported; it has no relation.
		rateTo, p99To = append(rateTo, rate/max(smallRate, 1/lasting.Seconds())), append(p99To, p99/max(smallP99, 1e-6))
	}
	return sideBySide{spreadOf(rates).Median, spreadOf(p99s).Median, spreadOf(rateTo).Median, spreadOf(p99To).Median}, ctx.Err()
}
