package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// pauseAfterError keeps a connection to a node that is down from spinning.
const pauseAfterError = 20 * time.Millisecond

// cell is the result of one kind of work at one number of connections.
type cell struct {
	Work        string `json:"work"`
	Connections int    `json:"connections"`
	Rate        int64  `json:"rate,omitempty"` // asked for; 0 in a closed loop

	Seconds    float64 `json:"seconds"`    // of the window
	Operations int64   `json:"operations"` // done in it
	PerSecond  float64 `json:"operations_per_second"`
	Mean       float64 `json:"mean_ms"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	P999       float64 `json:"p999_ms"`
	Max        float64 `json:"max_ms"`

	// Failures counts what did not succeed, in the warm-up too, by status or
	// by kind of error.
	Failures     map[string]int64 `json:"failures"`
	FirstFailure string           `json:"first_failure,omitempty"`

	// CPU seconds per 1,000 operations; null where not measured.
	ClientCPU *float64 `json:"client_cpu_seconds_per_1000"`
	ServerCPU *float64 `json:"server_cpu_seconds_per_1000"`
	// OtherBusy is the share of the machine's CPU time that neither client nor
	// servers used, in percent; null where not measured.
	OtherBusy *float64 `json:"other_busy_percent"`
}

// runCell runs one kind of work at one number of connections. cellNumber,
// from 1, keeps its keys apart from those of other cells.
func (b *bench) runCell(ctx context.Context, cellNumber int, work string, connections int) (cell, error) {
	begin := time.Now()
	from := begin.Add(b.options.Warmup)
	t := newTally(from, from.Add(b.options.Duration))
	plan := &arrivals{schedule: schedule{from: begin, to: t.to, rate: b.options.Rate}}

	conns := b.newConns(connections)
	defer context.AfterFunc(ctx, func() { abortAll(conns) })()
	var workers sync.WaitGroup
	for i, c := range conns {
		o := b.newOperator(c)
		w := &worker{operate: o.operation(work), tally: t, number: uint64(cellNumber)<<48 | uint64(i)<<32}
		workers.Go(func() {
			defer c.hangUp()
			if plan.rate > 0 {
				w.openLoop(ctx, plan)
			} else {
				w.closedLoop(ctx)
			}
		})
	}
	spent, err := b.observe(ctx, t.from, t.to)
	workers.Wait()
	if err != nil {
		return cell{}, err
	}
	if plan.rate > 0 {
		t.fail(unsent, plan.total()-plan.begun.Load())
	}
	return b.report(work, connections, t, spent), nil
}

// report sums a cell up.
func (b *bench) report(work string, connections int, t *tally, spent usage) cell {
	seconds := t.to.Sub(t.from).Seconds()
	c := cell{
		Work:        work,
		Connections: connections,
		Rate:        b.options.Rate,
		Seconds:     seconds,
		Operations:  t.operations,
		PerSecond:   float64(t.operations) / seconds,
		Mean:        t.latency.Mean() / 1000,
		P50:         t.milliseconds(50),
		P99:         t.milliseconds(99),
		P999:        t.milliseconds(99.9),
		Max:         t.milliseconds(100),
		Failures:    t.failures,
		ClientCPU:   perThousand(spent.client, t.operations),
		ServerCPU:   perThousand(spent.servers, t.operations),
		OtherBusy:   spent.otherBusy(),
	}
	if t.firstFailure != nil {
		c.FirstFailure = t.firstFailure.Error()
	}
	return c
}

// newConns returns connections whose first nodes go round the list.
func (b *bench) newConns(n int) []*conn {
	conns := make([]*conn, n)
	for i := range conns {
		conns[i] = newConn(b.addrs, i, b.options.Timeout)
	}
	return conns
}

func abortAll(conns []*conn) {
	for _, c := range conns {
		c.abort()
	}
}

// worker is the load of one connection.
type worker struct {
	operate operation
	tally   *tally
	number  uint64 // of the next operation
}

// closedLoop begins an operation as soon as the last has ended.
func (w *worker) closedLoop(ctx context.Context) {
	for begun := time.Now(); begun.Before(w.tally.to) && ctx.Err() == nil; {
		begun = w.step(ctx, begun)
	}
}

// openLoop begins the next operation due when it is due, or as soon as it can
// after that; its latency counts from when it was due.
func (w *worker) openLoop(ctx context.Context, plan *arrivals) {
	total := plan.total()
	for {
		n := plan.taken.Add(1) - 1
		if n >= total {
			return
		}
		due := plan.due(n)
		if err := sleepUntil(ctx, due); err != nil || !time.Now().Before(w.tally.to) {
			return
		}
		plan.begun.Add(1)
		w.step(ctx, due)
	}
}

// step runs one operation, counted from begun, and returns the time after it.
func (w *worker) step(ctx context.Context, begun time.Time) time.Time {
	result, detail := w.operate(ctx, w.number)
	w.number++
	ended := time.Now()
	w.tally.add(begun, ended, result, detail)
	switch result {
	case connectionError, timedOut, protocolError:
		_ = sleepUntil(ctx, ended.Add(pauseAfterError)) // an end of ctx ends the loop
		return time.Now()
	}
	return ended
}

// arrivals is a schedule that the connections of a cell share.
type arrivals struct {
	schedule
	taken atomic.Int64
	begun atomic.Int64
}

// sleepUntil waits for a time, or for the end of ctx, which is its error.
func sleepUntil(ctx context.Context, at time.Time) error {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recordAll creates the keys that replays are spread over, and keeps their
// answers.
func (b *bench) recordAll(ctx context.Context) error {
	const connections = 64
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := b.newConns(min(connections, b.options.Keys))
	defer context.AfterFunc(ctx, func() { abortAll(conns) })()
	b.recorded = make([][]byte, b.options.Keys)
	var next atomic.Int64
	var workers sync.WaitGroup
	for _, c := range conns {
		o := b.newOperator(c)
		workers.Go(func() {
			defer c.hangUp()
			for {
				number := next.Add(1) - 1
				if number >= int64(b.options.Keys) {
					return
				}
				if err := o.recordSurely(ctx, uint64(number)); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// recordSurely records a key, trying again where the service may be busy.
func (o *operator) recordSurely(ctx context.Context, number uint64) error {
	const attempts, pause = 20, 250 * time.Millisecond
	var detail error
	for range attempts {
		var result outcome
		if result, detail = o.record(ctx, number); result == done {
			return nil
		}
		if result == wrong {
			break
		}
		if err := sleepUntil(ctx, time.Now().Add(pause)); err != nil {
			return err
		}
	}
	return fmt.Errorf("create key %d: %w", number, detail)
}
