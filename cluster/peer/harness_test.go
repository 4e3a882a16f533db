package peer

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

// patience bounds every wait of the tests for something that must happen.
const patience = 10 * time.Second

// site is a set of nodes that were told of each other, and their machines.
type site struct {
	t     *testing.T
	peers []Peer
	nodes map[string]*node
	bell  bell // rings with each line that a node logs
}

// node is one machine of a site: its address and its directory outlive the
// process (the transport) that runs on it.
type node struct {
	s    *site
	id   string
	addr string
	path string
	logs *logBuffer

	// How it is started.
	list                 []Peer
	join                 string
	preface              time.Duration
	maxPending, maxConns int
	verify               func(net.Conn, string) error

	port   *port // keeps the address until the first start
	dir    *Dir
	t      *Transport
	formed chan error
	cancel context.CancelFunc
}

func newSite(t *testing.T, ids ...string) *site {
	s := &site{t: t, nodes: map[string]*node{}}
	for _, id := range ids {
		n := s.machine(id)
		s.peers = append(s.peers, Peer{ID: id, Addr: n.addr})
	}
	for _, n := range s.nodes {
		n.list = s.peers
	}
	return s
}

// machine adds one that is not on the list.
func (s *site) machine(id string) *node {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	n := &node{
		s: s, id: id, addr: l.Addr().String(), port: hold(l), logs: &logBuffer{bell: &s.bell},
		path: filepath.Join(s.t.TempDir(), id),
	}
	s.nodes[id] = n
	s.t.Cleanup(func() {
		n.stop()
		if n.port != nil {
			n.port.release().Close()
		}
	})
	return n
}

// start starts n as it is configured; it looks for its cluster in the
// background.
func (n *node) start() *node {
	t := n.s.t
	t.Helper()
	var err error
	if n.dir, err = OpenDir(n.path, n.id); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if n.port != nil {
		l, n.port = n.port.release(), nil
	}
	n.t, err = Listen(Config{
		Dir: n.dir, NodeID: n.id, Addr: n.addr, Peers: n.list, Join: n.join, Listener: l,
		Log: slog.New(slog.NewTextHandler(n.logs, nil)), Verify: n.verify,
		PrefaceTimeout: n.preface, maxPending: n.maxPending, maxConns: n.maxConns,
		pause: func() time.Duration { return 5 * time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.formed = cancel, make(chan error, 1)
	go func(form func(context.Context) error, done chan<- error) { done <- form(ctx) }(n.t.Form, n.formed)
	return n
}

func (n *node) stop() {
	if n.t == nil {
		return
	}
	n.cancel()
	if err := n.t.Close(); err != nil {
		n.s.t.Error(err)
	}
	<-n.formed
	if err := n.dir.Close(); err != nil {
		n.s.t.Error(err)
	}
	n.t = nil
}

func (n *node) restart() *node { n.stop(); return n.start() }

// wipe stops n and starts it with an empty directory.
func (n *node) wipe() *node {
	n.stop()
	n.path += "x"
	return n.start()
}

func (s *site) start(ids ...string) {
	for _, id := range ids {
		s.nodes[id].start()
	}
}

// wantFormed waits until the named nodes are members of one cluster.
func (s *site) wantFormed(ids ...string) {
	s.t.Helper()
	var clusters []string
	for _, id := range ids {
		n := s.nodes[id]
		s.await(id+" to form", func() bool { return n.t.WhyNotFormed() == nil })
		cluster, members := n.t.Roster()
		if len(members) != len(s.peers) {
			s.t.Errorf("%s has the members %v", id, members)
		}
		clusters = append(clusters, string(cluster))
	}
	if slices.Sort(clusters); clusters[0] != clusters[len(clusters)-1] {
		s.t.Errorf("different clusters were formed: %x", clusters)
	}
}

func (s *site) wantUnformed(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		if s.nodes[id].t.WhyNotFormed() == nil {
			s.t.Errorf("%s belongs to a cluster", id)
		}
	}
}

// await waits until holds, which is looked at again after each line that any
// node has logged.
func (s *site) await(what string, holds func() bool) {
	s.t.Helper()
	late := time.After(patience)
	for {
		logged := s.bell.next()
		if holds() {
			return
		}
		select {
		case <-logged:
		case <-late:
			for id, n := range s.nodes {
				s.t.Logf("%s: %s", id, n.logs)
			}
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// says waits until n has logged a line with all of the words.
func (n *node) says(words ...string) {
	n.s.t.Helper()
	n.s.await(n.id+" to say "+strings.Join(words, " ... "), func() bool {
		return slices.ContainsFunc(n.logs.lines(), func(line string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
		})
	})
}

// awaitConns waits until n has accepted just so many connections that are open.
func (s *site) awaitConns(n *node, want int) {
	s.t.Helper()
	late := time.Now().Add(patience)
	for {
		n.t.mu.Lock()
		got := n.t.inbound
		n.t.mu.Unlock()
		if got == want {
			return
		}
		if time.Now().After(late) {
			s.t.Fatalf("%s has %d connections, want %d", n.id, got, want)
		}
		runtime.Gosched()
	}
}

func (n *node) member() *fsm.Member {
	return &fsm.Member{Id: n.id, RaftAddr: n.addr, Incarnation: n.dir.Incarnation()}
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(n.s.t.Context(), patience)
	n.s.t.Cleanup(cancel)
	return ctx
}

// port is an address that nobody serves yet: connections are closed at once.
type port struct {
	l    *net.TCPListener
	done chan struct{}
}

func hold(l net.Listener) *port {
	p := &port{l.(*net.TCPListener), make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			c, err := p.l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return p
}

// release hands the address over to who serves it.
func (p *port) release() net.Listener {
	_ = p.l.SetDeadline(time.Unix(1, 0))
	<-p.done
	_ = p.l.SetDeadline(time.Time{})
	return p.l
}

// bell wakes all that wait for its next ring.
type bell struct {
	mu   sync.Mutex
	ring chan struct{}
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring == nil {
		b.ring = make(chan struct{})
	}
	return b.ring
}

func (b *bell) rings() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ring != nil {
		close(b.ring)
		b.ring = nil
	}
}

type logBuffer struct {
	bell *bell
	mu   sync.Mutex
	b    bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	defer l.bell.rings()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) lines() []string { return strings.Split(strings.TrimSpace(l.String()), "\n") }
