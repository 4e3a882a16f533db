package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// patience bounds every wait of these tests: reaching it is a failure, never
// a verdict about speed.
const patience = time.Minute

// trio is a cluster of real nodes in this process: real disks, real sockets,
// a wall clock for each that a test may set wrong.
type trio struct {
	t     testing.TB
	peers []Peer
	dirs  []string
	nodes []*Node // nil while stopped
	skews []atomic.Int64
	tune  func(*Config)
}

// startCluster starts n nodes and waits until all are ready. tune may be nil.
// When the test ends, the replicas must agree.
func startCluster(t testing.TB, n int, tune func(*Config)) *trio {
	t.Helper()
	c := newCluster(t, n, tune)
	for i := range n {
		c.start(i)
	}
	c.awaitReady()
	return c
}

func newCluster(t testing.TB, n int, tune func(*Config)) *trio {
	t.Helper()
	c := &trio{t: t, nodes: make([]*Node, n), dirs: make([]string, n), skews: make([]atomic.Int64, n), tune: tune}
	for i := range n {
		c.dirs[i] = t.TempDir()
		c.peers = append(c.peers, Peer{ID: fmt.Sprintf("n%d", i+1), Addr: freeAddr(t)})
	}
	t.Cleanup(c.close)
	return c
}

// given are the addresses that freeAddr has returned.
var given sync.Map

// freeAddr returns a loopback address that was free a moment ago, another each
// time: the system may give the same again.
func freeAddr(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		if _, again := given.LoadOrStore(addr, true); !again {
			return addr
		}
	}
}

func (c *trio) config(i int) Config {
	cfg := Config{
		NodeID: c.peers[i].ID, DataDir: c.dirs[i], RaftAddr: c.peers[i].Addr, HTTPAddr: "127.0.0.1:1",
		Log:            slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		RequestTimeout: patience,
		Clock:          func() time.Time { return time.Now().Add(time.Duration(c.skews[i].Load())) },
	}
	if len(c.peers) > 1 {
		cfg.Peers = c.peers
	}
	if c.tune != nil {
		c.tune(&cfg)
	}
	return cfg
}

// testWriter puts the nodes' logs into the test's.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (c *trio) start(i int) {
	c.t.Helper()
	n, err := Open(c.t.Context(), c.config(i))
	if err != nil {
		c.t.Fatalf("open %s: %v", c.peers[i].ID, err)
	}
	c.nodes[i] = n
}

func (c *trio) stop(i int) {
	c.t.Helper()
	if n := c.nodes[i]; n != nil {
		c.nodes[i] = nil
		if err := n.Close(); err != nil {
			c.t.Errorf("close %s: %v", c.peers[i].ID, err)
		}
	}
}

func (c *trio) restart(i int) {
	c.t.Helper()
	c.stop(i)
	c.start(i)
}

func (c *trio) live() (up []*Node) {
	for _, n := range c.nodes {
		if n != nil {
			up = append(up, n)
		}
	}
	return up
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *trio) awaitReady() {
	c.t.Helper()
	for _, n := range c.live() {
		eventually(c.t, n.cfg.NodeID+" to be ready", func() bool { return n.Ready() == nil })
	}
}

// leader waits for a leader among the live nodes and returns its place.
func (c *trio) leader() int {
	c.t.Helper()
	at := -1
	eventually(c.t, "a leader", func() bool {
		for i, n := range c.nodes {
			if n == nil {
				continue
			}
			select {
			case <-n.running:
			default:
				continue
			}
			if n.raft.State() == raft.Leader {
				at = i
				return true
			}
		}
		return false
	})
	return at
}

// follower returns the place of a live node that does not lead.
func (c *trio) follower() int {
	c.t.Helper()
	leader := c.leader()
	for i, n := range c.nodes {
		if n != nil && i != leader {
			return i
		}
	}
	c.t.Fatal("no follower is up")
	return -1
}

// handOver moves leadership to the node at place to.
func (c *trio) handOver(to int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	eventually(c.t, "leadership to move", func() bool {
		_ = c.nodes[to].Transfer(ctx, c.peers[to].ID)
		return c.leader() == to
	})
}

// agree waits until the live nodes have applied the same entries and checks
// that they hold the same state.
func (c *trio) agree() {
	c.t.Helper()
	up := c.live()
	if len(up) == 0 {
		return
	}
	eventually(c.t, "replicas with equal state", func() bool {
		want, err := up[0].Hash()
		if err != nil {
			c.t.Fatal(err)
		}
		for _, n := range up[1:] {
			if got, err := n.Hash(); err != nil {
				c.t.Fatal(err)
			} else if got != want {
				return false
			}
		}
		return true
	})
}

func (c *trio) close() {
	if !c.t.Failed() && len(c.live()) == len(c.nodes) {
		c.agree()
	}
	for i := range c.nodes {
		c.stop(i)
	}
}

// claimOf is a claim as the Key API makes it.
func claimOf(key, attempt string, lease time.Duration, policy fsm.OnLapse) *fsm.Command {
	return &fsm.Command{
		Kind: fsm.Kind_CLAIM, Namespace: "default", Key: key, Surface: fsm.Surface_SURFACE_KEYS, AttemptId: attempt,
		Lease: lease.Milliseconds(), Ttl: (24 * time.Hour).Milliseconds(), OnLapse: policy,
	}
}

// begin runs a claim on node i and fails the test unless it answers with code.
func (c *trio) begin(i int, cmd *fsm.Command, wait time.Duration, code fsm.Code) *fsm.Outcome {
	c.t.Helper()
	o, err := c.nodes[i].Begin(c.t.Context(), cmd, wait)
	if err != nil {
		c.t.Fatalf("begin %s on %s: %v", cmd.Key, c.peers[i].ID, err)
	}
	if o.Code != code {
		c.t.Fatalf("begin %s on %s: %v, want %v", cmd.Key, c.peers[i].ID, o.Code, code)
	}
	return o
}

// propose runs any other command.
func (c *trio) propose(i int, cmd *fsm.Command, code fsm.Code) *fsm.Outcome {
	c.t.Helper()
	o, err := c.nodes[i].Propose(c.t.Context(), cmd)
	if err != nil {
		c.t.Fatalf("%v %s on %s: %v", cmd.Kind, cmd.Key, c.peers[i].ID, err)
	}
	if o.Code != code {
		c.t.Fatalf("%v %s on %s: %v, want %v", cmd.Kind, cmd.Key, c.peers[i].ID, o.Code, code)
	}
	return o
}

func (c *trio) complete(i int, key string, fence uint64, body string) *fsm.Outcome {
	c.t.Helper()
	return c.propose(i, &fsm.Command{
		Kind: fsm.Kind_COMPLETE, Namespace: "default", Key: key, Fence: fence,
		Response: fsm.NewResponse(200, nil, []byte(body)),
	}, fsm.Code_OK)
}

// read returns the record of a key through the log, or nil.
func (c *trio) read(i int, key string) *fsm.Record {
	c.t.Helper()
	o, err := c.nodes[i].Propose(c.t.Context(), &fsm.Command{Kind: fsm.Kind_READ, Namespace: "default", Key: key})
	if err != nil {
		c.t.Fatalf("read %s on %s: %v", key, c.peers[i].ID, err)
	}
	if o.Code == fsm.Code_NOT_FOUND {
		return nil
	}
	return o.Record
}
