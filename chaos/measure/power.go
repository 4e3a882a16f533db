//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onced/onced/chaos/fault"
)

// PowerCuts is what cutting the power of all nodes at once takes, and what it
// takes from nodes that do not sync their log.
type PowerCuts struct {
	Synced  Cuts `json:"synced"`
	Control Cuts `json:"not_synced"`
}

// Cuts is what came of cutting the power of one cluster.
type Cuts struct {
	Cuts  int `json:"cuts"`
	Acked int `json:"acknowledged"`
	Lost  int `json:"lost"` // of those, each counted once
	Reads int `json:"reads"`
	// Unsynced is how many bytes that were not synced the cuts took of the disks:
	// without any they were none.
	Unsynced int    `json:"cuts_that_took_unsynced_bytes"`
	Example  string `json:"example,omitempty"` // of what was lost
	// Gone is why the cluster did not come back; only a control goes on without.
	Gone string `json:"did_not_come_back,omitempty"`
}

// ErrLost is that of a cluster which lost what it had acknowledged, and
// ErrUnproven of a control that lost nothing.
var (
	ErrLost     = errors.New("acknowledged answers were lost")
	ErrUnproven = errors.New("the control, which does not sync, lost nothing either: nothing is shown")
)

// Verdict is ErrLost, ErrUnproven or nil.
func (p *PowerCuts) Verdict() error {
	switch {
	case p.Synced.Lost > 0:
		return fmt.Errorf("%w: %d of %d", ErrLost, p.Synced.Lost, p.Synced.Acked)
	case p.Control.Lost == 0 || p.Synced.Cuts == 0 || p.Synced.Acked == 0:
		return ErrUnproven
	}
	return nil
}

const (
	cutClients = 4   // for each node
	cutAfter   = 100 // acknowledged answers
	readers    = 16
	// sampled is how many of the earlier answers are read again after a cut.
	sampled = 200
)

// acked is one acknowledged answer.
type acked struct{ key, answer string }

// powered is a cluster whose power is cut.
type powered struct {
	*fault.Cluster
	chance *rand.Rand
	all    []acked
	lost   map[string]bool // keys
	Cuts
}

// CutsOf cuts the power of all nodes of a cluster, which has disks of its own, a
// number of times under load. After each cut it reads from every node all that
// was acknowledged since the one before and a sample of the rest, and in the end
// everything. A control ends when it does not come back.
func CutsOf(ctx context.Context, c *fault.Cluster, cuts int, seed uint64, control bool, progress io.Writer) (Cuts, error) {
	p := &powered{Cluster: c, chance: rand.New(rand.NewPCG(seed, 0)), lost: map[string]bool{}}
	for p.Cuts.Cuts < cuts {
		if err := p.cut(ctx, progress, cuts); err != nil {
			if control && ctx.Err() == nil && p.Lost > 0 {
				p.Gone = err.Error()
				return p.Cuts, nil
			}
			return p.Cuts, fmt.Errorf("cut %d: %w", p.Cuts.Cuts+1, err)
		}
	}
	fmt.Fprintf(progress, "reading all %d answers from every node\n", len(p.all))
	if err := p.readBack(ctx, p.all); err != nil {
		return p.Cuts, fmt.Errorf("read everything back: %w", err)
	}
	return p.Cuts, nil
}

// cut loads the cluster, cuts its power under the load and reads back.
func (p *powered) cut(ctx context.Context, progress io.Writer, cuts int) error {
	began := time.Now()
	batch, event, err := p.loadAndCut(ctx)
	if err != nil {
		return err
	}
	if event.Evidence != "" {
		p.Unsynced++
	}
	earlier := p.sample()
	p.all = append(p.all, batch...)
	p.Acked = len(p.all)
	p.Cuts.Cuts++
	if err := p.readBack(ctx, append(batch, earlier...)); err != nil {
		return err
	}
	fmt.Fprintf(progress, "cut %d of %d: %d acknowledged since the last, %d of %d lost in all, %v\n",
		p.Cuts.Cuts, cuts, len(batch), p.Lost, p.Acked, Span(time.Since(began)))
	return nil
}

// sample is some of what was acknowledged so far.
func (p *powered) sample() (some []acked) {
	for range min(sampled, len(p.all)) {
		some = append(some, p.all[p.chance.IntN(len(p.all))])
	}
	return some
}

// loadAndCut has clients create keys until enough are acknowledged, and cuts the
// power while they go on. Each ends with the first call that fails after that.
func (p *powered) loadAndCut(ctx context.Context) (batch []acked, e fault.Event, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var cutting atomic.Bool
	var loading sync.WaitGroup
	enough := make(chan struct{})
	for i := range cutClients * len(p.Nodes) {
		m := p.Nodes[i%len(p.Nodes)]
		loading.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("cut-%d-%d-%d", p.Cuts.Cuts, i, n)
				answer, err := answerTo(ctx, m, key)
				switch {
				case err == nil:
					mu.Lock()
					if batch = append(batch, acked{key, answer}); len(batch) == cutAfter {
						close(enough)
					}
					mu.Unlock()
				case cutting.Load():
					return
				}
			}
		})
	}
	bound, unbound := context.WithTimeout(ctx, settledWithin)
	defer unbound()
	select {
	case <-enough:
		cutting.Store(true)
		e = p.Inject(ctx, time.Now(), fault.Step{Kinds: []string{"power-cut-all"}})
		err = e.Err
	case <-bound.Done():
		err = fmt.Errorf("wait for %d answers: %w", cutAfter, bound.Err())
	}
	cancel()
	loading.Wait()
	return batch, e, err
}

// answerTo asks a node once.
func answerTo(ctx context.Context, m *fault.Member, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	answer, err := m.Call(ctx, http.MethodPost, "/create", request(key))
	return string(answer), err
}

// readBack asks every node for answers again: each has to be the one that was
// acknowledged, byte for byte.
func (p *powered) readBack(ctx context.Context, answers []acked) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var next atomic.Int64
	var reading sync.WaitGroup
	for range readers {
		reading.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(answers)*len(p.Nodes) {
					return
				}
				m, want := p.Nodes[n%len(p.Nodes)], answers[n/len(p.Nodes)]
				got, err := answerTo(ctx, m, want.key)
				if err != nil {
					cancel(fmt.Errorf("read %s back from %s: %w", want.key, m.Name(), err))
					return
				}
				mu.Lock()
				p.count(want, got, m.Name())
				mu.Unlock()
			}
		})
	}
	reading.Wait()
	return context.Cause(ctx)
}

// count takes in one answer that was read back.
func (p *powered) count(want acked, got, from string) {
	p.Reads++
	if got == want.answer || p.lost[want.key] {
		return
	}
	p.lost[want.key] = true
	p.Lost++
	if p.Example == "" {
		p.Example = fmt.Sprintf("%s: acknowledged %q, %s answers %q", want.key, want.answer, from, got)
	}
}

// Print writes a table and the verdict.
func (p *PowerCuts) Print(to io.Writer) error {
	row := func(name string, c Cuts) []string {
		return []string{name, fmt.Sprint(c.Cuts), fmt.Sprint(c.Unsynced), fmt.Sprint(c.Acked), fmt.Sprint(c.Lost), fmt.Sprint(c.Reads)}
	}
	err := table(to, []string{"onced", "cuts of all nodes", "took unsynced bytes", "acknowledged", "lost", "reads"},
		[][]string{row("as it is", p.Synced), row("built not to sync (control)", p.Control)})
	for _, what := range []string{p.Synced.Example, p.Control.Gone} {
		if what != "" {
			fmt.Fprintln(to, what)
		}
	}
	verdict := "nothing acknowledged was lost, and the control shows that it would be seen"
	if wrong := p.Verdict(); wrong != nil {
		verdict = wrong.Error()
	}
	fmt.Fprintf(to, "\n%s\n", verdict)
	return err
}
