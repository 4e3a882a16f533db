//go:build linux

package measure

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/onced/onced/chaos/fault"
)

// Rolling is what clients see while every node is restarted, one after the other.
type Rolling struct {
	Rounds   int `json:"rounds"`
	Restarts int `json:"restarts"`
	// Others are clients of the nodes that are not being restarted; Balanced are
	// those that go to the next node where a connection is refused.
	Others   Seen `json:"clients_of_other_nodes"`
	Balanced Seen `json:"balanced_clients"`
}

// Seen is what some clients saw.
type Seen struct {
	Calls    int      `json:"calls"`
	Failures Failures `json:"failures"`
	Longest  Span     `json:"longest_time_without_success"`
}

func (s *Seen) add(calls []call, w window) {
	made, failures := failed(calls, w)
	s.Calls += made
	if s.Failures == nil {
		s.Failures = Failures{}
	}
	s.Failures.add(failures)
	s.Longest = max(s.Longest, Span(longestGap(calls, w)))
}

// RollingOf stops and starts each node of a cluster, as an operator does, rounds
// times, under load.
func RollingOf(ctx context.Context, c *fault.Cluster, rounds int, progress io.Writer) (*Rolling, error) {
	r := &Rolling{Rounds: rounds}
	s := startStream(ctx, "rolling", append(clientsOf(c.Nodes), balanced(c.Nodes))...)
	defer s.stop()
	for round := range rounds {
		for i := range c.Nodes {
			if err := r.restart(ctx, s, c, i); err != nil {
				return nil, fmt.Errorf("round %d, restart of %s: %w", round+1, c.Nodes[i].Name(), err)
			}
			fmt.Fprintf(progress, "round %d of %d, %s: failures so far: other nodes' clients %v, balanced %v\n",
				round+1, rounds, c.Nodes[i].Name(), r.Others.Failures, r.Balanced.Failures)
		}
	}
	return r, nil
}

// stopWithin is above what a node may take to stop.
const stopWithin = 35 * time.Second

// restart restarts node i and counts what is seen until all is as before.
func (r *Rolling) restart(ctx context.Context, s *stream, c *fault.Cluster, i int) error {
	if err := s.calm(ctx, c); err != nil {
		return err
	}
	m := c.Nodes[i]
	begin := s.now()
	stopping, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	switch status, err := m.Terminate(stopping); {
	case err != nil:
		return err
	case status != 0:
		return fmt.Errorf("it stopped with status %d", status)
	}
	if err := m.Start(); err != nil {
		return err
	}
	if err := s.calm(ctx, c); err != nil {
		return err
	}
	w := window{begin, s.now()}
	var others []int
	for j := range c.Nodes {
		if j != i {
			others = append(others, j)
		}
	}
	r.Others.add(s.of(others...), w)
	r.Balanced.add(s.of(len(c.Nodes)), w)
	r.Restarts++
	return nil
}

// Print writes a table.
func (r *Rolling) Print(to io.Writer) error {
	fmt.Fprintf(to, "%d restarts of a node in %d rounds.\n\n", r.Restarts, r.Rounds)
	row := func(name string, s Seen) []string {
		return []string{name, fmt.Sprint(s.Calls), s.Failures.String(), s.Longest.String()}
	}
	return table(to, []string{"clients", "calls", "failures", "longest time without a success"},
		[][]string{row("of the other nodes", r.Others), row("of any node, the next where refused", r.Balanced)})
}
