package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/fsm"
)

// hangingDisk is a real disk for a node's log. While it hangs no write to it
// comes to an end.
type hangingDisk struct {
	types.VFS
	held chan struct{} // depth 1: a write has come and hangs

	mu    sync.Mutex
	thaws chan struct{} // nil: it does not hang
}

// hangingDisks returns a disk for each node of a cluster of n.
func hangingDisks(n int) map[string]*hangingDisk {
	disks := make(map[string]*hangingDisk, n)
	for i := range n {
		disks[fmt.Sprintf("n%d", i+1)] = &hangingDisk{VFS: fs.New(), held: make(chan struct{}, 1)}
	}
	return disks
}

// freeze makes the disk hang until thaw, or until the test ends: a node cannot
// be closed before.
func (d *hangingDisk) freeze(t *testing.T) {
	t.Cleanup(d.thaw)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.thaws = make(chan struct{})
}

func (d *hangingDisk) thaw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.thaws != nil {
		close(d.thaws)
		d.thaws = nil
	}
}

// awaitHeld waits until a write hangs.
func (d *hangingDisk) awaitHeld(t *testing.T) {
	t.Helper()
	select {
	case <-d.held:
	case <-time.After(patience):
		t.Fatal("nothing was written to the disk that hangs")
	}
}

func (d *hangingDisk) pass() {
	d.mu.Lock()
	thaws := d.thaws
	d.mu.Unlock()
	if thaws == nil {
		return
	}
	select {
	case d.held <- struct{}{}:
	default:
	}
	<-thaws
}

func (d *hangingDisk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.VFS.Create(dir, name, size)
	return hangingFile{f, d}, err
}

func (d *hangingDisk) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.VFS.OpenWriter(dir, name)
	return hangingFile{f, d}, err
}

type hangingFile struct {
	types.WritableFile
	disk *hangingDisk
}

func (f hangingFile) Sync() error {
	f.disk.pass()
	return f.WritableFile.Sync()
}

func TestALeaderWhoseLogDiskHangsIsReplacedAndNothingIsLost(t *testing.T) {
	disks := hangingDisks(3)
	c := startCluster(t, 3, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: time.Hour}
	})
	const kept = 20
	for k := range kept {
		key := fmt.Sprintf("kept-%d", k)
		granted := c.begin(k%3, claimOf(key, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
		c.complete(k%3, key, granted.Record.Fence, key)
	}
	old := c.leader()
	others := []int{(old + 1) % 3, (old + 2) % 3}
	disk := disks[c.peers[old].ID]
	disk.freeze(t)

	// This claim hangs in the leader, in a log entry that is not on its disk.
	type answer struct {
		*fsm.Outcome
		err error
	}
	hung := make(chan answer, 1)
	go func() {
		o, err := c.nodes[old].Begin(t.Context(), claimOf("contested", "A", time.Minute, fsm.OnLapse_RETRY), 0)
		hung <- answer{o, err}
	}()
	disk.awaitHeld(t)

	// Those that come to the others are answered: another node leads. It may have
	// got that entry, and then A has the key; else B is granted it.
	o, err := c.nodes[others[0]].Begin(t.Context(), claimOf("contested", "B", time.Minute, fsm.OnLapse_RETRY), 0)
	if err != nil || o.Code != fsm.Code_GRANTED && o.Code != fsm.Code_IN_FLIGHT {
		t.Fatalf("B's claim: %v, %v", o.GetCode(), err)
	}
	for k := range kept {
		c.begin(others[k%2], claimOf(fmt.Sprintf("during-%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	}
	c.complete(others[1], "contested", c.read(others[1], "contested").Fence, "by its owner")
	if c.nodes[others[0]].raft.State() != raft.Leader && c.nodes[others[1]].raft.State() != raft.Leader {
		t.Error("neither of the others leads")
	}

	disk.thaw()
	a := <-hung
	if a.err != nil && !errors.Is(a.err, ErrUnavailable) || a.err == nil && a.Code != fsm.Code_REPLAY && (a.Code != fsm.Code_GRANTED || o.Code != fsm.Code_IN_FLIGHT) {
		t.Errorf("the claim that hung: %v, %v; B was told %v, and the key is completed", a.GetCode(), a.err, o.Code)
	}
	eventually(t, "the old leader to follow", func() bool {
		leader, _ := c.nodes[old].leadership.leader()
		return leader != "" && leader != c.peers[old].ID
	})
	c.agree()
	c.handOver(old) // it is a whole member again
	for k := range kept {
		for i := range c.nodes {
			c.begin(i, claimOf(fmt.Sprintf("kept-%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
			c.begin(i, claimOf(fmt.Sprintf("during-%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)
		}
	}
}

// Raft counts an entry as committed as soon as the leader has handed it to its
// log, beside which it is sent.
func TestNothingIsAnsweredBeforeItIsOnTheLeadersDisk(t *testing.T) {
	disks := hangingDisks(1)
	c := startCluster(t, 1, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: time.Hour}
	})
	n, disk := c.nodes[0], disks["n1"]
	c.begin(0, claimOf("before", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	before := n.raft.AppliedIndex()
	disk.freeze(t)
	code := make(chan fsm.Code, 1)
	go func() {
		o, err := n.Begin(t.Context(), claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0)
		if err != nil {
			t.Error(err)
		}
		code <- o.GetCode()
	}()
	disk.awaitHeld(t)
	eventually(t, "raft to take the entry for committed", func() bool { return n.raft.AppliedIndex() > before })
	if record, err := n.Lookup("default", "k"); record != nil || err != nil || len(code) != 0 {
		t.Errorf("the entry is applied before it is on disk: %v, %v", record, err)
	}
	disk.thaw()
	if got := <-code; got != fsm.Code_GRANTED {
		t.Errorf("the claim was answered %v", got)
	}
}

// The claim is in every log, and its sender is told 503 before any of them is
// durable: whoever leads next commits it.
func TestAClaimThatWasCommittedAfterIts503IsReleased(t *testing.T) {
	disks := hangingDisks(3)
	c := startCluster(t, 3, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: time.Hour}
		cfg.RequestTimeout = 2 * time.Second // by then its leader has stepped down
	})
	at := c.leader()
	var followers []*hangingDisk
	for i := range c.nodes {
		if i != at {
			disk := disks[c.peers[i].ID]
			disk.freeze(t)
			followers = append(followers, disk)
		}
	}
	if _, err := c.nodes[at].Begin(t.Context(), claimOf("k", "", time.Hour, fsm.OnLapse_BLOCK), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the claim: %v, want ErrUnavailable", err)
	}
	for _, disk := range followers {
		disk.thaw()
	}
	eventually(t, "the grant to be given and released", func() bool {
		m := c.nodes[at].Meta()
		return m.Fence > 0 && m.Claimed == 0
	})
}

func TestALogDiskThatHangsForTooLongStopsItsNode(t *testing.T) {
	disks := hangingDisks(1)
	c := startCluster(t, 1, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: 2 * time.Second}
	})
	c.begin(0, claimOf("kept", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	disk, node := disks["n1"], c.nodes[0]
	disk.freeze(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hung := make(chan error, 1)
	go func() {
		_, err := node.Begin(ctx, claimOf("hung", "", time.Minute, fsm.OnLapse_RETRY), 0)
		hung <- err
	}()
	select {
	case err := <-node.Fatal():
		if !strings.Contains(err.Error(), "hung") {
			t.Errorf("the fatal error is %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the node goes on")
	}
	if node.Ready() == nil {
		t.Error("the node is ready")
	}
	disk.thaw()
	cancel()
	<-hung // whatever it was told: the write may have come to its end
	c.restart(0)
	c.awaitReady()
	c.begin(0, claimOf("kept", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)
}

// slowLog is a log whose disk hangs, or that has only part of itself on disk.
type slowLog struct {
	stalled time.Duration
	on      uint64
}

func (l slowLog) Stalled() time.Duration     { return l.stalled }
func (l slowLog) Known(commit uint64) uint64 { return min(commit, l.on) }
func (slowLog) Settle(<-chan struct{})       {}

func TestALeaderWhoseLogWriteHangsFallsSilent(t *testing.T) {
	tr := transport{logs: slowLog{stalled: maxStall + time.Millisecond}}
	if err := tr.AppendEntries("", "", &raft.AppendEntriesRequest{}, nil); !errors.Is(err, errStalled) {
		t.Errorf("a heartbeat went out: %v", err)
	}
}

// Else they would apply what a leader that lost power has not.
func TestPeersAreToldOfNoCommitThatItsLeaderDoesNotHold(t *testing.T) {
	_, own := raft.NewInmemTransport("leader")
	_, peer := raft.NewInmemTransport("peer")
	own.Connect("peer", peer)
	tr := newTransport(own, slowLog{on: 6}, nothing, nil, func(time.Duration) {})
	defer tr.Close()
	told := make(chan uint64, 1)
	go func() {
		rpc := <-peer.Consumer()
		told <- rpc.Command.(*raft.AppendEntriesRequest).LeaderCommitIndex
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	}()
	if err := tr.AppendEntries("peer", "peer", &raft.AppendEntriesRequest{LeaderCommitIndex: 7}, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if got := <-told; got != 6 {
		t.Errorf("the peer is told of commit %d, and 6 entries are on disk", got)
	}
}
