package simulation

import (
	"context"
	"time"

	"github.com/onced/onced/api"
	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
)

// Plant is a bug that is put into a run.
type Plant string

// The bugs that can be planted: those that a simulation that proves anything
// finds.
const (
	// LyingDisk: the log says that it has synced, and has not.
	LyingDisk Plant = "lying-disk"
	// EarlyAnswer: a completion is answered before it is committed.
	EarlyAnswer Plant = "early-answer"
	// AnyFence: a completion takes the fence of whoever holds the key.
	AnyFence Plant = "any-fence"
	// NewIdentity: a create that was not answered is sent again as another.
	NewIdentity Plant = "new-identity"
	// ShortLease: a lease is granted for half of its time.
	ShortLease Plant = "short-lease"
	// StaleRead: a linearizable read is answered from the node's own state.
	StaleRead Plant = "stale-read"
)

// Plants are all of them.
var Plants = []Plant{LyingDisk, EarlyAnswer, AnyFence, NewIdentity, ShortLease, StaleRead}

type planted struct{ bug Plant }

// wrap puts the bug between the handlers and the node.
func (p planted) wrap(n *cluster.Node) api.Cluster {
	switch p.bug {
	case EarlyAnswer, AnyFence, StaleRead:
		return buggyWrites{n, p.bug}
	case NewIdentity, ShortLease:
		return buggyBegin{n, p.bug}
	}
	return n
}

type buggyWrites struct {
	*cluster.Node
	bug Plant
}

// Propose implements api.Cluster.
func (b buggyWrites) Propose(ctx context.Context, c *fsm.Command) (*fsm.Outcome, error) {
	rec, err := b.Lookup(c.Namespace, c.Key)
	if err != nil || rec == nil {
		return b.Node.Propose(ctx, c)
	}
	switch {
	case b.bug == AnyFence && c.Kind == fsm.Kind_COMPLETE:
		c.Fence = rec.Fence
	case b.bug == StaleRead && c.Kind == fsm.Kind_READ:
		return &fsm.Outcome{Code: fsm.Code_OK, Record: rec}, nil
	case b.bug == EarlyAnswer && c.Kind == fsm.Kind_COMPLETE && c.Fence == rec.Fence && rec.State == fsm.State_CLAIMED:
		rec.State, rec.Response, rec.CompletedAt = fsm.State_COMPLETED, c.Response, rec.CreatedAt
		later := context.WithoutCancel(ctx)
		go func() { _, _ = b.Node.Propose(later, c) }()
		return &fsm.Outcome{Code: fsm.Code_OK, Record: rec}, nil
	}
	return b.Node.Propose(ctx, c)
}

type buggyBegin struct {
	*cluster.Node
	bug Plant
}

// Begin implements api.Cluster.
func (b buggyBegin) Begin(ctx context.Context, c *fsm.Command, wait time.Duration) (*fsm.Outcome, error) {
	if b.bug == ShortLease && c.Kind == fsm.Kind_CLAIM {
		c.Lease /= 2
	}
	o, err := b.Node.Begin(ctx, c, wait)
	if b.bug == NewIdentity && c.Kind == fsm.Kind_CREATE && err == nil && o.Code == fsm.Code_REPLAY {
		// What had been done is done again, under another key.
		c.Key, c.RequestId, c.Uniques = c.Key+"-again", nil, nil
		return b.Node.Begin(ctx, c, wait)
	}
	return o, err
}
