package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/fsm"
)

// Form returns once the node belongs to a cluster: at once if it did before,
// else when the cluster of the static list has formed, or when the cluster that
// it is to join has admitted it. It goes on trying through every refusal and
// logs, at most every 10 s each, what the operator must do. The error is that
// of ctx, of a closed transport, or of a data directory that cannot be written.
func (t *Transport) Form(ctx context.Context) error {
	if t.snapshot().joining() {
		return t.AwaitAdmission(ctx)
	}
	for t.WhyNotFormed() != nil {
		if err := t.formRound(ctx); err != nil {
			return fmt.Errorf("form the cluster: %w", err)
		}
		if t.WhyNotFormed() != nil {
			t.sleep(ctx, t.cfg.pause())
		}
	}
	return nil
}

// ended is why a wait ended before its time: ctx did, or the transport closed.
func (t *Transport) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.ctx.Err() != nil {
		return errClosed
	}
	return nil
}

var errClosed = errors.New("the peer connections were closed")

// WhyNotFormed says what the node waits for, nil once it belongs to a cluster.
func (t *Transport) WhyNotFormed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.local.roster.formed() {
		return nil
	}
	return t.waiting
}

// meeting is what one round brought from one peer of the list.
type meeting struct {
	peer  Peer
	hello hello
	err   error // it was not met; a *Refusal: waiting will not mend that
}

// formRound asks every other node of the list who it is and acts on the
// answers of this round alone: what a node was in an earlier round it may have
// ceased to be.
func (t *Transport) formRound(ctx context.Context) error {
	l := t.snapshot()
	meetings := t.meetAll(ctx, l)
	if err := t.ended(ctx); err != nil {
		return err
	}
	r, missing := conclude(l, meetings)
	if len(missing) > 0 {
		t.explain(missing)
	}
	if !r.formed() {
		return nil
	}
	if err := t.bind(r, false); err != nil {
		return err
	}
	t.log.Info("the cluster is formed", "cluster", r.Cluster, "members", names(r.list()))
	return nil
}

func (t *Transport) meetAll(ctx context.Context, l local) []meeting {
	var meetings []meeting
	for _, p := range l.list {
		if p.ID != l.id {
			meetings = append(meetings, meeting{peer: p})
		}
	}
	var asking sync.WaitGroup
	for i := range meetings {
		m := &meetings[i]
		asking.Go(func() { m.hello, m.err = t.askHello(ctx, member{ID: m.peer.ID, Addr: m.peer.Addr}) })
	}
	asking.Wait()
	return meetings
}

// conclude decides what l may become after one round: a member of the new
// cluster, of the one that others have formed with it, or nothing yet because
// of what is returned as missing. One conflict forbids everything: two rosters
// never mix.
func conclude(l local, meetings []meeting) (r roster, missing []meeting) {
	members := []member{{ID: l.id, Addr: l.addr, Incarnation: l.incarnation}}
	conflict := false
	var found roster
	for _, m := range meetings {
		if m.err == nil {
			m.err = compatible(l, m)
		}
		switch {
		case m.err != nil:
			conflict = conflict || isRefusal(m.err)
			missing = append(missing, m)
			continue
		case m.hello.formed() && found.formed() && m.hello.Cluster != found.Cluster:
			conflict = true
			m.err = ownRefusal(l, CodeOtherCluster, "%s has formed cluster %s and another node of the list cluster %s: stop all nodes, delete the data directories of those that are new, and start them together", m.peer.ID, m.hello.Cluster, found.Cluster)
			missing = append(missing, m)
		case m.hello.formed():
			found = m.hello.roster
		}
		members = append(members, member{ID: m.peer.ID, Addr: m.peer.Addr, Incarnation: m.hello.Incarnation})
	}
	switch {
	case conflict:
		return roster{}, missing
	case found.formed():
		return found, nil
	case len(missing) > 0:
		return roster{}, missing
	}
	return form(l.seed, members), nil
}

func isRefusal(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Code != CodeNotReady
}

func ownRefusal(l local, code Code, format string, args ...any) error {
	return &Refusal{Code: code, Reason: fmt.Sprintf(format, args...), By: l.id}
}

// compatible reports why l cannot be in one cluster with the node it met.
func compatible(l local, m meeting) error {
	h := m.hello
	if !h.formed() {
		if h.Joining {
			return ownRefusal(l, CodeListDiffers, "%s was started with --join: start it with the same --peers as this node, or this one with --join too", m.peer.ID)
		}
		if d := difference(l.list, h.List); d != "" {
			return ownRefusal(l, CodeListDiffers, "%s was started with another list of peers (%s): start all nodes with the same --peers", m.peer.ID, d)
		}
		return seedsDiffer(l, m)
	}
	me, known := h.member(l.id)
	switch {
	case !known:
		return ownRefusal(l, CodeNotMember, "%s belongs to cluster %s, which does not know %s: start this node with --join %s, and add it with `onced node add %[3]s %[5]s`", m.peer.ID, h.Cluster, l.id, m.peer.Addr, l.addr)
	case me.Incarnation != l.incarnation:
		return ownRefusal(l, CodeReplaced, "%s", replaced(l.id, m.peer.Addr).Reason)
	case difference(l.list, h.list()) != "":
		return ownRefusal(l, CodeListDiffers, "%s has formed a cluster of another list of peers (%s): start this node with the same --peers", m.peer.ID, difference(l.list, h.list()))
	case form(h.Seed, h.Members).Cluster != h.Cluster:
		return ownRefusal(l, CodeOtherCluster, "%s tells of cluster %s members that did not form it", m.peer.ID, h.Cluster)
	}
	return seedsDiffer(l, m)
}

// explain logs what keeps the node from forming, and keeps it for WhyNotFormed.
func (t *Transport) explain(missing []meeting) {
	var waits []string
	for _, m := range missing {
		var r *Refusal
		if errors.As(m.err, &r) && r.Code != CodeNotReady {
			t.say(slog.LevelError, fmt.Sprint("form ", m.peer.ID, r.Code), "the cluster cannot form: "+r.Reason, "peer", m.peer.ID, "address", m.peer.Addr)
			waits = append(waits, r.Reason)
			continue
		}
		t.say(slog.LevelInfo, "form "+m.peer.ID, "waiting for a peer: the very first start needs every node of the list", "peer", m.peer.ID, "address", m.peer.Addr, "error", m.err)
		waits = append(waits, fmt.Sprintf("waiting for %s at %s", m.peer.ID, m.peer.Addr))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = errors.New("the cluster is not formed: " + strings.Join(waits, "; "))
}

// bind stores r, and only then is the node a member.
func (t *Transport) bind(r roster, joined bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.local.roster.formed() {
		if t.local.roster.Cluster != r.Cluster {
			return fmt.Errorf("join cluster %s: this node belongs to cluster %s", r.Cluster, t.local.roster.Cluster)
		}
		return nil
	}
	if err := t.cfg.Dir.bind(r, joined); err != nil {
		return err
	}
	t.local.roster, t.local.joined = r, joined
	close(t.formed)
	return nil
}

// AwaitAdmission returns once the node, started with an address to join, was
// admitted by that cluster.
func (t *Transport) AwaitAdmission(ctx context.Context) error {
	l := t.snapshot()
	if l.roster.formed() {
		return nil
	}
	why := fmt.Sprintf("waiting to be added to the cluster of %s: on a running node, `onced node add %s %s`", l.joinAddr, l.id, l.addr)
	t.mu.Lock()
	t.waiting = errors.New(why)
	t.mu.Unlock()
	again := time.NewTicker(time.Minute)
	defer again.Stop()
	for {
		t.log.Info(why)
		select {
		case <-t.formed:
			return nil
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("wait to be added: %w", ctx.Err())
		case <-t.ctx.Done():
			return fmt.Errorf("wait to be added: %w", errClosed)
		}
	}
}

// Admit tells the node that waits at addr that it belongs to this cluster:
// members is the table with the node in it, by the incarnation that it is
// expected to have. Doing it twice does no harm.
func (t *Transport) Admit(ctx context.Context, addr string, clusterID []byte, members []*fsm.Member) error {
	if err := t.admit(ctx, addr, clusterID, members); err != nil {
		return fmt.Errorf("admit the node at %s: %w", addr, err)
	}
	return nil
}

func (t *Transport) admit(ctx context.Context, addr string, clusterID []byte, members []*fsm.Member) error {
	r, err := rosterOf(clusterID, t.snapshot().roster.Index, members)
	if err != nil {
		return err
	}
	m, ok := r.at(addr)
	if !ok {
		return errors.New("no member has that address")
	}
	c, err := t.dial(ctx, forAdmit, m)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := writeMessage(c, admission{r}); err != nil {
		return err
	}
	a, err := readAnswer(c)
	if err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	return a.refusal()
}

// receiveAdmission reads the admission that p announced and answers it. An
// admission that was accepted is stored before it is answered.
func (t *Transport) receiveAdmission(c *conn, p preface) {
	data, err := readMessage(c)
	if err != nil {
		return
	}
	a, err := parseAdmission(data)
	if err != nil {
		t.say(slog.LevelWarn, "admission"+p.ID, "refused an admission that cannot be read", "peer", p.ID, "error", err)
		return
	}
	l := t.snapshot()
	v := judgeAdmission(l, p, a)
	if v.Code == accepted {
		if err := t.bind(a.roster, true); err != nil {
			t.log.Error("cannot store the admission to a cluster", "error", err)
			v = refuse(CodeNotReady, "%s cannot store its admission: see its log", l.id)
		} else if !l.roster.formed() {
			t.log.Info("admitted to the cluster", "cluster", a.Cluster, "by", p.ID, "members", names(a.list()))
		}
	} else {
		t.say(slog.LevelWarn, fmt.Sprint("admission", p.ID, v.Code), "refused an admission", "peer", p.ID, "reason", v.Reason)
	}
	_ = t.reply(c, v)
}

func names(list []Peer) string {
	var s []string
	for _, p := range list {
		s = append(s, p.ID+"="+p.Addr)
	}
	slices.Sort(s)
	return strings.Join(s, ",")
}
