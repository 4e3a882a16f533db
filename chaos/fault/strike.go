//go:build linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/onced/onced/chaos/netns"
)

// Strikes are what Strike can do to a leader here, in a fixed order.
func (c *Cluster) Strikes() []string {
	return slices.DeleteFunc([]string{"kill-leader", "pause-leader", "partition-leader"}, func(kind string) bool { return !c.offers(catalogue[kind]) })
}

// Struck is a fault that lasts until it is healed.
type Struck struct {
	Leader  *Member // that it was done to
	Others  []*Member
	cluster *Cluster
	undo    func(context.Context) error // nil where nodes are all that is broken
}

// Strike does one of Strikes to the node that leads now, once, and leaves it so.
// An error leaves nothing broken but what Heal of the cluster mends.
func (c *Cluster) Strike(ctx context.Context, kind string) (*Struck, error) {
	if !slices.Contains(c.Strikes(), kind) {
		return nil, fmt.Errorf("strike: there is no %s here", kind)
	}
	m, err := (&injection{Cluster: c}).leader(ctx)
	if err != nil {
		return nil, fmt.Errorf("strike: %w", err)
	}
	s := &Struck{Leader: m, Others: c.others(m), cluster: c}
	switch kind {
	case "kill-leader":
		err = m.Kill(ctx)
	case "pause-leader":
		err = m.Pause()
	case "partition-leader":
		var cut *netns.Trouble
		if cut, err = c.net.Cut(ctx, netns.Both(m.Host, c.net.Everyone(m.Host)...)...); err == nil {
			s.undo = cut.Heal
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return s, nil
}

// Heal ends the fault and waits until all nodes are ready.
func (s *Struck) Heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healWithin)
	defer cancel()
	var err error
	if s.undo != nil {
		err = s.undo(ctx)
	}
	return errors.Join(err, s.cluster.Heal(ctx))
}

// KillAll kills every node at once; Heal starts them again.
func (c *Cluster) KillAll(ctx context.Context) error {
	errs := make([]error, len(c.Nodes))
	var killing sync.WaitGroup
	for i, m := range c.Nodes {
		killing.Go(func() { errs[i] = m.Kill(ctx) })
	}
	killing.Wait()
	return errors.Join(errs...)
}

// AwaitCalm waits until every node is ready, all name one leader, and it holds
// all of them for healthy.
func (c *Cluster) AwaitCalm(ctx context.Context) error {
	if err := c.awaitReady(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return await(ctx, "nodes to agree on a healthy cluster", func() bool { return c.calm(ctx) })
}

func (c *Cluster) calm(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	leader := c.Reign(ctx).Leader
	if leader == nil {
		return false
	}
	for _, m := range c.Nodes {
		v, err := m.View(ctx)
		if err != nil || v.Leader != leader.Name() {
			return false
		}
		if m != leader {
			continue
		}
		for _, n := range v.Nodes {
			if !n.Healthy {
				return false
			}
		}
	}
	return true
}
