package cluster

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/fsm"
)

// store appends entries to the log of node i, which is stopped, as if its leader
// had sent them and told it of no commit since.
func (c *trio) store(i int, entries ...raft.Log) {
	c.t.Helper()
	logs, err := logstore.Open(filepath.Join(c.dirs[i], logDir), "wal", logstore.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer logs.Close()
	var last raft.Log
	if at, err := logs.LastIndex(); err != nil {
		c.t.Fatal(err)
	} else if err := logs.GetLog(at, &last); err != nil {
		c.t.Fatal(err)
	}
	for k, e := range entries {
		e.Index, e.Term = last.Index+1+uint64(k), last.Term
		if err := logs.StoreLog(&e); err != nil {
			c.t.Fatal(err)
		}
	}
}

// admission is the entry that admits m.
func admission(t *testing.T, m *fsm.Member) raft.Log {
	t.Helper()
	b, err := (&fsm.Command{Kind: fsm.Kind_ADMIT, Members: []*fsm.Member{m}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return raft.Log{Type: raft.LogCommand, Data: fsm.EncodeEntry(time.Now().UnixMilli(), [][]byte{b})}
}

func configuration(servers ...*fsm.Member) raft.Log {
	var conf raft.Configuration
	for _, m := range servers {
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(m.Id), Address: raft.ServerAddress(m.RaftAddr)})
	}
	return raft.Log{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)}
}

// The leader of two adds a third, and is lost for good when the other has stored
// that, and not yet heard that it is committed.
func TestAVoterGetsTheVoteOfAMemberWhoseAdmissionItHasOnlyStored(t *testing.T) {
	c := startCluster(t, 2, nil)
	cfg := c.config(0)
	cfg.NodeID, cfg.DataDir, cfg.RaftAddr, cfg.Peers, cfg.Join = "n3", t.TempDir(), freeAddr(t), nil, c.peers[0].Addr
	third, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hello, err := c.nodes[0].peers.Hello(ctx, cfg.RaftAddr)
	if err != nil {
		t.Fatal(err)
	}
	added := &fsm.Member{Id: "n3", RaftAddr: cfg.RaftAddr, Incarnation: hello.Incarnation}
	meta := c.nodes[0].Meta()
	members := append(slices.Clone(meta.Members), added)
	if err := c.nodes[0].peers.Admit(ctx, cfg.RaftAddr, meta.ClusterId, members); err != nil {
		t.Fatal(err)
	}
	c.stop(0)
	c.stop(1)
	c.store(1, admission(t, added), configuration(members...))

	c.start(1)
	c.awaitReady()
	eventually(t, "the new member to be ready", func() bool { return third.Ready() == nil })
	if got := c.nodes[1].Meta().Members; !slices.EqualFunc(got, members, sameMember) {
		t.Errorf("the members are %v, want %v", got, members)
	}
}

func TestOnlyWhomTheLastConfigurationHasIsForeseen(t *testing.T) {
	t.Parallel()
	member := func(id, addr string, incarnation byte) *fsm.Member {
		return &fsm.Member{Id: id, RaftAddr: addr, Incarnation: slices.Repeat([]byte{incarnation}, 16)}
	}
	other, wiped := member("n2", "127.0.0.1:2", 2), member("n2", "127.0.0.1:2", 3)
	for _, tt := range []struct {
		name   string
		stored func(self *fsm.Member) []raft.Log
		want   *fsm.Member
	}{
		{"admitted and configured", func(self *fsm.Member) []raft.Log {
			return []raft.Log{admission(t, other), configuration(self, other)}
		}, other},
		{"admitted only", func(*fsm.Member) []raft.Log { return []raft.Log{admission(t, other)} }, nil},
		{"configured before it is admitted", func(self *fsm.Member) []raft.Log {
			return []raft.Log{configuration(self, other), admission(t, other)}
		}, nil},
		{"removed again", func(self *fsm.Member) []raft.Log {
			return []raft.Log{admission(t, other), configuration(self, other), configuration(self)}
		}, nil},
		{"another under its id was refused", func(self *fsm.Member) []raft.Log {
			return []raft.Log{admission(t, other), admission(t, wiped), configuration(self, other)}
		}, other},
		{"neither", func(*fsm.Member) []raft.Log { return nil }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := startCluster(t, 1, nil)
			self := c.nodes[0].Meta().Members[0]
			c.stop(0)
			c.store(0, tt.stored(self)...)
			n := newNode(c.config(0).withDefaults())
			defer n.closeFiles()
			if err := n.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := n.foreseen(raft.ServerAddress(other.RaftAddr))
			if err != nil || (got == nil) != (tt.want == nil) || got != nil && !sameMember(got, tt.want) {
				t.Errorf("foreseen is %v (%v), want %v", got, err, tt.want)
			}
		})
	}
}
