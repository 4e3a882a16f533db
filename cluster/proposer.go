package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

const (
	// maxBatchBytes and maxBatchCommands bound one log entry. A batch holds
	// at least one command. Raft suggests entries of 512 KiB at most
	// (raft.SuggestedMaxDataSize), as larger ones delay heartbeats.
	maxBatchBytes    = 512 << 10
	maxBatchCommands = 1024
	// maxProposals bounds the commands that wait, and maxWaiting their bytes, but
	// for those of the last one.
	maxProposals = 16384
	maxWaiting   = 256 << 20
	// enqueueTimeout bounds the wait for raft to take an entry; raft's own
	// timeout covers no more than that. After it, the entry was not taken.
	enqueueTimeout = time.Second
	// maxGathering bounds the wait for more commands of the next entry.
	maxGathering = 5 * time.Millisecond
)

// proposal is one command on its way into the log. done is called exactly
// once and must not block.
type proposal struct {
	command []byte // encoded fsm.Command
	done    func(result)
	queued  time.Time
}

// proposer packs commands into log entries, on the leader: group commit above
// raft. One entry is under way at a time: while it is, commands gather for the
// next. A second one made for more and smaller entries, each with its syncs, and
// a tenth less throughput at 64 callers.
//
// The callers of the entry before have just been answered, and most come back
// at once with their next command. So the next entry waits for a part of them,
// for no longer than half the time that the entry before took: each entry costs
// three syncs and a dozen hops between goroutines and processes, however many
// commands share them. See gather.
type proposer struct {
	raft  *raft.Raft
	stamp func() (ms int64, ok bool) // the time for the next entry
	met   *metrics

	wake     chan struct{} // depth 1: there is something to send
	patience *time.Timer   // fires when the next entry waits no longer
	stopped  chan struct{} // closed when the node stops
	wg       sync.WaitGroup

	mu       sync.Mutex
	queue    []proposal
	waiting  int    // bytes of the commands in queue
	open     bool   // this node leads and may grant
	underway *entry // nil: none
	enough   int    // how many commands the next entry waits for; 0: it does not wait
}

// entry is a batch on its way through the log. Whoever takes it from underway
// answers it.
type entry struct {
	batch []proposal
	begun time.Time
}

func newProposer(r *raft.Raft, stamp func() (int64, bool), met *metrics, stopped chan struct{}) *proposer {
	p := &proposer{raft: r, stamp: stamp, met: met, wake: make(chan struct{}, 1), stopped: stopped, patience: time.NewTimer(maxGathering)}
	p.wg.Add(1)
	go p.run()
	return p
}

// propose queues a command. It is answered at once if this node may not
// propose.
func (p *proposer) propose(pr proposal) {
	p.mu.Lock()
	if !p.open || len(p.queue) >= maxProposals || p.waiting >= maxWaiting {
		open := p.open
		p.mu.Unlock()
		if open {
			pr.done(result{verdict: notApplied})
		} else {
			pr.done(p.notOpen())
		}
		return
	}
	pr.queued = time.Now()
	p.queue = append(p.queue, pr)
	p.waiting += len(pr.command)
	send := len(p.queue) == max(p.enough, 1)
	if send {
		p.enough = 0
	}
	p.mu.Unlock()
	if send {
		p.signal()
	}
}

// notOpen says why this node may not propose: it does not lead, or it leads
// and has not heard a majority of clocks yet.
func (p *proposer) notOpen() result {
	_, id := p.raft.LeaderWithID()
	if p.raft.State() == raft.Leader {
		return result{verdict: notApplied}
	}
	return result{verdict: notLeader, hint: string(id)}
}

func (p *proposer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// setOpen begins or ends proposing. At the end, what waits is sent back.
func (p *proposer) setOpen(open bool) {
	p.mu.Lock()
	p.open = open
	var back []proposal
	if !open {
		back, p.queue, p.waiting = p.queue, nil, 0
	}
	p.mu.Unlock()
	for _, pr := range back {
		pr.done(p.notOpen())
	}
}

func (p *proposer) run() {
	defer p.wg.Done()
	defer p.patience.Stop()
	for {
		select {
		case <-p.stopped:
			p.setOpen(false)
			p.abandon()
			return
		case <-p.wake:
		case <-p.patience.C:
			p.waitNoMore()
		}
		p.sendNext()
	}
}

// abandon answers the entry under way: raft may never do so once it is shutting
// down (hashicorp/raft#498).
func (p *proposer) abandon() {
	p.mu.Lock()
	e := p.underway
	p.mu.Unlock()
	if e != nil && p.end(e) {
		p.finish(e.batch, result{verdict: unknown}, nil)
	}
}

// take makes the next entry, or returns nil if there is nothing for it, it
// waits for more, or another is under way. It is counted in wg until it is answered.
func (p *proposer) take() *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 || p.underway != nil || p.enough > 0 {
		return nil
	}
	n, size := 0, 0
	for n < len(p.queue) && n < maxBatchCommands {
		more := len(p.queue[n].command)
		if n > 0 && size+more > maxBatchBytes {
			break
		}
		n, size = n+1, size+more
	}
	p.waiting -= size
	e := &entry{batch: p.queue[:n:n], begun: time.Now()}
	p.queue = p.queue[n:]
	if len(p.queue) == 0 {
		p.queue = nil // the batch owns the array now
	}
	p.underway = e
	p.wg.Add(1) // run, which is counted too, has not emptied the queue yet
	return e
}

// end takes e from under way, and reports whether it still was.
func (p *proposer) end(e *entry) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.underway != e {
		return false
	}
	p.underway = nil
	return true
}

// sendNext hands the next batch to raft, if there is one and none is under way.
func (p *proposer) sendNext() {
	e := p.take()
	if e == nil {
		return
	}
	now, ok := p.stamp()
	if !ok {
		if p.end(e) {
			p.finish(e.batch, result{verdict: notApplied}, nil)
		}
		p.signal() // for what has come since
		return
	}
	commands := make([][]byte, len(e.batch))
	for i, pr := range e.batch {
		commands[i] = pr.command
		p.met.queueSeconds.Observe(e.begun.Sub(pr.queued).Seconds())
	}
	p.met.batchSize.Observe(float64(len(e.batch)))
	future := p.raft.Apply(fsm.EncodeEntry(now, commands), enqueueTimeout)
	go func() { p.ended(e, future, future.Error()) }()
}

// ended sends what has gathered meanwhile, and answers e beside that: what
// waits for the disk goes first.
func (p *proposer) ended(e *entry, f raft.ApplyFuture, err error) {
	if !p.end(e) {
		return // abandoned
	}
	go func() {
		if err == nil {
			p.met.commitSeconds.Observe(time.Since(e.begun).Seconds())
		}
		p.finish(e.batch, p.resultOf(f, err), outcomesOf(f, err))
	}()
	if !p.gather(len(e.batch), time.Since(e.begun)) {
		p.sendNext()
	}
}

// gather has the next entry wait until it has three in five of the commands
// that there are: those that wait already, and as many as have just been
// answered. It reports false if it has them. Fewer save less, and more leave the
// disks idle for longer.
func (p *proposer) gather(answered int, took time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	enough := (len(p.queue) + answered) * 3 / 5
	if len(p.queue) >= enough {
		return false
	}
	p.enough = enough
	p.patience.Reset(min(took/2, maxGathering))
	return true
}

func (p *proposer) waitNoMore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enough = 0
}

// finish answers every command of a batch: with its own outcome if there are
// any, else with r.
func (p *proposer) finish(batch []proposal, r result, outcomes []*fsm.Outcome) {
	defer p.wg.Done()
	for i, pr := range batch {
		if i < len(outcomes) && outcomes[i] != nil {
			r.outcome = outcomes[i]
		} else if r.verdict == applied {
			pr.done(result{verdict: unknown})
			continue
		}
		pr.done(r)
	}
}

func outcomesOf(f raft.ApplyFuture, err error) []*fsm.Outcome {
	if err != nil {
		return nil
	}
	outcomes, _ := f.Response().([]*fsm.Outcome)
	return outcomes
}

// errStopped: the node stopped before raft answered.
var errStopped = errors.New("node is stopping")

// await returns the future's error, or errStopped once stopped is closed:
// raft may never answer a future when it is shutting down (hashicorp/raft#498).
func await(f raft.Future, stopped <-chan struct{}) error {
	ch := make(chan error, 1)
	go func() { ch <- f.Error() }()
	select {
	case err := <-ch:
		return err
	case <-stopped:
		return errStopped
	}
}

// awaitContext is await for callers with a deadline of their own.
func awaitContext(ctx context.Context, f raft.Future, stopped <-chan struct{}) error {
	ch := make(chan error, 1)
	go func() { ch <- f.Error() }()
	select {
	case err := <-ch:
		return err
	case <-stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resultOf judges what raft's error says about an entry. Only the errors that
// raft gives before it has taken an entry mean that it was not applied;
// leadership lost and shutdown mean unknown (hashicorp/raft#561).
func (p *proposer) resultOf(f raft.ApplyFuture, err error) result {
	switch {
	case err == nil:
		return result{verdict: applied, index: f.Index()}
	case errors.Is(err, raft.ErrNotLeader):
		return p.notOpen()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return result{verdict: notApplied}
	default:
		return result{verdict: unknown}
	}
}
