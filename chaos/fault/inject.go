//go:build linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/netns"
	"github.com/onced/onced/chaos/node"
)

// healWithin bounds the end of a fault, whatever happens.
const healWithin = 90 * time.Second

// Event is what came of a step.
type Event struct {
	Kind  string   // of both, joined by "+", where it were two
	Nodes []string // that it was done to
	// Begin and End are offsets from the start that the caller gave. End is
	// when everything is healed and all nodes are ready again.
	Begin, End time.Duration
	// Evidence is what shows that it bit; empty where nothing does, of two
	// faults also where one of them has none.
	Evidence string
	Err      error // it could not be done, or not be healed
}

// Inject does what step says, heals it and waits until all nodes are ready. When
// ctx ends it heals at once. Only one step may be under way at a time.
func (c *Cluster) Inject(ctx context.Context, start time.Time, step Step) Event {
	e := Event{Kind: step.String(), Begin: time.Since(start)}
	before := c.Reign(ctx)
	faults := make([]*injection, len(step.Kinds))
	errs := make([]error, len(step.Kinds))
	var doing sync.WaitGroup
	for i, kind := range step.Kinds {
		f := &injection{Cluster: c, chance: rand.New(rand.NewPCG(step.Seed, uint64(i))), hold: step.Hold, before: before}
		faults[i] = f
		k, known := catalogue[kind]
		if !known || !c.offers(k) {
			errs[i] = fmt.Errorf("there is no fault %s here", kind)
			continue
		}
		doing.Go(func() { errs[i] = k.run(ctx, f) })
	}
	doing.Wait()
	healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWithin)
	defer cancel()
	for _, f := range faults {
		errs = append(errs, f.heal(healing))
	}
	errs = append(errs, c.Heal(healing))
	after := c.Reign(healing)
	var evidence []string
	for _, f := range faults {
		e.Nodes = append(e.Nodes, f.nodes...)
		if len(f.evidence) > 0 {
			evidence = append(evidence, strings.Join(f.evidence, ", "))
		}
	}
	slices.Sort(e.Nodes)
	e.Nodes = slices.Compact(e.Nodes)
	e.End, e.Err = time.Since(start), errors.Join(errs...)
	if len(evidence) == len(faults) && e.Err == nil {
		e.Evidence = strings.Join(evidence, "; ")
		if after.Term > before.Term {
			e.Evidence += fmt.Sprintf("; %v led before, %v after", before, after)
		}
	}
	return e
}

// injection is one fault that is under way.
type injection struct {
	*Cluster
	chance *rand.Rand
	hold   time.Duration // how long to leave things broken
	before Reign

	nodes    []string
	evidence []string
	undo     []func(context.Context) error // the last one first
}

// on notes that the fault is done to nodes.
func (f *injection) on(members ...*Member) {
	for _, m := range members {
		f.nodes = append(f.nodes, m.Name())
	}
}

// saw notes evidence that the fault bit.
func (f *injection) saw(format string, args ...any) {
	f.evidence = append(f.evidence, fmt.Sprintf(format, args...))
}

// later has do called when the fault is over, however it ends.
func (f *injection) later(do func(context.Context) error) { f.undo = append(f.undo, do) }

// heal undoes all that is left to undo.
func (f *injection) heal(ctx context.Context) error {
	var errs []error
	for _, do := range slices.Backward(f.undo) {
		errs = append(errs, do(ctx))
	}
	f.undo = nil
	return errors.Join(errs...)
}

// wait leaves things as they are for d.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// any is a node by chance, leader or not.
func (f *injection) any() *Member { return f.Nodes[f.chance.IntN(len(f.Nodes))] }

// leader is who leads now, waited for.
func (f *injection) leader(ctx context.Context) (*Member, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	var r Reign
	err := await(ctx, "a leader", func() bool {
		r = f.Reign(ctx)
		return r.Leader != nil
	})
	return r.Leader, err
}

// follower is a node by chance that does not lead.
func (f *injection) follower(ctx context.Context) (m, leader *Member, err error) {
	leader, err = f.leader(ctx)
	if err != nil {
		return nil, nil, err
	}
	rest := f.others(leader)
	return rest[f.chance.IntN(len(rest))], leader, nil
}

// newLeader waits until the nodes but old have elected one of them, and notes
// it. Without one in time there is no such evidence, and no error either.
func (f *injection) newLeader(ctx context.Context, old *Member) error {
	bound, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	began := time.Now()
	_ = await(bound, "a new leader", func() bool { // what is not seen is not noted
		r := f.reignOf(bound, f.others(old))
		if r.Leader == nil || r.Leader == old {
			return false
		}
		f.saw("%v leads %v later", r, time.Since(began).Round(10*time.Millisecond))
		return true
	})
	return ctx.Err()
}

// kill kills nodes at once; they are started when the fault is over.
func (f *injection) kill(ctx context.Context, members ...*Member) error {
	errs := make([]error, len(members))
	pids := make([]int, len(members))
	var killing sync.WaitGroup
	for i, m := range members {
		pids[i] = m.PID()
		killing.Go(func() { errs[i] = m.Kill(ctx) })
	}
	killing.Wait()
	for i, m := range members {
		if errs[i] == nil && pids[i] != 0 {
			f.saw("%s, process %d, was killed", m.Name(), pids[i])
		}
	}
	return errors.Join(errs...)
}

// pause stops a node where it is; it goes on when the fault is over.
func (f *injection) pause(m *Member) error {
	began := time.Now()
	if err := m.Pause(); err != nil {
		return err
	}
	f.later(func(context.Context) error {
		if m.Paused() {
			f.saw("%s stood still for %v", m.Name(), time.Since(began).Round(10*time.Millisecond))
		}
		return m.Resume()
	})
	return nil
}

// trouble notes a trouble on links that has begun; it is healed when the fault is
// over, and the packets that it met are evidence.
func (f *injection) trouble(what string, t *netns.Trouble, err error) (heal func(context.Context) error, _ error) {
	if err != nil {
		return nil, err
	}
	healed := false
	heal = func(ctx context.Context) error {
		if healed {
			return nil
		}
		healed = true
		packets, err := t.Packets(ctx)
		if packets > 0 {
			f.saw("%d packets %s", packets, what)
		}
		return errors.Join(err, t.Heal(ctx))
	}
	f.later(heal)
	return heal, nil
}

// command sends a command to the API of any node that takes it, the leader's
// first.
func (f *injection) command(ctx context.Context, method, path, body string, nodes ...*Member) (err error) {
	err = errors.New("no node was asked")
	for range 3 {
		for _, m := range nodes {
			bound, cancel := context.WithTimeout(ctx, 15*time.Second)
			_, err = m.Call(bound, method, path, body)
			cancel()
			if err == nil {
				return nil
			}
		}
	}
	return err
}

// replace takes m out of the cluster and has it come back, empty, under another
// id: the way back of a node whose disk is lost.
func (f *injection) replace(ctx context.Context, m *Member) error {
	rest := f.others(m)
	old := m.Name()
	if err := m.Kill(ctx); err != nil {
		return err
	}
	err := f.command(ctx, http.MethodDelete, "/v1/cluster/nodes/"+old, "", rest...)
	if err != nil && f.isMember(ctx, old) {
		return fmt.Errorf("remove %s: %w", old, err)
	}
	if err := m.clear(); err != nil {
		return err
	}
	m.renamed++
	id := fmt.Sprintf("%s.%d", m.ID, m.renamed)
	if err := errors.Join(m.Rename(id, rest[0].RaftAddr), m.Start()); err != nil {
		return err
	}
	body := fmt.Sprintf(`{"id":%q,"raft_addr":%q}`, id, m.RaftAddr)
	err = await(ctx, id+" to be added", func() bool {
		err := f.command(ctx, http.MethodPost, "/v1/cluster/nodes", body, rest...)
		return err == nil || f.isMember(ctx, id)
	})
	if err != nil {
		return err
	}
	f.saw("%s was removed and came back as %s", old, id)
	return nil
}

// isMember reports whether the leader counts a node id among its cluster.
func (f *injection) isMember(ctx context.Context, id string) bool {
	leader, err := f.leader(ctx)
	if err != nil {
		return true
	}
	v, err := leader.View(ctx)
	if err != nil {
		return true
	}
	for _, n := range v.Nodes {
		if n.ID == id {
			return true
		}
	}
	return false
}

// statusOf is the status of an answer that was an error, 0 if there was none.
func statusOf(err error) int {
	var refused *node.Refusal
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}
