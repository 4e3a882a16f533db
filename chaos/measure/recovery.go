//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onced/onced/chaos/fault"
)

// Recovery is how long a cluster of which all nodes were killed takes to be back.
type Recovery struct {
	Sizes []Size `json:"sizes"`
}

// Size is what came of one number of keys.
type Size struct {
	Keys int `json:"keys"`
	// FirstAnswer is from the start of the processes until the first new key is
	// answered, and AllReady until every node is ready.
	FirstAnswer Figure `json:"until_first_answer"`
	AllReady    Figure `json:"until_all_ready"`
}

const (
	fillClients = 64 // for each node
	probeEvery  = 5 * time.Millisecond
)

// SizeOf fills an empty cluster with keys, and kills and starts all of it tries
// times.
func SizeOf(ctx context.Context, c *fault.Cluster, keys, tries int, progress io.Writer) (Size, error) {
	if err := fill(ctx, c, keys, progress); err != nil {
		return Size{}, fmt.Errorf("fill in %d keys: %w", keys, err)
	}
	var first, ready []time.Duration
	for try := range tries {
		if err := c.AwaitCalm(ctx); err != nil {
			return Size{}, err
		}
		if err := c.KillAll(ctx); err != nil {
			return Size{}, err
		}
		f, r, err := comeBack(ctx, c, fmt.Sprintf("back-%d", try))
		if err != nil {
			return Size{}, fmt.Errorf("come back with %d keys: %w", keys, err)
		}
		fmt.Fprintf(progress, "%d keys, %d of %d: first answer after %v, all ready after %v\n", keys, try+1, tries, Span(f), Span(r))
		first, ready = append(first, f), append(ready, r)
	}
	return Size{keys, Sum(first), Sum(ready)}, nil
}

// fill creates keys over all nodes; a call that fails is made again.
func fill(ctx context.Context, c *fault.Cluster, keys int, progress io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, made atomic.Int64
	var filling sync.WaitGroup
	for worker := range fillClients * len(c.Nodes) {
		m := c.Nodes[worker%len(c.Nodes)]
		filling.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1)
				if n > int64(keys) {
					return
				}
				if err := persist(ctx, m, fmt.Sprintf("fill-%d", n)); err != nil {
					cancel(err)
					return
				}
				if done := made.Add(1); done%100_000 == 0 {
					fmt.Fprintf(progress, "%d of %d keys are in\n", done, keys)
				}
			}
		})
	}
	filling.Wait()
	return context.Cause(ctx)
}

// persist makes a call until it succeeds, for as long as one may take.
func persist(ctx context.Context, m *fault.Member, key string) error {
	ctx, cancel := context.WithTimeout(ctx, settledWithin)
	defer cancel()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		err := create(ctx, m, key)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// comeBack starts all nodes and times the first answer to a new key, of whichever
// node, and the moment at which all are ready.
func comeBack(ctx context.Context, c *fault.Cluster, key string) (first, ready time.Duration, err error) {
	asking, answered := context.WithCancel(ctx)
	defer answered()
	began := time.Now()
	answers := make(chan time.Duration, len(c.Nodes))
	var clients sync.WaitGroup
	for i, m := range c.Nodes {
		clients.Go(func() {
			if persist(asking, m, fmt.Sprintf("%s-%d", key, i)) == nil {
				answers <- time.Since(began)
			}
		})
	}
	err = c.Heal(ctx)
	ready = time.Since(began)
	if err != nil {
		answered()
	}
	clients.Wait()
	close(answers)
	first, found := <-answers
	for other := range answers {
		first = min(first, other)
	}
	if err == nil && !found {
		err = errors.New("no new key was answered")
	}
	return first, ready, err
}

// Print writes a table.
func (r *Recovery) Print(to io.Writer) error {
	fmt.Fprint(to, "All nodes killed at once and started again: time until the first new key is answered, and until all nodes are ready.\n\n")
	var rows [][]string
	for _, s := range r.Sizes {
		rows = append(rows, []string{fmt.Sprint(s.Keys), fmt.Sprint(s.FirstAnswer.Times),
			s.FirstAnswer.Median.String(), s.FirstAnswer.Worst.String(), s.AllReady.Median.String(), s.AllReady.Worst.String()})
	}
	return table(to, []string{"keys", "times", "answer: median", "worst", "ready: median", "worst"}, rows)
}
