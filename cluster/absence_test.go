package cluster

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
)

// bare is raft on a transport as the product has it, and nothing else of it.
type bare struct {
	*raft.Raft
	running atomic.Pointer[raft.Raft] // the same, once it has started
	at      raft.ServerAddress
	logs    *logstore.Store
	state   containing
	copies  *tallied
	own     *raft.InmemTransport
	trans   transport
}

// tallied counts the snapshots that were opened, and those that still are.
type tallied struct {
	*raft.InmemSnapshotStore
	opened, open atomic.Int32
}

func (c *tallied) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, content, err := c.InmemSnapshotStore.Open(id)
	c.opened.Add(1)
	c.open.Add(1)
	return meta, &once{content, sync.OnceFunc(func() { c.open.Add(-1) })}, err
}

type once struct {
	io.ReadCloser
	closed func()
}

func (o *once) Close() error {
	o.closed()
	return o.ReadCloser.Close()
}

// threeBare starts three, and returns them with the leader first.
func threeBare(t *testing.T) []*bare {
	t.Helper()
	var all []*bare
	var members raft.Configuration
	for _, id := range []string{"a", "b", "c"} {
		at, own := raft.NewInmemTransport(raft.ServerAddress(id + ":1"))
		b := &bare{at: at, logs: openLog(t), own: own, copies: &tallied{InmemSnapshotStore: raft.NewInmemSnapshotStore()}}
		b.state.forget = b.logs.Forget
		all = append(all, b)
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(id), Address: at})
	}
	for i, b := range all {
		b.connect(all)
		cfg := raftConfig(Config{NodeID: string(members.Servers[i].ID), SnapshotEntries: 1000, SnapshotInterval: time.Hour}, hclog.NewNullLogger())
		b.trans = newTransport(b.own, b.logs, b.state.reached, b.running.Load, func(time.Duration) {})
		stable := raft.NewInmemStore()
		if err := raft.BootstrapCluster(cfg, b.logs, stable, b.copies, b.trans, members); err != nil {
			t.Fatal(err)
		}
		r, err := raft.NewRaft(cfg, &b.state, b.logs, stable, b.copies, b.trans)
		if err != nil {
			t.Fatal(err)
		}
		b.Raft = r
		b.running.Store(r)
		t.Cleanup(func() {
			f := r.Shutdown()
			if err := errors.Join(b.trans.Close(), f.Error()); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "one to lead", func() bool {
		leads := func(b *bare) bool { return b.State() == raft.Leader }
		at := slices.IndexFunc(all, leads)
		if at > 0 {
			all[0], all[at] = all[at], all[0]
		}
		return at >= 0
	})
	return all
}

// connect has b and all others reach each other.
func (b *bare) connect(all []*bare) {
	for _, other := range all {
		if other != b {
			b.own.Connect(other.at, other.own)
			other.own.Connect(b.at, b.own)
		}
	}
}

// disconnect has b and the others not reach each other.
func (b *bare) disconnect(all []*bare) {
	b.own.DisconnectAll()
	for _, other := range all {
		other.own.Disconnect(b.at)
	}
}

// comeBack has b be reached again, and fails the test unless what then comes does so at once.
func (b *bare) comeBack(t *testing.T, all []*bare, what string, came func() bool) {
	t.Helper()
	b.connect(all)
	back := time.Now()
	eventually(t, what, came)
	if took := time.Since(back); took > time.Second {
		t.Errorf("%s took %v after heartbeats can", what, took)
	}
}

func (b *bare) id() raft.ServerID { return raft.ServerID(b.at[:1]) }

func (b *bare) apply(t *testing.T, data string) {
	t.Helper()
	if err := b.Apply([]byte(data), time.Minute).Error(); err != nil {
		t.Fatal(err)
	}
}

func (b *bare) last() uint64 { last, _ := b.logs.LastIndex(); return last }

func TestEntriesReachWhoComesBackAsSoonAsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := threeBare(t)
		leader, away := all[0], all[2]
		away.disconnect(all)
		leader.apply(t, "x")
		time.Sleep(45 * time.Second) // raft alone would try at 41 s, and then at 51 s
		term := leader.CurrentTerm()
		if leader.trans.absent.of(away.id(), term) == nil {
			t.Error("the leader does not miss it")
		}
		away.comeBack(t, all, "the entries to come", func() bool { return away.last() == leader.last() })
		if leader.CurrentTerm() != term {
			t.Error("there was an election, which sends all anew")
		}
	})
}

func TestASnapshotReachesWhoComesBackAsSoonAsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := threeBare(t)
		leader, away := all[0], all[2]
		away.disconnect(all)
		leader.apply(t, "x")
		if err := leader.Snapshot().Error(); err != nil { // and the log is empty
			t.Fatal(err)
		}
		time.Sleep(45 * time.Second) // raft alone would try at 41 s, and then at 51 s
		opened, open := leader.copies.opened.Load(), leader.copies.open.Load()
		if opened == 0 || opened > 8 || open != 0 {
			t.Errorf("for who is away %d snapshots were opened, and %d are open", opened, open)
		}
		away.comeBack(t, all, "the state to come", func() bool {
			index, _ := away.state.reached()
			return index == leader.AppliedIndex()
		})
		if away.state.restored == 0 {
			t.Error("it came by entries")
		}
	})
}

func TestNobodyIsWaitedForInVain(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(leader, other, away *bare) error
	}{
		{"who is no member any more", func(leader, _, away *bare) error { return leader.RemoveServer(away.id(), 0, 0).Error() }},
		{"by who does not lead", func(leader, other, _ *bare) error {
			return leader.LeadershipTransferToServer(other.id(), other.at).Error()
		}},
		{"by who closes", func(leader, _, _ *bare) error { return leader.trans.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := threeBare(t)
				leader, away := all[0], all[2]
				away.disconnect(all)
				id, term := away.id(), leader.CurrentTerm()
				eventually(t, "it to be missed", func() bool { return leader.trans.absent.of(id, term) != nil })
				ended := make(chan struct{})
				go func() { leader.trans.absent.await(id, term); close(ended) }()
				time.Sleep(time.Second)
				select {
				case <-ended:
					t.Error("it is not waited for")
				default:
				}
				if err := tt.do(leader, all[1], away); err != nil {
					t.Fatal(err)
				}
				<-ended // or all stand still, which the test tells
			})
		})
	}
}

func TestWhoIsMissed(t *testing.T) {
	type told struct {
		term      uint64
		heartbeat bool
		lost      bool
	}
	for _, tt := range []struct {
		name string
		told []told
		term uint64 // in which it is asked
		want bool
		back int // how often it is said that it is back
	}{
		{"nobody of whom nothing is known", nil, 1, false, 0},
		{"who was reached", []told{{1, true, false}, {1, false, false}}, 1, false, 0},
		{"who is not reached by heartbeats alone", []told{{1, true, true}, {1, true, true}}, 1, false, 0},
		{"who answers after a heartbeat that was lost", []told{{1, true, true}, {1, true, false}}, 1, false, 0},
		{"who is not reached by entries alone", []told{{1, false, true}}, 1, false, 0},
		{"who is not reached at all", []told{{1, true, true}, {1, false, true}, {1, true, true}}, 1, true, 0},
		{"who is not reached in an earlier term", []told{{1, true, true}, {1, false, true}}, 2, false, 0},
		{"who answers a heartbeat again", []told{{1, true, true}, {1, false, true}, {1, true, false}}, 1, false, 1},
		{"who answers entries again", []told{{1, false, true}, {1, true, true}, {1, false, false}}, 1, false, 1},
		{"of whom only part failed in a later term", []told{{1, true, true}, {1, false, true}, {2, true, true}}, 2, false, 1},
		{"who fails in a later term too", []told{{1, true, true}, {1, false, true}, {2, true, true}, {2, false, true}}, 2, true, 1},
		{"of whom late news comes", []told{{2, true, true}, {2, false, true}, {1, true, false}, {1, true, true}}, 2, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			back := 0
			a := newAbsences(nil, nil)
			a.back = func(raft.ServerID) { back++ }
			var over <-chan struct{}
			for _, told := range tt.told {
				var err error
				if told.lost {
					err = errors.New("connection refused")
				}
				a.note("b", told.term, told.heartbeat, err)
				if now := a.of("b", told.term); now != nil {
					over = now
				}
			}
			if got := a.of("b", tt.term) != nil; got != tt.want || back != tt.back {
				t.Errorf("it is missed: %v, want %v; back %d times, want %d", got, tt.want, back, tt.back)
			}
			if !tt.want {
				a.await("b", tt.term)
				if over != nil && tt.back > 0 {
					<-over
				}
			}
			if a.of("c", tt.term) != nil {
				t.Error("another is missed")
			}
		})
	}
}
