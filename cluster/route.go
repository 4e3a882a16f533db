package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"github.com/onced/onced/fsm"
)

// unavailable says that a command had no certain answer in time.
type unavailable struct {
	maybe bool // it may have been applied, or may yet be
}

func (e *unavailable) Error() string {
	if e.maybe {
		return "no certain answer from a majority in time; the command may have been applied"
	}
	return "no majority in time; nothing was applied"
}

func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }

// Propose commits a command and returns what it did. It fills in the request
// id, not_after and term, finds the leader, waits for one if there is none, and
// resends after every ambiguous error: the request id makes that safe. At the
// end of the request timeout, or of ctx, the error is ErrUnavailable, and the
// command may have been applied. It is that, too, where a command that was sent
// again after an ambiguous error finds what it was to settle gone: the copy
// before may have settled it, and the record have ended since.
func (n *Node) Propose(ctx context.Context, c *fsm.Command) (*fsm.Outcome, error) {
	r, err := n.commit(ctx, c)
	return r.outcome, err
}

// Barrier returns once this node has applied everything that was committed
// before the call.
func (n *Node) Barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.RequestTimeout)
	defer cancel()
	r, err := n.commit(ctx, &fsm.Command{Kind: fsm.Kind_READ})
	if err != nil {
		return err
	}
	if err := n.progress.await(ctx, r.index); err != nil {
		return &unavailable{maybe: true}
	}
	return nil
}

// pause is how long to wait before the next try: 5 to 20 ms at first, up to
// sixteen times that later, as each try may cost the leader, or the log, an
// entry. Jitter keeps the nodes from coming back in step.
func pause(tries int) time.Duration {
	return (5*time.Millisecond + mrand.N(15*time.Millisecond)) << min(tries, 4)
}

func (n *Node) commit(ctx context.Context, c *fsm.Command) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.RequestTimeout)
	defer cancel()
	if len(c.RequestId) == 0 {
		c.RequestId = make([]byte, 16)
		rand.Read(c.RequestId)
	}
	maybe := false
	hint := "" // who leads, by the word of a node that was asked
	last := ""
	var encoded []byte
	for tries := 0; ; tries++ {
		leader, changed := n.leadership.leader()
		if hint != "" {
			leader, hint = hint, ""
		}
		if leader != last {
			last, tries = leader, 0
		}
		if leader == "" {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return result{}, &unavailable{maybe}
			case <-n.stopped:
				return result{}, &unavailable{maybe}
			}
		}
		if encoded == nil || c.Term < n.term() {
			var err error
			if encoded, err = n.encode(ctx, c); err != nil {
				return result{}, err
			}
			if len(encoded) > maxCommand && !maybe { // if it was sent before, it differs by a byte or two
				return result{}, fmt.Errorf("send command: %d bytes are more than %d", len(encoded), maxCommand)
			}
		}
		r := n.send(ctx, leader, changed, encoded)
		switch r.verdict {
		case applied:
			switch {
			case maybe && endedSince(c, r.outcome):
				return result{}, &unavailable{maybe}
			case isAnswer(r.outcome):
				return r, nil
			}
			encoded = nil
		case notLeader:
			if r.hint != "" && r.hint != leader && r.hint != n.cfg.NodeID {
				hint = r.hint
			}
		case unknown:
			maybe = true
		}
		if err := n.holdOn(ctx, tries, changed); err != nil {
			return result{}, &unavailable{maybe}
		}
	}
}

// isAnswer reports whether an outcome is the answer. Two are not: a command
// that came too late, by a wrong guess of cluster time or because another leader
// was elected meanwhile, is stamped and sent again as long as its sender waits,
// and an unbound cluster is waited for.
func isAnswer(o *fsm.Outcome) bool {
	return o.Code != fsm.Code_TOO_LATE && o.Code != fsm.Code_NOT_BOUND
}

// endedSince reports whether an outcome says that c changed nothing where an
// earlier copy of c may have settled a record that has ended since. A command
// that removes a record is remembered, and a copy of it answered like the first.
func endedSince(c *fsm.Command, o *fsm.Outcome) bool {
	switch c.Kind {
	case fsm.Kind_COMPLETE, fsm.Kind_FAIL:
	case fsm.Kind_RESOLVE:
		if c.Retry { // which removes it
			return false
		}
	default:
		return false
	}
	return o.Code == fsm.Code_STALE_FENCE || o.Code == fsm.Code_NOT_FOUND
}

// holdOn waits a little before the next try.
func (n *Node) holdOn(ctx context.Context, tries int, changed <-chan struct{}) error {
	t := time.NewTimer(pause(tries))
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-n.stopped:
		return errStopped
	case <-ctx.Done():
	}
	return ctx.Err()
}

// encode stamps not_after from the caller's deadline in cluster time, and the term,
// and encodes. A node's terms do not fall, and what it sends takes effect in an
// entry of its own term alone: so of two copies in different terms the first does
// not come second, and of two in one term the leader of it sees to that (see senders).
// Whichever is answered is the last that can be applied.
func (n *Node) encode(ctx context.Context, c *fsm.Command) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	c.NotAfter = n.Now() + time.Until(deadline).Milliseconds() + 1
	c.Term = max(c.Term, n.term())
	b, err := c.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	return b, nil
}

// send brings a command to the leader, here or over its link, and waits for
// what became of it. When another node leads meanwhile, it gives up waiting:
// a leader that hangs must not hold the command. changed is closed when it is
// no longer so that led when leader was chosen.
func (n *Node) send(ctx context.Context, leader string, changed <-chan struct{}, encoded []byte) result {
	if leader == n.cfg.NodeID {
		ch := make(chan result, 1)
		n.proposer.propose(proposal{command: encoded, done: func(r result) { ch <- r }})
		select {
		case r := <-ch:
			return r
		case <-ctx.Done():
			return result{verdict: unknown}
		case <-n.stopped:
			return result{verdict: unknown}
		}
	}
	begun := time.Now()
	ch, forget, err := n.links.to(leader).call(ctx, framePropose, encoded)
	if err != nil {
		return result{verdict: notApplied} // it did not leave this node
	}
	defer forget()
	for {
		select {
		case f, ok := <-ch:
			if !ok || f.kind != frameResult {
				return result{verdict: unknown}
			}
			r, err := decodeResult(f.payload)
			if err != nil {
				return result{verdict: unknown}
			}
			n.met.forwardSeconds.Observe(time.Since(begun).Seconds())
			return r
		case <-changed:
			var now string
			if now, changed = n.leadership.leader(); now != leader && now != "" {
				return result{verdict: unknown}
			}
		case <-ctx.Done():
			return result{verdict: unknown}
		case <-n.stopped:
			return result{verdict: unknown}
		}
	}
}

// Begin runs a CLAIM or a CREATE.
//
// It answers from this node's applied state where that is sound (see
// answerLocally), else through the log. If the key is in flight it waits up to
// wait for a change of it, and then begins again with the same command under a
// new request id: a waiter may so become the runner.
//
// ErrUnavailable after a CLAIM means that nothing was run: a grant that comes to
// light later is released in the background, unless another request of the same
// attempt has been given it by then.
func (n *Node) Begin(ctx context.Context, c *fsm.Command, wait time.Duration) (*fsm.Outcome, error) {
	wait = min(wait, n.cfg.MaxWait)
	var expired <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		expired = t.C
	}
	key := fsm.Key{Namespace: c.Namespace, Key: c.Key}
	for {
		if o, err := n.answerLocally(c); o != nil || err != nil {
			return o, err
		}
		var changed <-chan struct{}
		forget := func() {}
		if wait > 0 {
			changed, forget = n.waiters.wait(key)
		}
		r, err := n.commit(ctx, c)
		if err != nil {
			forget()
			n.abandon(c, err)
			return nil, err
		}
		if r.outcome.Code != fsm.Code_IN_FLIGHT || wait <= 0 {
			forget()
			return r.outcome, nil
		}
		select {
		case <-changed:
			forget()
			c.RequestId = nil
		case <-expired:
			forget()
			return r.outcome, nil
		case <-n.drained:
			forget()
			return r.outcome, nil
		case <-ctx.Done():
			forget()
			return nil, ctx.Err()
		case <-n.stopped:
			forget()
			return nil, &unavailable{}
		}
	}
}

// answerLocally answers from this node's applied state: only a completed
// record decides, because completed is terminal until it ends, and only while
// it does not end within the clock skew that is allowed for, by the later of
// this node's clock and cluster time. Otherwise, and while neither of the two
// is to be relied on, it returns nil.
func (n *Node) answerLocally(c *fsm.Command) (*fsm.Outcome, error) {
	rec, err := n.state.Lookup(c.Namespace, c.Key)
	if err != nil {
		return nil, fmt.Errorf("look up key: %w", err)
	}
	if rec == nil || rec.State != fsm.State_COMPLETED {
		return nil, nil
	}
	now, ok := n.latest()
	if !ok || rec.ExpiresAt <= now+n.cfg.MaxClockSkew.Milliseconds() {
		return nil, nil
	}
	n.met.localReplays.Inc()
	if rec.Surface != c.Surface || string(rec.Fingerprint) != string(c.Fingerprint) {
		return &fsm.Outcome{Code: fsm.Code_KEY_REUSED, Time: n.Now()}, nil
	}
	return &fsm.Outcome{Code: fsm.Code_REPLAY, Record: rec, Time: n.Now()}, nil
}

// abandon follows up on a claim whose sender gave up while it may have been
// applied: it reads the record and releases the claim if this request was granted it.
// The same attempt may have been given the same grant again, under the same fence,
// and be at work: the state machine knows, and does not release that.
func (n *Node) abandon(c *fsm.Command, cause error) {
	var u *unavailable
	if c.Kind != fsm.Kind_CLAIM || !errors.As(cause, &u) || !u.maybe {
		return
	}
	request, ns, key := c.RequestId, c.Namespace, c.Key
	n.goes(func() {
		for tries := 0; n.context.Err() == nil; tries++ {
			if n.releaseUnused(request, ns, key) {
				return
			}
			_ = n.holdOn(n.context, tries, nil)
		}
	})
}

// releaseUnused makes one try of abandon and reports whether there is nothing
// left to do: the read comes behind every copy of the claim, as it was sent behind
// them by the same node (see encode). A claim that lapsed meanwhile is released
// too: nobody ran it.
func (n *Node) releaseUnused(request []byte, ns, key string) bool {
	o, err := n.Propose(n.context, &fsm.Command{Kind: fsm.Kind_READ, Namespace: ns, Key: key})
	if err != nil {
		return false
	}
	rec := o.Record
	if o.Code != fsm.Code_OK || rec.GetState() == fsm.State_COMPLETED || rec.GetAnswered() || rec.GetFailed() || string(rec.GetRequestId()) != string(request) {
		return true
	}
	_, _ = n.Propose(n.context, &fsm.Command{Kind: fsm.Kind_RELEASE, Namespace: ns, Key: key, Fence: rec.Fence, Unanswered: true})
	return false // the next look says what became of it
}
