package cluster

import (
	"errors"
	"slices"
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
	own     *raft.InmemTransport
	trans   transport
}

// threeBare starts three, and returns them with the leader first.
func threeBare(t *testing.T) []*bare {
	t.Helper()
	var all []*bare
	var members raft.Configuration
	for _, id := range []string{"a", "b", "c"} {
		at, own := raft.NewInmemTransport(raft.ServerAddress(id + ":1"))
		all = append(all, &bare{at: at, logs: openLog(t), own: own})
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(id), Address: at})
	}
	for i, b := range all {
		b.connect(all)
		cfg := raftConfig(Config{NodeID: string(members.Servers[i].ID), SnapshotEntries: 1000, SnapshotInterval: time.Hour}, hclog.NewNullLogger())
		b.trans = newTransport(b.own, b.logs, nothing, b.running.Load, func(time.Duration) {})
		stable, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(cfg, b.logs, stable, snapshots, b.trans, members); err != nil {
			t.Fatal(err)
		}
		r, err := raft.NewRaft(cfg, &containing{}, b.logs, stable, snapshots, b.trans)
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
		away.connect(all)
		back := time.Now()
		eventually(t, "the entries to come", func() bool { return away.last() == leader.last() })
		if took := time.Since(back); took > time.Second {
			t.Errorf("they come %v after heartbeats can", took)
		}
		if leader.CurrentTerm() != term {
			t.Error("there was an election, which sends all anew")
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

func TestWhoAnswersOrWasMissedInAnotherTermIsNotMissed(t *testing.T) {
	a := newAbsences(nil, nil)
	missed := func(want bool, id raft.ServerID, term uint64) {
		t.Helper()
		if got := a.of(id, term) != nil; got != want {
			t.Errorf("%s is missed in term %d: %v, want %v", id, term, got, want)
		}
	}
	lost := errors.New("connection refused")
	a.note("b", 1, nil)
	missed(false, "b", 1)
	a.note("b", 1, lost)
	first := a.of("b", 1)
	a.note("b", 1, lost)
	missed(true, "b", 1)
	missed(false, "b", 2)
	missed(false, "c", 1)
	a.note("b", 2, lost)
	<-first
	missed(false, "b", 1)
	missed(true, "b", 2)
	a.note("b", 2, nil)
	missed(false, "b", 2)
	a.await("b", 2)
}
