//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/onced/onced/chaos/fault"
	"github.com/onced/onced/cluster"
)

// Failover is how long clients of the surviving nodes are without a success when
// the leader is lost, and what failures they see.
type Failover struct {
	Profile   string  `json:"raft_profile"`
	Election  Span    `json:"election_timeout"`
	Heartbeat Span    `json:"heartbeat_timeout"`
	Faults    []Fault `json:"faults"`
}

// Fault is what came of one kind of fault.
type Fault struct {
	Kind string `json:"kind"`
	// Gap is the time without a success, each the longest of its try.
	Gap      Figure   `json:"time_without_success"`
	Calls    int      `json:"calls"`    // of the surviving nodes' clients
	Failures Failures `json:"failures"` // of those
	gaps     []time.Duration
}

// FailoverOf strikes the leader of a cluster, started with a raft profile, tries
// times with each of kinds, under load. With an error it returns what is complete.
func FailoverOf(ctx context.Context, c *fault.Cluster, profile string, tries int, kinds []string, progress io.Writer) (*Failover, error) {
	timeouts := cluster.TimeoutsOf(profile)
	f := &Failover{Profile: profile, Election: Span(timeouts.Election), Heartbeat: Span(timeouts.Heartbeat)}
	s := startStream(ctx, "failover", clientsOf(c.Nodes)...)
	defer s.stop()
	for _, kind := range kinds {
		sum := Fault{Kind: kind, Failures: Failures{}}
		for try := range tries {
			gap, made, failures, err := s.tryOne(ctx, c, kind)
			if err != nil {
				return f, fmt.Errorf("%s, try %d: %w", kind, try+1, err)
			}
			sum.gaps = append(sum.gaps, gap)
			sum.Calls += made
			sum.Failures.add(failures)
			fmt.Fprintf(progress, "%s %d of %d: %v without a success, failures: %v\n", kind, try+1, tries, Span(gap), failures)
		}
		sum.Gap = Sum(sum.gaps)
		f.Faults = append(f.Faults, sum)
	}
	return f, nil
}

// tryOne strikes the leader once, and heals that. Failures are counted until all
// is as it was before.
func (s *stream) tryOne(ctx context.Context, c *fault.Cluster, kind string) (gap time.Duration, made int, failures Failures, err error) {
	if err := s.calm(ctx, c); err != nil {
		return 0, 0, nil, err
	}
	w := window{begin: s.now()}
	struck, err := c.Strike(ctx, kind)
	if err != nil {
		return 0, 0, nil, err
	}
	survivors := indexes(c, struck.Others)
	err = s.settle(ctx, s.now(), survivors...)
	w.end = s.now()
	if err := errors.Join(err, struck.Heal(context.WithoutCancel(ctx))); err != nil {
		return 0, 0, nil, err
	}
	if err := s.calm(ctx, c); err != nil {
		return 0, 0, nil, err
	}
	calls := s.of(survivors...)
	made, failures = failed(calls, window{w.begin, s.now()})
	return longestGap(calls, w), made, failures, nil
}

// calm waits until nodes and clients are as without a fault.
func (s *stream) calm(ctx context.Context, c *fault.Cluster) error {
	if err := c.AwaitCalm(ctx); err != nil {
		return err
	}
	all := make([]int, len(s.clients))
	for i := range all {
		all[i] = i
	}
	return s.settle(ctx, s.now(), all...)
}

// indexes are those of the clients of members.
func indexes(c *fault.Cluster, members []*fault.Member) (of []int) {
	for i, m := range c.Nodes {
		if slices.Contains(members, m) {
			of = append(of, i)
		}
	}
	return of
}

// Print writes a table.
func (f *Failover) Print(to io.Writer) error {
	fmt.Fprintf(to, "Clients of the two surviving nodes; --raft-profile %s: election timeout %v, heartbeat timeout %v.\n\n", f.Profile, f.Election, f.Heartbeat)
	var rows [][]string
	for _, k := range f.Faults {
		rows = append(rows, []string{k.Kind, fmt.Sprint(k.Gap.Times), k.Gap.Median.String(), k.Gap.P90.String(), k.Gap.Worst.String(), fmt.Sprint(k.Calls), k.Failures.String()})
	}
	return table(to, []string{"fault", "tries", "median", "p90", "worst", "calls", "failures"}, rows)
}
