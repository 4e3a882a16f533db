package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/onced/onced/fsm"
)

// Transport is a node's end of all connections with its peers: one listener,
// and the connections that it accepted or made.
type Transport struct {
	// Set by Listen, never changed after.
	cfg      Config
	log      *slog.Logger
	told     *sayings
	listener net.Listener
	raft     *raftLayer
	ctx      context.Context // done once the transport closes
	cancel   context.CancelFunc
	formed   chan struct{} // closed once the node belongs to a cluster
	running  sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	closed   bool
	local    local
	raftUp   bool // raft takes connections
	commands func(ctx context.Context, c net.Conn, from string)
	conns    map[*conn]struct{}
	pending  int // accepted by the listener and not yet judged
	inbound  int
	waiting  error // why the node belongs to no cluster yet
}

// Listen starts to accept connections on the node's peer address. Until the
// node belongs to a cluster it accepts no more than hellos and an admission.
func Listen(cfg Config) (*Transport, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start peer connections: %w", err)
	}
	l := cfg.Listener
	if l == nil {
		var err error
		if l, err = cfg.Listen(cfg.Addr); errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("peer address %s is in use by another process: stop that one, or choose another with --raft-addr (and in --peers)", cfg.Addr)
		} else if err != nil {
			return nil, fmt.Errorf("listen on peer address %s: %w", cfg.Addr, err)
		}
	}
	id := cfg.Dir.identity()
	t := &Transport{
		cfg: cfg, log: cfg.Log, told: newSayings(), listener: l,
		formed: make(chan struct{}), conns: map[*conn]struct{}{},
		local: local{
			id: id.NodeID, addr: cfg.Addr, incarnation: id.Incarnation, seed: id.Seed,
			roster: id.roster, joined: id.Joined, list: cfg.Peers, joinAddr: cfg.Join,
		},
		waiting: errors.New("the cluster is not formed: the search for its nodes has not begun"),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.raft = newRaftLayer(t)
	if id.formed() {
		close(t.formed)
		t.warnMoved(id.roster)
	}
	t.running.Go(t.accept)
	return t, nil
}

func (t *Transport) warnMoved(r roster) {
	if m, _ := r.member(t.cfg.NodeID); m.Addr != t.cfg.Addr {
		t.log.Warn("this node listens on another address than its cluster was told when it was added: until that is changed, its peers dial the old one",
			"address", t.cfg.Addr, "told", m.Addr)
	}
}

// Addr is where the listener listens.
func (t *Transport) Addr() net.Addr { return t.listener.Addr() }

// Close closes the listener and every connection, and waits for all that the
// transport runs.
func (t *Transport) Close() error {
	t.cancel()
	t.mu.Lock()
	t.closed = true
	open := t.conns
	t.conns = map[*conn]struct{}{}
	t.mu.Unlock()
	err := t.listener.Close()
	for c := range open {
		_ = c.Conn.Close()
	}
	t.running.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close peer listener: %w", err)
	}
	return nil
}

// Roster is the member table in force; it is empty before formation or admission.
func (t *Transport) Roster() (clusterID []byte, members []*fsm.Member) {
	r := t.snapshot().roster
	return r.Cluster.bytes(), r.fsmMembers()
}

// Joined reports whether the node was admitted to a running cluster, and so
// must not bootstrap raft.
func (t *Transport) Joined() bool { return t.snapshot().joined }

// SetMembers replaces the member table by that of the state machine as of the
// applied index given. An older table than the one in force changes nothing: a
// node that catches up passes through tables without itself, or without the
// leader that brings it the newer ones. Connections with members that left, or
// that have another incarnation now, are closed.
func (t *Transport) SetMembers(clusterID []byte, members []*fsm.Member, index uint64) {
	r, err := rosterOf(clusterID, index, members)
	if err != nil {
		t.log.Error("the cluster's member table cannot be used; the last one stays in force", "error", err)
		return
	}
	// Stored first: from here on the leader may give new members a vote.
	if err := t.cfg.Dir.follow(r); err != nil {
		t.log.Error("the member table will be out of date after a crash", "error", err)
	}
	t.mu.Lock()
	old := t.local.roster
	var left []*conn
	if r.Cluster == old.Cluster && r.Index >= old.Index {
		t.local.roster = r
		left = t.connsOfThoseThatLeft(old)
	}
	t.mu.Unlock()
	if r.Cluster != old.Cluster {
		t.log.Error("the state of another cluster is on this node's disk; its member table is not used", "state", r.Cluster, "directory", old.Cluster)
	}
	for _, c := range left {
		_ = c.Conn.Close() // its user closes c itself
	}
}

// Knows tells whether the table in force has a member at addr.
func (t *Transport) Knows(addr string) bool {
	_, ok := t.snapshot().roster.at(addr)
	return ok
}

// Expect adds m to the table in force, or gives it another address, before the
// state machine says so: the caller knows that it will. That is not stored, and
// lasts until SetMembers brings another table.
func (t *Transport) Expect(m *fsm.Member) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.local.roster
	next, err := rosterOf(r.Cluster.bytes(), r.Index, append(slices.DeleteFunc(r.fsmMembers(), func(old *fsm.Member) bool {
		return old.Id == m.Id && bytes.Equal(old.Incarnation, m.Incarnation)
	}), m))
	if err != nil {
		return fmt.Errorf("expect member %s: %w", m.Id, err)
	}
	t.local.roster = next
	return nil
}

// connsOfThoseThatLeft finds the connections with members of old that are none
// of the table in force, by the same data directory. The mutex is held.
func (t *Transport) connsOfThoseThatLeft(old roster) (left []*conn) {
	for c := range t.conns {
		was, known := old.member(c.peer.ID)
		if is, _ := t.local.roster.member(c.peer.ID); known && is.Incarnation != was.Incarnation {
			left = append(left, c)
		}
	}
	return left
}

// HandleCommands sets what serves the connections that peers make for
// commands: handle runs in a goroutine of the transport's, with a context that
// ends with it, and the connection is closed when it returns.
func (t *Transport) HandleCommands(handle func(ctx context.Context, c net.Conn, from string)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.commands = handle
}

func (t *Transport) snapshot() local {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.local
}

// conn is a connection that the transport will close, unless its user does.
type conn struct {
	net.Conn
	t       *Transport
	peer    member // who is at the far end; zero until that is known
	inbound bool
	pending bool
}

// Close closes the connection.
func (c *conn) Close() error {
	c.t.mu.Lock()
	c.settle()
	if _, ok := c.t.conns[c]; ok {
		delete(c.t.conns, c)
		if c.inbound {
			c.t.inbound--
		}
	}
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// settle ends the wait for c's preface. The transport's mutex is held.
func (c *conn) settle() {
	if c.pending {
		c.pending = false
		c.t.pending--
	}
}

func (t *Transport) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: that passes.
			t.say(slog.LevelError, "accept", "cannot accept connections of peers", "error", err)
			if !t.sleep(t.ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		if !t.take(c) {
			_ = c.Close()
			if t.ctx.Err() != nil {
				return
			}
			t.say(slog.LevelWarn, "limit", "too many connections on the peer address: new ones are closed",
				"unproven at most", t.cfg.maxPending, "all at most", t.cfg.maxConns)
		}
	}
}

// take serves raw, unless that would be one too many.
func (t *Transport) take(raw net.Conn) bool {
	c := &conn{Conn: raw, t: t, inbound: true, pending: true}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.pending >= t.cfg.maxPending || t.inbound >= t.cfg.maxConns {
		return false
	}
	t.pending++
	t.inbound++
	t.conns[c] = struct{}{}
	t.running.Go(func() { t.serve(c) })
	return true
}

// serve judges one connection and hands it to its user.
func (t *Transport) serve(c *conn) {
	keep := false
	defer func() {
		if !keep {
			_ = c.Close()
		}
	}()
	_ = c.SetDeadline(time.Now().Add(t.cfg.PrefaceTimeout))
	p, err := readPreface(c)
	if err != nil {
		t.unreadable(c, err)
		return
	}
	v, handle := t.judge(c, p)
	if err := t.reply(c, v); v.Code != accepted {
		t.say(v.Code.level(), t.whois(c, p.ID)+fmt.Sprint(v.Code), "refused a peer", "peer", p.ID, "from", c.RemoteAddr(), "for", p.Purpose, "reason", v.Reason)
		return
	} else if err != nil {
		return // the dialer went away, and will come again if it must
	}
	switch p.Purpose {
	case forHello:
		_ = writeMessage(c, t.hello())
	case forAdmit:
		t.receiveAdmission(c, p)
	case forRaft:
		_ = c.SetDeadline(time.Time{})
		keep = t.raft.take(c)
	case forCommands:
		_ = c.SetDeadline(time.Time{})
		handle(t.ctx, c, p.ID)
	}
}

// judge decides on p, and from then on c is p's dialer's: a change of the
// member table closes it.
func (t *Transport) judge(c *conn, p preface) (verdict, func(context.Context, net.Conn, string)) {
	if err := t.cfg.Verify(c.Conn, p.ID); err != nil {
		return refuse(CodeUnproven, "the connection does not prove that it comes from %s: %v", p.ID, err), nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v := judge(t.local, p)
	if v.Code != accepted {
		return v, nil
	}
	if p.Purpose == forRaft && !t.raftUp || p.Purpose == forCommands && t.commands == nil {
		return refuse(CodeNotReady, "%s is starting or stopping", t.local.id), nil
	}
	c.peer = member{ID: p.ID, Incarnation: p.Incarnation}
	if p.Purpose == forRaft || p.Purpose == forCommands {
		c.settle()
	}
	return v, t.commands
}

func (t *Transport) reply(c *conn, v verdict) error {
	l := t.snapshot()
	_, err := c.Write(answer{Code: v.Code, ID: l.id, Incarnation: l.incarnation, Reason: v.Reason}.append(nil))
	return err
}

func (t *Transport) unreadable(c *conn, err error) {
	if errors.Is(err, io.EOF) || t.ctx.Err() != nil {
		return // a look whether the port is open
	}
	if errors.Is(err, errVersion) {
		_ = t.reply(c, refuse(CodeVersion, "%s speaks version %d of the peer protocol: run releases that are next to each other", t.cfg.NodeID, protocolVersion))
	}
	t.say(slog.LevelWarn, t.whois(c, "")+"unreadable", "refused a connection that is not a peer's", "from", c.RemoteAddr(), "error", err)
}

// whois is the name under which lines about c's dialer are counted: the id that
// it claims if that is a known one, else its host.
func (t *Transport) whois(c *conn, id string) string {
	l := t.snapshot()
	for _, p := range append(l.roster.list(), l.list...) {
		if p.ID == id {
			return id + " "
		}
	}
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return host + " "
}

// sleep waits, and reports false if ctx or the transport ended first.
func (t *Transport) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-t.ctx.Done():
	}
	return false
}
