package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// driver puts load on a cluster and knows all keys that it has created there.
type driver struct {
	bench  *bench
	ledger *ledger
	runs   atomic.Uint64 // keeps the numbers of keys of one run from those of others
}

// newDriver returns one whose answers to POST /create have the given size.
func newDriver(answerBytes int, timeout time.Duration) *driver {
	value := answerBytes - len(`{"id":"00000000-0000-0000-0000-000000000000","data":}`)
	return &driver{
		bench:  &bench{options: loadOptions{Timeout: timeout}, material: newMaterial(rand.Uint64(), byteRange{value, value})},
		ledger: new(ledger),
	}
}

func (d *driver) newKeeper(c *conn) *keeper {
	return &keeper{operator: d.bench.newOperator(c), ledger: d.ledger, random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
}

// flow is one kind of load: at a rate, or as fast as it is answered if that is 0.
type flow struct {
	connections int
	rate        int64
	operation   func(*keeper) operation
	also        *intervals // nil, or where its operations are counted too
}

var (
	creatingNew     = func(k *keeper) operation { return k.create }
	replayingAny    = func(k *keeper) operation { return k.replay }
	replayingNewest = func(k *keeper) operation { return k.replayNewest }
)

// run runs flows beside each other, and returns a tally for each of what was
// done between the end of the warm-up and the end.
func (d *driver) run(ctx context.Context, warmup, duration time.Duration, flows ...flow) []*tally {
	begin := time.Now()
	var tallies []*tally
	var running sync.WaitGroup
	for _, f := range flows {
		t := newTally(begin.Add(warmup), begin.Add(warmup+duration))
		t.also = f.also
		tallies = append(tallies, t)
		running.Go(func() { d.runFlow(ctx, begin, f, t) })
	}
	running.Wait()
	return tallies
}

func (d *driver) runFlow(ctx context.Context, begin time.Time, f flow, t *tally) {
	plan := &arrivals{schedule: schedule{from: begin, to: t.to, rate: f.rate}}
	conns := d.bench.newConns(f.connections)
	defer context.AfterFunc(ctx, func() { abortAll(conns) })()
	var workers sync.WaitGroup
	for _, c := range conns {
		w := &worker{operate: f.operation(d.newKeeper(c)), tally: t, number: d.runs.Add(1) << 32}
		workers.Go(func() {
			defer c.hangUp()
			if f.rate > 0 {
				w.openLoop(ctx, plan)
			} else {
				w.closedLoop(ctx)
			}
		})
	}
	workers.Wait()
	if f.rate > 0 {
		t.fail(unsent, plan.total()-plan.begun.Load())
	}
}

// fill creates keys until the ledger has so many, says how far it is, and
// returns how many a second there were, 0 if there was nothing to do.
func (d *driver) fill(ctx context.Context, keys uint64, connections int, progress io.Writer) (float64, error) {
	const telling = 15 * time.Second
	first, began := d.ledger.next.Load(), time.Now()
	if first >= keys {
		return 0, nil
	}
	var left atomic.Int64
	left.Store(int64(keys - first))
	told := time.NewTicker(telling)
	defer told.Stop()
	failed := d.each(ctx, connections, func(ctx context.Context, k *keeper) (more bool, err error) {
		if left.Add(-1) < 0 {
			return false, nil
		}
		select {
		case <-told.C:
			fmt.Fprintf(progress, "%s of %s keys\n", count(float64(d.ledger.next.Load())), count(float64(keys)))
		default:
		}
		return true, k.createSurely(ctx)
	})
	return float64(keys-first) / time.Since(began).Seconds(), failed
}

// each calls step on so many connections until it wants no more or fails.
func (d *driver) each(ctx context.Context, connections int, step func(context.Context, *keeper) (bool, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := d.bench.newConns(connections)
	defer context.AfterFunc(ctx, func() { abortAll(conns) })()
	var workers sync.WaitGroup
	for _, c := range conns {
		k := d.newKeeper(c)
		workers.Go(func() {
			defer c.hangUp()
			for {
				more, err := step(ctx, k)
				if err != nil {
					cancel(err)
				}
				if !more || err != nil {
					return
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
