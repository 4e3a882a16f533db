package cluster

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
)

// follower is raft on a log as the product has it, and a leader that sends it
// whatever a test wants.
type follower struct {
	t      *testing.T
	raft   *raft.Raft
	logs   *logstore.Store
	state  *containing
	leader *raft.InmemTransport
}

// containing is a state machine of which nothing is known but up to which entry
// it contains the log. A snapshot is that.
type containing struct {
	raft.FSM
	mu          sync.Mutex
	index, term uint64
	restored    int
	forget      func(index uint64) error
}

func (c *containing) reached() (index, term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.index, c.term
}

func (c *containing) Apply(log *raft.Log) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index, c.term = log.Index, log.Term
	return nil
}

func (c *containing) Snapshot() (raft.FSMSnapshot, error) {
	index, term := c.reached()
	return contained(fmt.Sprintln(index, term)), nil
}

// contained is what containing restores.
type contained string

func (c contained) Persist(sink raft.SnapshotSink) error {
	_, err := io.WriteString(sink, string(c))
	return errors.Join(err, sink.Close())
}

func (contained) Release() {}

func (c *containing) Restore(content io.ReadCloser) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := fmt.Fscan(content, &c.index, &c.term); err != nil {
		return err
	}
	c.restored++
	return c.forget(c.index)
}

func nothing() (index, term uint64) { return 0, 0 }

const followerAddr, leaderAddr = "follower:1", "leader:1"

func newFollower(t *testing.T) *follower {
	t.Helper()
	cfg := raft.DefaultConfig()
	cfg.LocalID, cfg.Logger = "follower", hclog.NewNullLogger()
	cfg.HeartbeatTimeout, cfg.ElectionTimeout = time.Hour, time.Hour // it never stands itself
	cfg.TrailingLogs = 1
	stable, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	_, own := raft.NewInmemTransport(followerAddr)
	_, leader := raft.NewInmemTransport(leaderAddr)
	leader.Connect(followerAddr, own)
	f := &follower{t: t, logs: openLog(t), state: &containing{}, leader: leader}
	f.state.forget = f.logs.Forget
	f.logs.Contained(f.state.reached)
	trans := newTransport(own, f.logs, f.state.reached, func() *raft.Raft { return f.raft }, func(time.Duration) {})
	if err := raft.BootstrapCluster(cfg, f.logs, stable, snapshots, trans, raft.Configuration{Servers: []raft.Server{
		{ID: "follower", Address: followerAddr}, {ID: "leader", Address: leaderAddr},
	}}); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(cfg, f.state, f.logs, stable, snapshots, trans)
	if err != nil {
		t.Fatal(err)
	}
	f.raft = r
	t.Cleanup(func() {
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// mayStand has it stand for election when it hears no leader.
func (f *follower) mayStand() {
	f.t.Helper()
	soon := f.raft.ReloadableConfig()
	soon.HeartbeatTimeout, soon.ElectionTimeout = 500*time.Millisecond, 500*time.Millisecond // not below raft's lease
	if err := f.raft.ReloadConfig(soon); err != nil {
		f.t.Fatal(err)
	}
}

func openLog(t *testing.T) *logstore.Store {
	t.Helper()
	s, err := logstore.Open(t.TempDir(), "wal", logstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entries are what a leader of a term would send after entry 1.
func entries(t *testing.T, term uint64, data ...string) []*raft.Log {
	t.Helper()
	var all []*raft.Log
	for i, d := range data {
		all = append(all, &raft.Log{Index: uint64(i) + 2, Term: term, Type: raft.LogCommand, Data: []byte(d)})
	}
	if err := openLog(t).StoreLogs(all); err != nil { // which gives them their digests
		t.Fatal(err)
	}
	return all
}

// send sends entries, as of their term, and reports whether they were taken.
func (f *follower) send(all []*raft.Log) bool {
	f.t.Helper()
	return f.sendCommitted(all[0].Term, all, 0)
}

// sendCommitted sends entries, and how far its leader has committed.
func (f *follower) sendCommitted(term uint64, all []*raft.Log, committed uint64) bool {
	f.t.Helper()
	return f.sendAfter(1, 1, term, all, committed)
}

// sendAfter does, behind an entry and its term.
func (f *follower) sendAfter(index, of, term uint64, all []*raft.Log, committed uint64) bool {
	f.t.Helper()
	var answer raft.AppendEntriesResponse
	err := f.leader.AppendEntries("follower", followerAddr, &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("leader"), Addr: []byte(leaderAddr)},
		Term:      term, PrevLogEntry: index, PrevLogTerm: of, Entries: all, LeaderCommitIndex: committed,
	}, &answer)
	return err == nil && answer.Success
}

// install sends a snapshot, and reports whether it was taken.
func (f *follower) install(index, term uint64) bool {
	f.t.Helper()
	content := fmt.Sprintln(index, term)
	configuration := f.raft.GetConfiguration().Configuration()
	var answer raft.InstallSnapshotResponse
	err := f.leader.InstallSnapshot("follower", followerAddr, &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: 3, ID: []byte("leader"), Addr: []byte(leaderAddr)},
		SnapshotVersion: 1, Term: term, LastLogIndex: index, LastLogTerm: term,
		Configuration: raft.EncodeConfiguration(configuration), ConfigurationIndex: 1, Size: int64(len(content)),
	}, &answer, strings.NewReader(content))
	return err == nil && answer.Success
}

// ends fails the test unless the log ends with an entry, and raft knows.
func (f *follower) ends(with uint64) {
	f.t.Helper()
	last, err := f.logs.LastIndex()
	if err != nil || last != with || f.raft.LastIndex() != with {
		f.t.Errorf("the log ends with entry %d (%v), and for raft with %d, want %d", last, err, f.raft.LastIndex(), with)
	}
}

// Else a follower would be without what it has said it had.
func TestASnapshotThatIsContainedIsNotInstalled(t *testing.T) {
	f := newFollower(t)
	if !f.sendCommitted(2, entries(t, 2, "a", "b", "c"), 4) {
		t.Fatal("entries are refused")
	}
	eventually(t, "them to be applied", func() bool { index, _ := f.state.reached(); return index == 4 })
	for _, index := range []uint64{3, 4} {
		if !f.install(index, 2) {
			t.Errorf("the leader is not told that snapshot %d is there", index)
		}
	}
	if f.state.restored > 0 {
		t.Error("the state went back")
	}
	f.ends(4)
}

// Who was cut off and stands for election is sent a snapshot by the leader, which then
// is lost: a candidate that took it for the leader for ever would refuse all others.
func TestACandidateThatIsSentASnapshotForgetsTheLeaderInTime(t *testing.T) {
	f := newFollower(t)
	if !f.send(entries(t, 2, "a")) {
		t.Fatal("an entry was not taken")
	}
	f.mayStand()
	eventually(t, "it to stand for election", func() bool { return f.raft.State() == raft.Candidate })
	if !f.install(20, 2) {
		t.Fatal("the snapshot was not taken")
	}
	eventually(t, "it to stand for election with no leader", func() bool {
		leader, _ := f.raft.LeaderWithID()
		return f.raft.State() == raft.Candidate && leader == ""
	})
}

// Who is told to take over, and loses to another candidate of the same term, hears
// that one and stays a candidate. Once the winner is lost too, the third has all that
// was committed, and needs the vote of this one.
func TestWhoLostToALeaderThatIsGoneVotes(t *testing.T) {
	f := newFollower(t)
	if !f.send(entries(t, 2, "a")) {
		t.Fatal("an entry was not taken")
	}
	f.mayStand()
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("leader"), Addr: []byte(leaderAddr)}
	if err := f.leader.TimeoutNow("follower", followerAddr, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to stand for election", func() bool { return f.raft.State() == raft.Candidate && f.raft.CurrentTerm() == 3 })
	if !f.sendAfter(2, 2, 3, nil, 0) {
		t.Fatal("the winner is not heard")
	}
	third := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("third"), Addr: []byte("third:1")}
	eventually(t, "it to vote", func() bool {
		var answer raft.RequestPreVoteResponse
		err := f.leader.RequestPreVote("follower", followerAddr, &raft.RequestPreVoteRequest{
			RPCHeader: third, Term: f.raft.CurrentTerm() + 1, LastLogIndex: 3, LastLogTerm: 3,
		}, &answer)
		return err == nil && answer.Granted
	})
}

// The follower's own entries behind the snapshot are of a leader that was lost.
func TestAFollowerGoesOnBehindASnapshotThatItsLogWentBeyond(t *testing.T) {
	f := newFollower(t)
	if !f.send(entries(t, 2, "a", "b", "c", "d", "e")) {
		t.Fatal("entries are refused")
	}
	if !f.install(4, 3) || f.state.restored != 1 {
		t.Fatal("the snapshot is refused")
	}
	sent := entries(t, 3, "f", "g", "h", "i")
	if !f.sendAfter(4, 3, 3, sent[3:], 5) {
		t.Fatal("what follows on the snapshot is refused")
	}
	f.ends(5)
	eventually(t, "it to be applied", func() bool { index, term := f.state.reached(); return index == 5 && term == 3 })
}

func TestAFollowerWhoseLogEndsBeforeASnapshotGoesOnBehindIt(t *testing.T) {
	f := newFollower(t)
	if !f.send(entries(t, 2, "a", "b")) || !f.install(4, 3) {
		t.Fatal("entries or the snapshot are refused")
	}
	if !f.sendAfter(4, 3, 3, entries(t, 3, "c", "d", "e", "f")[3:], 0) {
		t.Fatal("what follows on the snapshot is refused")
	}
	f.ends(5)
	if err := f.logs.Err(); err != nil {
		t.Error(err)
	}
}

// A leader of a later term looks for the place where the logs part, one entry
// after the other; this follower's log begins behind it.
func TestALeaderGoesOnWhereTheStateEnds(t *testing.T) {
	f := newFollower(t)
	all := entries(t, 2, "a", "b", "c", "d", "e")
	if !f.sendCommitted(2, all, 4) {
		t.Fatal("entries are refused")
	}
	eventually(t, "them to be applied", func() bool { index, _ := f.state.reached(); return index == 4 })
	if err := f.logs.DeleteRange(1, 4); err != nil { // as a snapshot of its own has it
		t.Fatal(err)
	}
	if !f.sendCommitted(3, all[:2], 4) {
		t.Fatal("what is contained in the state is refused")
	}
	sent := append(all[1:3:3], entries(t, 3, "f", "g", "h", "i")[3])
	if !f.sendAfter(2, 2, 3, sent, 5) {
		t.Fatal("what follows on the state is refused")
	}
	f.ends(5)
}

func TestAnEntryThatWasSpoiltOnItsWayIsTakenWhenItComesWhole(t *testing.T) {
	for _, tt := range []struct {
		name  string
		has   []string // in the term before
		spoil int
	}{
		{"at the end of the log", nil, 0},
		{"in the place of others", []string{"a", "b", "c"}, 0},
		{"after one in the place of others", []string{"a", "b", "c"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFollower(t)
			if len(tt.has) > 0 && !f.send(entries(t, 2, tt.has...)) {
				t.Fatal("entries are refused")
			}
			sent := entries(t, 3, "d", "e")
			whole := sent[tt.spoil].Data
			sent[tt.spoil].Data = []byte("x")
			if f.send(sent) {
				t.Error("an entry is taken that is not what its sender stored")
			}
			sent[tt.spoil].Data = whole
			if !f.send(sent) {
				t.Fatal("the entries are refused for ever")
			}
			if last, err := f.logs.LastIndex(); last != 3 || err != nil {
				t.Errorf("the log ends with entry %d (%v), want 3", last, err)
			}
		})
	}
}

func TestOnlyWhatALeaderSentIsCommitted(t *testing.T) {
	f := newFollower(t)
	if !f.send(entries(t, 2, "a", "b", "c")) { // of a leader that was lost
		t.Fatal("entries are refused")
	}
	sent := entries(t, 3, "d", "e")
	for _, tt := range []struct {
		sent []*raft.Log
		want uint64
	}{{nil, 1}, {sent[:1], 2}, {sent, 3}} {
		if !f.sendCommitted(3, tt.sent, 3) {
			t.Fatalf("%d entries are refused", len(tt.sent))
		}
		if got := f.raft.CommitIndex(); got != tt.want {
			t.Errorf("with %d entries sent, those up to %d are committed, want %d", len(tt.sent), got, tt.want)
		}
	}
}

// Raft's answer would say that this node holds what its log has.
func TestNothingIsTakenInBeforeTheLogIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers, disk := make(chan raft.RPC), make(chan struct{})
		in := newIntake(peers, func(stop <-chan struct{}) {
			select {
			case <-disk:
			case <-stop:
			}
		}, nothing, nil)
		defer in.close()
		for i := range 2 { // the second is there when it closes
			peers <- raft.RPC{Command: &raft.AppendEntriesRequest{}}
			synctest.Wait()
			select {
			case <-in.taken:
				t.Error("a message reached raft")
			default:
			}
			if i == 0 {
				disk <- struct{}{}
				<-in.taken
			}
		}
	})
}

func TestAVoteIsForWhoIsUpToDateNotForWhoIsKnown(t *testing.T) {
	for _, tt := range []struct {
		name, id string
		lastTerm uint64 // of the candidate's log
		want     bool
	}{
		{"a member", "leader", 1, true},
		{"one that is added by entries that this node does not have yet", "added", 1, true},
		{"a member that is behind", "leader", 0, false},
		{"one that is not known, and is behind", "added", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFollower(t)
			header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(tt.id), Addr: []byte(tt.id + ":1")}
			var first raft.RequestPreVoteResponse
			if err := f.leader.RequestPreVote("follower", followerAddr, &raft.RequestPreVoteRequest{
				RPCHeader: header, Term: 2, LastLogIndex: 2, LastLogTerm: tt.lastTerm,
			}, &first); err != nil || first.Granted != tt.want {
				t.Errorf("the pre-vote is granted: %v (%v), want %v", first.Granted, err, tt.want)
			}
			vote := raft.RequestVoteRequest{RPCHeader: header, Term: 2, LastLogIndex: 2, LastLogTerm: tt.lastTerm}
			var second raft.RequestVoteResponse
			if err := f.leader.RequestVote("follower", followerAddr, &vote, &second); err != nil || second.Granted != tt.want {
				t.Errorf("the vote is granted: %v (%v), want %v", second.Granted, err, tt.want)
			}
			if string(vote.ID) != tt.id {
				t.Errorf("the sender's own request is changed: its id is %q", vote.ID)
			}
		})
	}
}
