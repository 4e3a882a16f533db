package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

func TestEveryNodeTakesEveryCommand(t *testing.T) {
	c := startCluster(t, 3, nil)
	for i := range c.nodes {
		key := fmt.Sprintf("key-%d", i)
		granted := c.begin(i, claimOf(key, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
		next := (i + 1) % 3
		c.begin(next, claimOf(key, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)
		c.complete(next, key, granted.Record.Fence, "done "+key)
		for j := range c.nodes {
			o := c.begin(j, claimOf(key, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
			if body, err := o.Record.Response.Plain(); err != nil || string(body) != "done "+key {
				t.Errorf("node %d replays %q (%v)", j, body, err)
			}
		}
	}
}

func TestTheFeatureLevelIsRaisedOnEveryNode(t *testing.T) {
	c := startCluster(t, 3, nil)
	for _, n := range c.nodes {
		eventually(t, "the level that all support", func() bool { return n.Meta().FeatureLevel == fsm.FeatureLevel })
	}
}

func TestManyClaimsOfOneKeyOnAllNodesGrantOne(t *testing.T) {
	c := startCluster(t, 3, nil)
	var wg sync.WaitGroup
	codes := make(chan fsm.Code, 60)
	for i := range 60 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			o, err := c.nodes[i%3].Begin(t.Context(), claimOf("herd", "", time.Minute, fsm.OnLapse_RETRY), 0)
			if err != nil {
				t.Error(err)
				return
			}
			codes <- o.Code
		}()
	}
	wg.Wait()
	close(codes)
	granted := 0
	for code := range codes {
		if code == fsm.Code_GRANTED {
			granted++
		} else if code != fsm.Code_IN_FLIGHT {
			t.Errorf("a claim answered %v", code)
		}
	}
	if granted != 1 {
		t.Errorf("%d claims were granted", granted)
	}
}

func TestAWaiterOnAnyNodeIsWokenByTheCompletion(t *testing.T) {
	c := startCluster(t, 3, nil)
	granted := c.begin(0, claimOf("slow", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	answers := make(chan *fsm.Outcome, 3)
	for i := range c.nodes {
		go func() {
			o, err := c.nodes[i].Begin(t.Context(), claimOf("slow", "", time.Minute, fsm.OnLapse_RETRY), 20*time.Second)
			if err != nil {
				t.Error(err)
			}
			answers <- o
		}()
	}
	eventually(t, "all to wait", func() bool {
		for _, n := range c.nodes {
			n.waiters.mu.Lock()
			waiting := len(n.waiters.keys)
			n.waiters.mu.Unlock()
			if waiting == 0 {
				return false
			}
		}
		return true
	})
	c.complete(1, "slow", granted.Record.Fence, "at last")
	for range 3 {
		if o := <-answers; o.GetCode() != fsm.Code_REPLAY {
			t.Errorf("a waiter got %v", o.GetCode())
		}
	}
}

func TestANodeThatStopsLetsItsWaitersGo(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.begin(0, claimOf("slow", "", time.Hour, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	at := c.follower()
	answer := make(chan *fsm.Outcome, 1)
	go func() {
		o, err := c.nodes[at].Begin(t.Context(), claimOf("slow", "", time.Minute, fsm.OnLapse_RETRY), 30*time.Second)
		if err != nil {
			t.Error(err)
		}
		answer <- o
	}()
	eventually(t, "the waiter to wait", func() bool {
		n := c.nodes[at]
		n.waiters.mu.Lock()
		defer n.waiters.mu.Unlock()
		return len(n.waiters.keys) == 1
	})
	if err := c.nodes[at].Drain(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case o := <-answer:
		if o.GetCode() != fsm.Code_IN_FLIGHT {
			t.Errorf("the waiter got %v", o.GetCode())
		}
	case <-time.After(patience / 2):
		t.Error("the waiter still waits")
	}
}

func TestAWaiterMayBecomeTheRunner(t *testing.T) {
	c := startCluster(t, 3, nil)
	granted := c.begin(0, claimOf("free", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	answer := make(chan *fsm.Outcome, 1)
	go func() {
		o, err := c.nodes[2].Begin(t.Context(), claimOf("free", "B", time.Minute, fsm.OnLapse_RETRY), 20*time.Second)
		if err != nil {
			t.Error(err)
		}
		answer <- o
	}()
	eventually(t, "the waiter to wait", func() bool {
		n := c.nodes[2]
		n.waiters.mu.Lock()
		defer n.waiters.mu.Unlock()
		return len(n.waiters.keys) == 1
	})
	c.propose(1, &fsm.Command{Kind: fsm.Kind_RELEASE, Namespace: "default", Key: "free", Fence: granted.Record.Fence}, fsm.Code_OK)
	if o := <-answer; o.GetCode() != fsm.Code_GRANTED || o.Record.Fence <= granted.Record.Fence {
		t.Errorf("the waiter got %v", o)
	}
}

func TestALapsedLeaseIsTakenOverAndTheLateOwnerFencedOut(t *testing.T) {
	c := startCluster(t, 3, nil)
	first := c.begin(0, claimOf("late", "A", 200*time.Millisecond, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	second := c.begin(1, claimOf("late", "B", time.Minute, fsm.OnLapse_RETRY), 20*time.Second, fsm.Code_GRANTED)
	if second.Record.Fence <= first.Record.Fence || second.Record.Attempt != 2 {
		t.Errorf("takeover has fence %d after %d, attempt %d", second.Record.Fence, first.Record.Fence, second.Record.Attempt)
	}
	c.propose(2, &fsm.Command{
		Kind: fsm.Kind_COMPLETE, Namespace: "default", Key: "late", Fence: first.Record.Fence, Response: fsm.NewResponse(200, nil, []byte("late")),
	}, fsm.Code_STALE_FENCE)
	c.complete(0, "late", second.Record.Fence, "in time")
}

func TestABlockedLapseIsUnknownUntilResolved(t *testing.T) {
	c := startCluster(t, 3, nil)
	first := c.begin(0, claimOf("pay", "A", 100*time.Millisecond, fsm.OnLapse_BLOCK), 0, fsm.Code_GRANTED)
	c.begin(1, claimOf("pay", "B", time.Minute, fsm.OnLapse_RETRY), 20*time.Second, fsm.Code_OUTCOME_UNKNOWN)
	c.propose(2, &fsm.Command{Kind: fsm.Kind_RESOLVE, Namespace: "default", Key: "pay", Fence: first.Record.Fence, Retry: true}, fsm.Code_OK)
	c.begin(1, claimOf("pay", "B", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
}

func TestExpiredRecordsAreSweptEvenASingleOne(t *testing.T) {
	c := startCluster(t, 3, nil)
	claim := claimOf("brief", "", time.Minute, fsm.OnLapse_RETRY)
	claim.Ttl = (30 * time.Minute).Milliseconds()
	granted := c.begin(0, claim, 0, fsm.Code_GRANTED)
	c.complete(1, "brief", granted.Record.Fence, "x")
	c.begin(2, claimOf("brief", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
	for i := range c.skews {
		c.skews[i].Store(int64(time.Hour))
	}
	eventually(t, "the record to be swept on every node", func() bool {
		for _, n := range c.nodes {
			if n.Meta().Completed != 0 {
				return false
			}
		}
		return true
	})
}

func TestACommandWaitsForALeaderAndOutlivesItsLoss(t *testing.T) {
	c := startCluster(t, 3, nil)
	lost := c.leader()
	follower := c.follower()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				// A resend under another request id would find the key in flight.
				o, err := c.nodes[follower].Begin(t.Context(), claimOf(fmt.Sprintf("w%d-%d", w, k), "", time.Minute, fsm.OnLapse_RETRY), 0)
				if err != nil || o.Code != fsm.Code_GRANTED {
					t.Errorf("a claim failed: %v %v", o.GetCode(), err)
					return
				}
			}
		}()
	}
	c.stop(lost)
	if next := c.leader(); next == lost {
		t.Error("the stopped node leads")
	}
	c.begin(follower, claimOf("after", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	close(stop)
	wg.Wait()
	c.start(lost)
	c.awaitReady()
}

func TestWithoutAMajorityNothingIsAnsweredAndNothingRuns(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { cfg.RequestTimeout = time.Second })
	at := c.leader()
	held := c.begin(at, claimOf("held", "", time.Hour, fsm.OnLapse_BLOCK), 0, fsm.Code_GRANTED)
	lost := []int{(at + 1) % 3, (at + 2) % 3}
	for _, i := range lost {
		c.stop(i)
	}
	// For a moment it leads still, and has no answer that is not committed.
	o, err := c.nodes[at].Propose(t.Context(), &fsm.Command{
		Kind: fsm.Kind_COMPLETE, Namespace: "default", Key: "held", Fence: held.Record.Fence, Response: fsm.NewResponse(200, nil, nil),
	})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("completion without a majority: %v %v, want ErrUnavailable", o.GetCode(), err)
	}
	if _, err := c.nodes[at].Begin(t.Context(), claimOf("during", "", time.Hour, fsm.OnLapse_BLOCK), 0); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("claim without a majority: %v, want ErrUnavailable", err)
	}
	for _, i := range lost {
		c.start(i)
	}
	c.awaitReady()
	// Whatever became of it in the log, in the end nobody holds it.
	eventually(t, "the unused grant to be released", func() bool {
		rec := c.read(lost[0], "during")
		return rec == nil
	})
}

func TestALeaderThatDrainsHandsOnAndForwards(t *testing.T) {
	c := startCluster(t, 3, nil)
	at := c.leader()
	if err := c.nodes[at].Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.nodes[at].raft.State() == raft.Leader {
		t.Error("it leads still: the others would have to miss it first")
	}
	if c.nodes[at].Ready() == nil {
		t.Error("it is ready still")
	}
	c.begin(at, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
}

func TestABarrierSeesWhatWasCommittedBefore(t *testing.T) {
	c := startCluster(t, 3, nil)
	for k := range 20 {
		key := fmt.Sprintf("k%d", k)
		c.begin(k%3, claimOf(key, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
		other := c.nodes[(k+1)%3]
		if err := other.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rec, err := other.Lookup("default", key); err != nil || rec == nil {
			t.Fatalf("%s is not seen after a barrier: %v", key, err)
		}
	}
}

func TestARestartedClusterKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"wal", "bolt"} {
		t.Run(store, func(t *testing.T) {
			c := startCluster(t, 3, func(cfg *Config) { cfg.LogStore = store })
			for k := range 50 {
				key := fmt.Sprintf("k%d", k)
				granted := c.begin(k%3, claimOf(key, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
				c.complete(k%3, key, granted.Record.Fence, key)
			}
			c.agree()
			for i := range c.nodes {
				c.stop(i)
			}
			for i := range c.nodes {
				c.start(i)
			}
			c.awaitReady()
			for k := range 50 {
				c.begin((k+1)%3, claimOf(fmt.Sprintf("k%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
			}
		})
	}
}

func TestARestartReplaysOnlyTheTail(t *testing.T) {
	c := startCluster(t, 3, nil)
	for k := range 100 {
		c.begin(0, claimOf(fmt.Sprintf("k%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	}
	c.agree()
	before, _ := c.nodes[0].state.Applied()
	for i := range c.nodes {
		c.stop(i)
	}
	c.start(0) // alone, it commits nothing new
	n := c.nodes[0]
	eventually(t, "raft to start", func() bool {
		select {
		case <-n.running:
			return true
		default:
			return false
		}
	})
	if from := n.raft.AppliedIndex(); from < before {
		t.Errorf("raft begins behind entry %d, %d was applied", from, before)
	}
	if n.state.Installs() > 0 {
		t.Error("raft restored a snapshot of what is on disk already")
	}
	c.start(1)
	c.start(2)
	c.awaitReady()
}

func TestAFollowerPastTheLogsTailIsBroughtBackByASnapshot(t *testing.T) {
	c := startCluster(t, 3, func(cfg *Config) { cfg.SnapshotEntries, cfg.TrailingLogs = 20, 5 })
	away := c.follower()
	c.stop(away)
	leader := c.leader()
	for k := range 100 {
		c.begin(leader, claimOf(fmt.Sprintf("k%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	}
	for _, n := range c.live() {
		if err := n.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			t.Fatal(err)
		}
	}
	c.start(away)
	c.awaitReady()
	c.agree()
	if c.nodes[away].state.Installs() == 0 {
		t.Error("the follower came back without a snapshot: the log was not cut")
	}
	// It is a whole member again.
	c.handOver(away)
	c.begin(away, claimOf("as leader", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REFUSED)
	c.begin(away, claimOf("as-leader", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
}

func TestANodeIsAddedAndRemoved(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.begin(0, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	cfg := c.config(0)
	cfg.NodeID, cfg.DataDir, cfg.RaftAddr, cfg.Peers, cfg.Join = "n4", t.TempDir(), freeAddr(t), nil, c.peers[1].Addr
	joining, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer joining.Close()
	if joining.Ready() == nil {
		t.Error("a node that waits to be added is ready")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.nodes[c.follower()].AddNode(ctx, "n4", cfg.RaftAddr, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new node to be ready", func() bool { return joining.Ready() == nil })
	if o, err := joining.Begin(t.Context(), claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0); err != nil || o.Code != fsm.Code_IN_FLIGHT {
		t.Errorf("a claim on the new node: %v %v", o.GetCode(), err)
	}
	if err := c.nodes[0].RemoveNode(ctx, "n4"); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[0].RemoveNode(ctx, "n4"); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("removing it again: %v, want ErrUnknownNode", err)
	}
	status, err := c.nodes[1].Status(ctx)
	if err != nil || len(status.Nodes) != 3 {
		t.Errorf("%d nodes after the removal (%v)", len(status.Nodes), err)
	}
}

func TestTheHeartbeatFastPathIsOff(t *testing.T) {
	// hashicorp/raft#695: with a handler, heartbeats run beside raft's main
	// loop. The wrapper must keep it from the transport, and keep pre-vote.
	var tr raft.Transport = transport{}
	tr.SetHeartbeatHandler(func(raft.RPC) { t.Error("the handler was kept") })
	if _, ok := tr.(raft.WithPreVote); !ok {
		t.Error("the wrapper lost pre-vote")
	}
	if _, err := tr.AppendEntriesPipeline("", ""); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("pipelining is offered: %v", err)
	}
}

// stuck is a future that raft never answers (hashicorp/raft#498).
type stuck chan struct{}

func (s stuck) Error() error { <-s; return nil }

func TestAFutureThatIsNeverAnsweredHoldsNobody(t *testing.T) {
	f := stuck(make(chan struct{}))
	defer close(f)
	stopped := make(chan struct{})
	close(stopped)
	if err := await(f, stopped); !errors.Is(err, errStopped) {
		t.Errorf("await: %v, want %v", err, errStopped)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := awaitContext(ctx, f, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("await: %v, want %v", err, context.Canceled)
	}
}

func TestADirectoryThatLostItsLogAndStateIsRefused(t *testing.T) {
	for _, lost := range [][]string{{"raft", "state"}, {"raft"}} {
		t.Run(strings.Join(lost, " and "), func(t *testing.T) {
			c := startCluster(t, 3, nil)
			c.begin(0, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
			c.stop(0)
			for _, name := range lost {
				if err := os.RemoveAll(filepath.Join(c.dirs[0], name)); err != nil {
					t.Fatal(err)
				}
			}
			n, err := Open(t.Context(), c.config(0))
			if err == nil {
				defer n.Close()
				select {
				case err = <-n.Fatal():
				case <-time.After(patience):
					t.Fatal("it runs")
				}
			}
			if !strings.Contains(err.Error(), "join") {
				t.Errorf("it says %q, not what to do", err)
			}
		})
	}
}
