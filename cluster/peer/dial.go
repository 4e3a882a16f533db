package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/onced/onced/fsm"
)

// Hello is what a node says of itself.
type Hello struct {
	NodeID      string
	Incarnation []byte
	ClusterID   []byte // nil: it belongs to none
	Joining     bool   // it waits to be admitted
}

// dial connects to want and has itself accepted. The error is a *Refusal if
// want answered and did not. An unset id or incarnation expects whoever answers.
func (t *Transport) dial(ctx context.Context, why purpose, want member) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.PrefaceTimeout)
	defer cancel()
	raw, err := t.cfg.Dial(ctx, want.Addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, t: t, peer: want}
	if err := t.own(c, why); err != nil {
		_ = raw.Close()
		return nil, err
	}
	if err := t.introduce(ctx, c, why, want); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// own has the transport close c when it closes, and when the member at the far
// end leaves; it may have left while it was dialled.
func (t *Transport) own(c *conn, why purpose) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	if m, _ := t.local.roster.member(c.peer.ID); m.Incarnation != c.peer.Incarnation && (why == forRaft || why == forCommands) {
		return fmt.Errorf("%s is no member of this cluster any more", c.peer.ID)
	}
	t.conns[c] = struct{}{}
	return nil
}

// introduce says who dials and waits to be accepted. Hellos and admissions keep
// the deadline: all of their exchange is under it.
func (t *Transport) introduce(ctx context.Context, c *conn, why purpose, want member) error {
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	unblock := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer unblock()
	l := t.snapshot()
	p := preface{
		Purpose: why, ID: l.id, Incarnation: l.incarnation, Cluster: l.roster.Cluster, Index: l.roster.Index,
		WantID: want.ID, WantIncarnation: want.Incarnation,
	}
	if _, err := c.Write(p.append(nil)); err != nil {
		return fmt.Errorf("say who dials: %w", err)
	}
	a, err := readAnswer(c)
	if err != nil {
		return fmt.Errorf("wait to be accepted: %w", err)
	}
	if err := a.refusal(); err != nil {
		return err
	}
	if want.ID != "" && a.ID != want.ID || want.Incarnation != (tag{}) && a.Incarnation != want.Incarnation {
		return fmt.Errorf("%s answers at %s, with another id or data directory than expected", a.ID, want.Addr)
	}
	if err := t.cfg.Verify(c.Conn, a.ID); err != nil {
		return fmt.Errorf("the connection does not prove that it leads to %s: %w", a.ID, err)
	}
	if why == forRaft || why == forCommands {
		if !unblock() {
			return ctx.Err()
		}
		_ = c.SetDeadline(time.Time{})
	}
	return nil
}

// refusal is nil if a accepts.
func (a answer) refusal() error {
	if a.Code == accepted {
		return nil
	}
	return &Refusal{Code: a.Code, Reason: a.Reason, By: a.ID}
}

// sayRefused logs a refusal by m; an m that cannot be reached is no news.
func (t *Transport) sayRefused(m member, err error) {
	var r *Refusal
	if errors.As(err, &r) {
		t.say(r.Code.level(), fmt.Sprint("by ", m.ID, r.Code), "a peer refuses this node", "peer", m.ID, "address", m.Addr, "reason", r.Reason)
	}
}

// DialCommands connects to the member id for commands.
func (t *Transport) DialCommands(ctx context.Context, id string) (net.Conn, error) {
	m, ok := t.snapshot().roster.member(id)
	if !ok {
		return nil, fmt.Errorf("dial %s for commands: it is no member of this cluster", id)
	}
	c, err := t.dial(ctx, forCommands, m)
	if err != nil {
		t.sayRefused(m, err)
		return nil, fmt.Errorf("dial %s for commands: %w", id, err)
	}
	return c, nil
}

// Hello asks the node at addr who it is.
func (t *Transport) Hello(ctx context.Context, addr string) (Hello, error) {
	h, err := t.askHello(ctx, member{Addr: addr})
	if err != nil {
		return Hello{}, fmt.Errorf("ask who is at %s: %w", addr, err)
	}
	return Hello{
		NodeID: h.NodeID, Incarnation: h.Incarnation.bytes(), ClusterID: h.Cluster.bytes(), Joining: h.Joining,
	}, nil
}

func (t *Transport) askHello(ctx context.Context, want member) (hello, error) {
	c, err := t.dial(ctx, forHello, want)
	if err != nil {
		return hello{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	data, err := readMessage(c)
	if err != nil {
		return hello{}, err
	}
	return parseHello(data)
}

// hello is what this node says of itself.
func (t *Transport) hello() hello {
	l := t.snapshot()
	h := hello{NodeID: l.id, Incarnation: l.incarnation, Joining: l.joining(), Seed: l.seed, roster: l.roster}
	if !l.roster.formed() {
		h.List = l.list
	}
	return h
}

// Formed reports whether m has stored this node's cluster: asked of m itself.
func (t *Transport) Formed(ctx context.Context, m *fsm.Member) bool {
	incarnation, err := asTag(m.GetIncarnation())
	if err != nil {
		return false
	}
	return t.checkFormed(ctx, member{ID: m.GetId(), Addr: m.GetRaftAddr(), Incarnation: incarnation}) == nil
}

// AllFormed reports which members have not stored this node's cluster, nil if
// all have: each is asked. Before that the leader of a new cluster must not
// bind it: a node that had stored nothing could lose its disk unseen.
func (t *Transport) AllFormed(ctx context.Context) error {
	l := t.snapshot()
	if !l.roster.formed() {
		return errors.New("this node belongs to no cluster yet")
	}
	return errors.Join(t.askMembers(ctx, l)...)
}

// askMembers asks every other member of l's roster whether it is of that
// cluster.
func (t *Transport) askMembers(ctx context.Context, l local) []error {
	others := slices.DeleteFunc(slices.Clone(l.roster.Members), func(m member) bool { return m.ID == l.id })
	answers := make([]error, len(others))
	var asking sync.WaitGroup
	for i, m := range others {
		asking.Go(func() { answers[i] = t.checkFormed(ctx, m) })
	}
	asking.Wait()
	return answers
}

func (t *Transport) checkFormed(ctx context.Context, m member) error {
	h, err := t.askHello(ctx, m)
	if err != nil {
		t.sayRefused(m, err)
		return fmt.Errorf("%s: %w", m.ID, err)
	}
	if cluster := t.snapshot().roster.Cluster; h.Cluster != cluster {
		return fmt.Errorf("%s: it has not stored cluster %s yet", m.ID, cluster)
	}
	return nil
}

// CheckPlace returns an error once most members of the cluster that this
// node's directory is of answer that they are of another: then the directory
// is in the wrong place, and waiting will not mend that. It returns nil once
// one of them is of the same cluster, or when ctx or the transport ends.
func (t *Transport) CheckPlace(ctx context.Context) error {
	for {
		l := t.snapshot()
		if len(l.roster.Members) < 2 {
			return nil
		}
		answers := t.askMembers(ctx, l)
		if t.ended(ctx) != nil || slices.Contains(answers, nil) {
			return nil
		}
		if err := misplaced(l, answers); err != nil {
			return err
		}
		if !t.sleep(ctx, t.cfg.pause()) {
			return nil
		}
	}
}

// misplaced judges by what the other members of l's roster answered.
func misplaced(l local, answers []error) error {
	elsewhere, reason := 0, ""
	for _, err := range answers {
		if r := (*Refusal)(nil); errors.As(err, &r) && r.Code == CodeOtherCluster {
			elsewhere, reason = elsewhere+1, r.Reason
		}
	}
	if 2*elsewhere <= len(l.roster.Members) {
		return nil
	}
	return fmt.Errorf("its data directory is of another cluster than most nodes at its peers' addresses (%s): name this node's directory in their cluster with --data-dir", reason)
}
