package state

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/fsm"
)

// node is raft on a state and a log, on disk.
type node struct {
	dir, kind string
	id        raft.ServerID
	trans     *raft.InmemTransport
	state     *State
	log       *logstore.Store
	stable    *boltdb.BoltStore
	raft      *raft.Raft
}

func (n *node) start(t *testing.T) {
	t.Helper()
	var err error
	n.state, err = Open(filepath.Join(n.dir, "state"), options(t))
	check(t, err)
	n.log, err = logstore.Open(filepath.Join(n.dir, "log"), n.kind, logstore.Options{
		CacheEntries: 4, SegmentBytes: 64 << 10,
		OnFatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	check(t, err)
	n.stable, err = logstore.OpenStable(filepath.Join(n.dir, "log"))
	check(t, err)
	check(t, n.state.CheckLog(n.log))
	index, _ := n.state.Applied()
	check(t, n.log.Verify(index+1))
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(n.id))
	c := raft.DefaultConfig()
	c.LocalID = n.id
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 100*time.Millisecond, 100*time.Millisecond, 50*time.Millisecond
	c.CommitTimeout = 5 * time.Millisecond
	c.NoSnapshotRestoreOnStart = true
	c.TrailingLogs = 1
	c.SnapshotThreshold = 1 << 30 // when the test asks for one
	c.Logger = hclog.NewNullLogger()
	n.raft, err = raft.NewRaft(c, n.state, n.log, n.stable, n.state, n.trans)
	check(t, err)
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	check(t, n.raft.Shutdown().Error())
	check(t, n.trans.Close())
	check(t, n.log.Close())
	check(t, n.stable.Close())
	check(t, n.state.Close())
}

func connect(a, b *node) {
	a.trans.Connect(b.trans.LocalAddr(), b.trans)
	b.trans.Connect(a.trans.LocalAddr(), a.trans)
}

// propose applies commands through the leader n.
func (n *node) propose(t *testing.T, first, last uint64) {
	t.Helper()
	for i := first; i <= last; i++ {
		f := n.raft.Apply(encode(t, i, create(i)), 0)
		check(t, f.Error())
		if o := f.Response().([]*fsm.Outcome); o[0].Code != fsm.Code_CREATED {
			t.Fatalf("create %d: %v", i, o[0].Code)
		}
	}
}

func (n *node) await(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come to %s", n.id, what)
		}
	}
}

// TestRaftRunsOnIt goes through the life of a node: a new cluster, snapshots
// that cut the log off, restarts, and a follower that comes too late for the
// log and is sent the state.
func TestRaftRunsOnIt(t *testing.T) {
	for _, kind := range []string{"wal", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			leader := &node{dir: t.TempDir(), kind: kind, id: "n1"}
			leader.start(t)
			check(t, leader.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}}).Error())
			lead := func() bool { return leader.raft.State() == raft.Leader }
			leader.await(t, "lead", lead)
			check(t, leader.raft.Apply(journal(t, 2, 2)[0].Data, 0).Error())
			leader.propose(t, 100, 150)
			// After each restart the newest entry is one of raft's own, a
			// no-op, and the log is cut off right behind it.
			for range 3 {
				check(t, leader.raft.Snapshot().Error())
				before, err := leader.state.Hash()
				check(t, err)
				leader.stop(t)
				leader.start(t)
				leader.await(t, "lead", lead)
				check(t, leader.raft.Barrier(0).Error())
				if after, err := leader.state.Hash(); err != nil || after != before {
					t.Fatalf("the state has changed in a restart, %v", err)
				}
			}
			leader.propose(t, 151, 200)
			check(t, leader.raft.Snapshot().Error())

			follower := &node{dir: t.TempDir(), kind: kind, id: "n2"}
			follower.start(t)
			connect(leader, follower)
			check(t, leader.raft.AddNonvoter("n2", "n2", 0, 0).Error())
			for range 3 {
				follower.catchUp(t, leader)
				if i := follower.state.Installs(); i > 1 {
					t.Errorf("the follower was sent the state %d times", i)
				}
				follower.stop(t)
				follower.start(t)
				connect(leader, follower)
			}
			follower.catchUp(t, leader)
			follower.stop(t)
			leader.stop(t)
		})
	}
}

// catchUp waits until n holds the state of leader.
func (n *node) catchUp(t *testing.T, leader *node) {
	t.Helper()
	next := 1000 + leader.raft.LastIndex()
	leader.propose(t, next, next)
	n.await(t, "hold the leader's state", func() bool {
		want, _ := leader.state.Applied()
		got, _ := n.state.Applied()
		return got == want
	})
	want, err := leader.state.Hash()
	check(t, err)
	if got, err := n.state.Hash(); err != nil || got != want {
		t.Fatalf("the states differ, %v", err)
	}
}
