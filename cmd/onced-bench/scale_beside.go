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
	// About what all nodes had read from a disk for one operation, compactions
	// included; nil: not known.
	DiskKiB *float64 `json:"disk_read_kib"`
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
	small := side{newDriver(r.AnswerBytes, r.Timeout), c.nodes}
	small.driver.bench.addrs = c.addrs()
	if _, err := small.driver.fill(ctx, r.Keys[0], min(r.FillConnections, int(r.Keys[0])), r.to.progress); err != nil {
		return err
	}
	both := &pairing{scaleRun: r, level: l, small: small, large: side{r.driver, r.cluster.nodes}}
	for _, of := range []struct {
		work func(*keeper) operation
		into *sideBySide
	}{
		{replayingAny, &l.Replays}, {replayingNewest, &l.Newest},
		{creatingNew, &l.New}, // last: it makes the small one larger
	} {
		if *of.into, err = both.byTurns(ctx, of.work); err != nil {
			return err
		}
	}
	return nil
}

// side is a cluster that is measured beside another, and who puts load on it.
type side struct {
	driver *driver
	nodes  []*localNode
}

// pairing is what is measured by turns at one level.
type pairing struct {
	*scaleRun
	level        *scaleLevel
	small, large side
}

// turn is what came of measuring one side once.
type turn struct {
	perSecond, p99 float64
	diskKiB        *float64 // see sideBySide
}

// byTurns measures one kind of work, closed loop.
func (p *pairing) byTurns(ctx context.Context, work func(*keeper) operation) (s sideBySide, err error) {
	var rates, p99s, disk, rateTo, p99To []float64
	for range besideTurns {
		small, err := p.take(ctx, p.small, work)
		if err != nil {
			return s, err
		}
		large, err := p.take(ctx, p.large, work)
		if err != nil {
			return s, err
		}
		rates, p99s = append(rates, large.perSecond), append(p99s, large.p99)
		// Nothing done is a failure, which is reported; it has no relation.
		rateTo, p99To = append(rateTo, large.perSecond/max(small.perSecond, 1)), append(p99To, large.p99/max(small.p99, 1e-6))
		if large.diskKiB != nil {
			disk = append(disk, *large.diskKiB)
		}
	}
	s = sideBySide{
		PerSecond: spreadOf(rates).Median, P99: spreadOf(p99s).Median,
		RateToSmall: spreadOf(rateTo).Median, P99ToSmall: spreadOf(p99To).Median,
	}
	if len(disk) == besideTurns {
		median := spreadOf(disk).Median
		s.DiskKiB = &median
	}
	return s, ctx.Err()
}

// take measures one side once. What either still writes out of one turn must not count
// against the other in the next.
func (p *pairing) take(ctx context.Context, of side, work func(*keeper) operation) (t turn, err error) {
	if err := p.settled(ctx, slices.Concat(p.large.nodes, p.small.nodes)); err != nil {
		return t, err
	}
	lasting := p.Duration / besideTurns
	before, errBefore := diskReadsOf(of.nodes)
	tally := of.driver.run(ctx, p.Warmup, lasting, flow{connections: p.Connections, operation: work})[0]
	after, errAfter := diskReadsOf(of.nodes)
	p.level.noteFailures(tally)
	t.perSecond, t.p99 = float64(tally.operations)/lasting.Seconds(), tally.milliseconds(99)
	// The warm-up, in which operations are not counted, has read as well.
	if done := t.perSecond * (p.Warmup + lasting).Seconds(); done > 0 && errBefore == nil && errAfter == nil {
		each := float64(after-before) / (1 << 10) / done
		t.diskKiB = &each
	}
	return t, nil
}
