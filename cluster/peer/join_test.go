package peer

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// joiner adds a machine that is started to join the cluster of by.
func (s *site) joiner(id string, by *node) *node {
	n := s.machine(id)
	n.join = by.addr
	return n.start()
}

// tableWith is the member table of s with more members.
func (s *site) tableWith(more ...*node) []*fsm.Member {
	_, members := s.nodes["n1"].t.Roster()
	for _, n := range more {
		members = append(members, n.member())
	}
	return members
}

func formedSite(t *testing.T) *site {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2", "n3")
	s.wantFormed("n1", "n2", "n3")
	return s
}

func TestWaitingNodeIsAskedAndAdmitted(t *testing.T) {
	s := formedSite(t)
	n1, n4 := s.nodes["n1"], s.joiner("n4", s.nodes["n2"])
	n4.says("waiting to be added to the cluster of " + n4.join + ": on a running node, `onced node add n4 " + n4.addr + "`")

	h, err := n1.t.Hello(n1.ctx(), n4.addr)
	if err != nil || h.NodeID != "n4" || string(h.Incarnation) != string(n4.dir.Incarnation()) || !h.Joining || h.ClusterID != nil {
		t.Fatalf("n4 says of itself %+v, %v", h, err)
	}
	cluster, _ := n1.t.Roster()
	members := s.tableWith(n4)
	n1.t.SetMembers(cluster, members, 7)
	for range 2 { // the first answer may have been lost
		if err := n1.t.Admit(n1.ctx(), n4.addr, cluster, members); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-n4.formed; err != nil {
		t.Fatal(err)
	}
	n4.formed <- nil
	if !n4.t.Joined() || n1.t.Joined() {
		t.Error("who joined is not told from who formed")
	}
	if err := n1.t.AllFormed(n1.ctx()); err != nil {
		t.Error(err)
	}

	n4.restart()
	if got, table := n4.t.Roster(); string(got) != string(cluster) || len(table) != 4 || !n4.t.Joined() {
		t.Errorf("after a restart n4 belongs to %x with %v", got, table)
	}
}

func TestAMemberThatIsExpectedIsReachedBeforeTheTableHasIt(t *testing.T) {
	s := formedSite(t)
	n1, n2, n4 := s.nodes["n1"], s.nodes["n2"], s.joiner("n4", s.nodes["n2"])
	cluster, three := n1.t.Roster()
	if err := n1.t.Admit(n1.ctx(), n4.addr, cluster, s.tableWith(n4)); err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		c, err := n2.t.RaftLayer().Dial(raft.ServerAddress(n4.addr), patience)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	n4.t.RaftLayer() // takes connections from now on
	if n2.t.Knows(n4.addr) {
		t.Error("n2 knows n4 before it was told")
	}
	wantError(t, dial(), "no member of this cluster has that address")

	wiped := n4.member()
	wiped.Incarnation = tag{9}.bytes()
	if err := n2.t.Expect(n4.member()); err != nil {
		t.Fatal(err)
	}
	wantError(t, n2.t.Expect(wiped), "listed twice")
	if !n2.t.Knows(n4.addr) {
		t.Error("n2 does not know n4, which it expects")
	}
	if err := dial(); err != nil {
		t.Error(err)
	}
	n2.t.SetMembers(cluster, three, 7) // it was not to be
	wantError(t, dial(), "no member of this cluster has that address")
}

func TestAdmissionIsRefusedWithItsReason(t *testing.T) {
	s := formedSite(t)
	n1 := s.nodes["n1"]
	cluster, three := n1.t.Roster()
	n4 := s.joiner("n4", s.nodes["n2"])
	n4.join = "127.0.0.1:1"
	n4.restart()
	other := n4.member()
	other.Incarnation = tag{9}.bytes()

	for _, tt := range []struct {
		name    string
		addr    string
		members []*fsm.Member
		want    Code
		word    string
	}{
		{"member from the start", s.nodes["n2"].addr, three, CodeNotJoining, "with --join"},
		{"other incarnation", n4.addr, append(three, other), CodeReplaced, "another data directory"},
		{"cluster without the address to join", n4.addr, s.tableWith(n4), CodeNotJoining, "127.0.0.1:1, which is the address of no member"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := n1.t.Admit(n1.ctx(), tt.addr, cluster, tt.members)
			wantError(t, err, tt.word)
			var r *Refusal
			if !errors.As(err, &r) || r.Code != tt.want {
				t.Errorf("error %v is no refusal with code %d", err, tt.want)
			}
		})
	}
	wantError(t, n1.t.Admit(n1.ctx(), n4.addr, cluster, three), "no member has that address")
	wantError(t, n1.t.Admit(n1.ctx(), n4.addr, nil, three), "cluster id")
	s.wantUnformed("n4")
}

func TestNodeOfAListIsNotAdmittedElsewhere(t *testing.T) {
	s := formedSite(t)
	n1, n4 := s.nodes["n1"], s.machine("n4")
	n4.list = []Peer{{"n4", n4.addr}, {"n5", "127.0.0.1:1"}}
	n4.start()
	_, err := n1.t.Hello(n1.ctx(), n4.addr)
	wantError(t, err, "started with a list of peers that does not name n1", "--join")
}

func TestWaitForAdmissionEndsWithItsContextAndItsTransport(t *testing.T) {
	s := formedSite(t)
	n4 := s.joiner("n4", s.nodes["n1"])
	n4.cancel()
	if err := <-n4.formed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	n4.formed <- nil
	if err := n4.t.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n4.t.AwaitAdmission(context.Background()); !errors.Is(err, errClosed) {
		t.Errorf("error %v", err)
	}
}
