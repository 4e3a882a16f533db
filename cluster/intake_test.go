package cluster

import (
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
	leader *raft.InmemTransport
}

const followerAddr, leaderAddr = "follower:1", "leader:1"

func newFollower(t *testing.T) *follower {
	t.Helper()
	cfg := raft.DefaultConfig()
	cfg.LocalID, cfg.Logger = "follower", hclog.NewNullLogger()
	cfg.HeartbeatTimeout, cfg.ElectionTimeout = time.Hour, time.Hour // it never stands itself
	stable, snapshots := raft.NewInmemStore(), raft.NewDiscardSnapshotStore()
	_, own := raft.NewInmemTransport(followerAddr)
	_, leader := raft.NewInmemTransport(leaderAddr)
	leader.Connect(followerAddr, own)
	f := &follower{t: t, logs: openLog(t), leader: leader}
	trans := newTransport(own, f.logs, func() []raft.Server { return f.raft.GetConfiguration().Configuration().Servers })
	if err := raft.BootstrapCluster(cfg, f.logs, stable, snapshots, trans, raft.Configuration{Servers: []raft.Server{
		{ID: "follower", Address: followerAddr}, {ID: "leader", Address: leaderAddr},
	}}); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(cfg, &raft.MockFSM{}, f.logs, stable, snapshots, trans)
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
	var answer raft.AppendEntriesResponse
	err := f.leader.AppendEntries("follower", followerAddr, &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("leader"), Addr: []byte(leaderAddr)},
		Term:      term, PrevLogEntry: 1, PrevLogTerm: 1, Entries: all, LeaderCommitIndex: committed,
	}, &answer)
	return err == nil && answer.Success
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
		}, nil)
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
