package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/fsm"
)

func TestTheLeaderIsRemovedThroughAnyNode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		by   func(c *trio) int
	}{
		{"itself", (*trio).leader},
		{"a follower", (*trio).follower},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := startCluster(t, 3, nil)
			removed := c.leader()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := c.nodes[tt.by(c)].RemoveNode(ctx, c.peers[removed].ID); err != nil {
				t.Fatal(err)
			}
			other := (removed + 1) % 3
			eventually(t, "the others to know two members", func() bool {
				return len(c.nodes[other].Meta().Members) == 2 && len(c.nodes[other].servers()) == 2
			})
			c.begin(other, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
			c.stop(removed)
		})
	}
}

func TestANodeThatIsAwayIsRemovedAndAnotherTakesItsPlace(t *testing.T) {
	c := startCluster(t, 3, nil)
	away := c.follower()
	c.stop(away)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	other := 3 - away - c.leader()
	if err := c.nodes[other].RemoveNode(ctx, c.peers[away].ID); err != nil {
		t.Fatal(err)
	}
	cfg := c.config(away)
	cfg.NodeID, cfg.DataDir, cfg.RaftAddr, cfg.Peers, cfg.Join = "n4", t.TempDir(), freeAddr(t), nil, c.peers[other].Addr
	heir, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	if err := c.nodes[other].AddNode(ctx, "n4", cfg.RaftAddr, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new node to be ready", func() bool { return heir.Ready() == nil })
	c.start(away) // it does not know yet
	for k := range 10 {
		c.begin(other, claimOf(fmt.Sprintf("k%d", k), "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	}
	if c.nodes[away].Ready() == nil {
		t.Error("the node that was removed is ready")
	}
	if rec, err := c.nodes[away].Lookup("default", "k0"); rec != nil || err != nil {
		t.Errorf("the node that was removed is told what happens: %v %v", rec, err)
	}
	c.stop(away)
}

func TestWhoIsThereIsAddedAgainThroughAnyNode(t *testing.T) {
	c := startCluster(t, 3, nil)
	for _, p := range c.peers { // the leader is one of them
		for i, n := range c.nodes {
			if err := n.AddNode(t.Context(), p.ID, p.Addr, true); err != nil {
				t.Errorf("%s, through %s: %v", p.ID, c.peers[i].ID, err)
			}
		}
	}
	leader := c.leader()
	if err := c.nodes[leader].AddNode(t.Context(), c.peers[leader].ID, freeAddr(t), true); !errors.Is(err, ErrInvalidNode) {
		t.Errorf("the leader, at an address where nobody answers: %v", err)
	}
	c.agree()
}

func TestALearnerIsAddedNeverLeadsAndIsRemoved(t *testing.T) {
	c := startCluster(t, 1, nil)
	cfg := c.config(0)
	cfg.NodeID, cfg.DataDir, cfg.RaftAddr, cfg.Join = "n2", t.TempDir(), freeAddr(t), c.peers[0].Addr
	learner, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer learner.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.nodes[0].AddNode(ctx, "n2", cfg.RaftAddr, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the learner to be ready", func() bool { return learner.Ready() == nil })
	if o, err := learner.Begin(ctx, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0); err != nil || o.Code != fsm.Code_GRANTED {
		t.Errorf("a claim on the learner: %v %v", o.GetCode(), err)
	}
	if err := learner.Transfer(ctx, "n2"); !errors.Is(err, ErrConflict) {
		t.Errorf("leadership to a learner: %v, want ErrConflict", err)
	}
	if err := learner.RemoveNode(ctx, "n1"); !errors.Is(err, ErrConflict) {
		t.Errorf("removing the only voter: %v, want ErrConflict", err)
	}
	if err := c.nodes[0].RemoveNode(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[0].AddNode(ctx, "n2", cfg.RaftAddr, true); err == nil {
		t.Error("a removed node was let in again")
	}
	if n := len(c.nodes[0].Meta().Members); n != 1 || c.nodes[0].raft.State() != raft.Leader {
		t.Errorf("%d members are left", n)
	}
}

func TestWhoCannotComeIsNotAdmitted(t *testing.T) {
	cluster, other := []byte("cluster 16 bytes"), []byte("another 16 bytes")
	incarnation, wiped := []byte("incarnation 1234"), []byte("incarnation 5678")
	bound := &fsm.Meta{ClusterId: cluster, Members: []*fsm.Member{{Id: "n1", RaftAddr: "h:1", Incarnation: incarnation}}}
	for _, tt := range []struct {
		name  string
		meta  *fsm.Meta
		id    string
		addr  string
		hello peer.Hello
		want  error
	}{
		{"a node that waits", bound, "n2", "h:2", peer.Hello{NodeID: "n2", Incarnation: wiped, Joining: true}, nil},
		{"a member again", bound, "n1", "h:1", peer.Hello{NodeID: "n1", Incarnation: incarnation, ClusterID: cluster}, nil},
		{"a member that moved", bound, "n1", "h:9", peer.Hello{NodeID: "n1", Incarnation: incarnation, ClusterID: cluster}, nil},
		{"another than was named", bound, "n2", "h:2", peer.Hello{NodeID: "n3", Incarnation: wiped, Joining: true}, ErrInvalidNode},
		{"one at the address of a member", bound, "n2", "h:1", peer.Hello{NodeID: "n2", Incarnation: wiped, Joining: true}, ErrConflict},
		{"a member that lost its disk", bound, "n1", "h:1", peer.Hello{NodeID: "n1", Incarnation: wiped, Joining: true}, ErrConflict},
		{"one that was removed", bound, "n2", "h:2", peer.Hello{NodeID: "n2", Incarnation: wiped, ClusterID: cluster}, ErrConflict},
		{"one of another cluster", bound, "n2", "h:2", peer.Hello{NodeID: "n2", Incarnation: wiped, ClusterID: other}, ErrInvalidNode},
		{"one that was started with a list", bound, "n2", "h:2", peer.Hello{NodeID: "n2", Incarnation: wiped}, ErrInvalidNode},
		{"to a cluster that is not bound", &fsm.Meta{}, "n2", "h:2", peer.Hello{NodeID: "n2", Incarnation: wiped, Joining: true}, ErrConflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := mayAdd(tt.meta, adminRequest{ID: tt.id, Addr: tt.addr}, tt.hello)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}
