package peer

import (
	"errors"
	"testing"
)

func TestThreeNodesFormOneClusterInEveryOrderOfStart(t *testing.T) {
	for _, order := range [][]string{
		{"n1", "n2", "n3"}, {"n1", "n3", "n2"}, {"n2", "n1", "n3"},
		{"n2", "n3", "n1"}, {"n3", "n1", "n2"}, {"n3", "n2", "n1"},
	} {
		t.Run(order[0]+order[1]+order[2], func(t *testing.T) {
			s := newSite(t, "n1", "n2", "n3")
			s.start(order[0], order[1])
			s.nodes[order[0]].says("waiting for a peer", "peer="+order[2])
			s.wantUnformed(order[0], order[1])
			s.start(order[2])
			s.wantFormed("n1", "n2", "n3")
		})
	}
}

func TestNodeAloneFormsAClusterOfOne(t *testing.T) {
	s := newSite(t, "n1")
	s.nodes["n1"].list = nil
	s.start("n1")
	s.wantFormed("n1")
	if err := s.nodes["n1"].t.AllFormed(s.nodes["n1"].ctx()); err != nil {
		t.Error(err)
	}
}

func TestFormedClusterComesBackWithAMajority(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2", "n3")
	s.wantFormed("n1", "n2", "n3")
	for _, id := range []string{"n1", "n2", "n3"} {
		s.nodes[id].stop()
	}
	s.start("n1", "n2")
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	if !n1.t.Formed(n1.ctx(), n2.member()) || !n2.t.Formed(n2.ctx(), n1.member()) {
		t.Error("n1 and n2 do not find each other formed")
	}
	wantError(t, n1.t.AllFormed(n1.ctx()), "n3")
}

func TestNodesRestartedMidFormationForm(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2")
	for range 3 {
		s.nodes["n1"].restart()
		s.nodes["n2"].restart()
	}
	s.wantUnformed("n1", "n2")
	s.start("n3")
	s.nodes["n1"].restart()
	s.wantFormed("n1", "n2", "n3")
}

func TestNodeWipedBeforeAnyoneStoredARosterCountsAsItIsNow(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2")
	before := s.nodes["n2"].dir.Incarnation()
	s.nodes["n2"].wipe()
	s.start("n3")
	s.wantFormed("n1", "n2", "n3")
	_, members := s.nodes["n1"].t.Roster()
	if string(members[1].Incarnation) == string(before) {
		t.Error("the roster has the directory that is gone")
	}
}

func TestNodeThatLostItsDiskIsRefusedAndSaysWhatToDo(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2", "n3")
	s.wantFormed("n1", "n2", "n3")
	n2 := s.nodes["n2"].wipe()
	n2.says("this cluster knows n2 by another data directory: remove it with `onced node remove n2` (or DELETE /v1/cluster/nodes/n2) on a running node, then start this one empty, under a new id, with --join "+s.nodes["n1"].addr, "level=ERROR")
	s.nodes["n1"].says("refused a peer", "peer=n2", "another data directory")
	s.wantUnformed("n2")
	if err := s.nodes["n1"].t.AllFormed(s.nodes["n1"].ctx()); err == nil {
		t.Error("n1 finds all nodes formed")
	}
}

// store gives n a directory that was part of a formation with those others.
func (n *node) store(members ...member) roster {
	d := mustOpenDir(n.s.t, n.path, n.id)
	r := form("", append(members, member{n.id, n.addr, d.identity().Incarnation}))
	if err := d.Bind(r.Cluster.bytes(), r.fsmMembers()); err != nil {
		n.s.t.Fatal(err)
	}
	d.Close()
	return r
}

func TestNodeAdoptsTheRosterThatAnotherStoredFirst(t *testing.T) {
	s := newSite(t, "n1", "n2")
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	d := mustOpenDir(t, n2.path, "n2")
	r := n1.store(member{"n2", n2.addr, d.identity().Incarnation})
	d.Close()
	n1.start()
	wantError(t, n1.t.AllFormed(n1.ctx()), "n2")
	n2.start()
	s.wantFormed("n1", "n2")
	if got, _ := n2.t.Roster(); string(got) != string(r.Cluster[:]) {
		t.Errorf("n2 belongs to %x, want %s", got, r.Cluster)
	}
	if err := n1.t.AllFormed(n1.ctx()); err != nil {
		t.Error(err)
	}
}

func TestNodeWipedAfterOthersStoredTheRosterNeverMixes(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	n1, n2, n3 := s.nodes["n1"], s.nodes["n2"], s.nodes["n3"]
	lost := tag{0xdd}
	d3 := mustOpenDir(t, n3.path, "n3")
	r := n1.store(member{"n2", n2.addr, lost}, member{"n3", n3.addr, d3.identity().Incarnation})
	d3.Close()
	s.start("n1", "n2", "n3")
	s.wantFormed("n1", "n3")
	n2.says("this cluster knows n2 by another data directory")
	s.wantUnformed("n2")
	wantError(t, n2.t.WhyNotFormed(), "another data directory")
	if got, _ := n3.t.Roster(); string(got) != string(r.Cluster[:]) {
		t.Errorf("n3 belongs to %x, want %s", got, r.Cluster)
	}
}

func TestTwoRostersOfOneListRefuseEachOther(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	n1, n2, n3 := s.nodes["n1"], s.nodes["n2"], s.nodes["n3"]
	d2, d3 := mustOpenDir(t, n2.path, "n2"), mustOpenDir(t, n3.path, "n3")
	i2, i3 := d2.identity().Incarnation, d3.identity().Incarnation
	d2.Close()
	d3.Close()
	// n1 and n3 formed in turn, and n1's directory was another in between.
	n3.store(member{"n1", n1.addr, tag{0xdd}}, member{"n2", n2.addr, i2})
	n1.store(member{"n3", n3.addr, i3}, member{"n2", n2.addr, i2})
	s.start("n1", "n3", "n2")
	n2.says("has formed cluster", "and another node of the list cluster", "level=ERROR")
	s.wantUnformed("n2")
	wantError(t, n1.t.checkFormed(n1.ctx(), member{ID: "n3", Addr: n3.addr}), "belongs to cluster")
	n1.says("a peer refuses this node", "belongs to cluster")
	n3.says("refused a peer", "peer=n1", "belongs to cluster")
}

func TestDifferentListsAreToldApart(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	n2.list = []Peer{s.peers[0], s.peers[1], {"n3", "127.0.0.1:1"}}
	s.start("n1", "n2")
	n1.says("n2 was started with another list of peers (only here: n3=" + s.peers[2].Addr + "; only there: n3=127.0.0.1:1): start all nodes with the same --peers")
	n2.says("n1 was started with another list of peers (only here: n3=127.0.0.1:1; only there: n3=" + s.peers[2].Addr + ")")
	s.start("n3")
	n1.says("waiting")
	s.wantUnformed("n1", "n2", "n3")
	n2.list = s.peers
	n2.restart()
	s.wantFormed("n1", "n2", "n3")
}

func TestSwappedAddressesAreToldApart(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	n1 := s.nodes["n1"]
	n1.list = []Peer{s.peers[0], {"n2", s.peers[2].Addr}, {"n3", s.peers[1].Addr}}
	s.start("n1", "n2", "n3")
	n1.says("this is n3, not n2: correct the address of n2")
	s.wantUnformed("n1")
}

func TestConflictForbidsWhatOthersWouldAllow(t *testing.T) {
	l := formingLocal()
	ok2 := meeting{peer: listOfThree[1], hello: hello{NodeID: "n2", Incarnation: inc2, List: listOfThree}}
	ok3 := meeting{peer: listOfThree[2], hello: hello{NodeID: "n3", Incarnation: inc3, List: listOfThree}}
	whole := form("", []member{{"n1", "a:1", inc1}, {"n2", "b:1", inc2}, {"n3", "c:1", inc3}})
	formed := func(m meeting, members ...member) meeting {
		m.hello.roster, m.hello.List = form("", members), nil
		return m
	}
	did2, did3 := formed(ok2, whole.Members...), formed(ok3, whole.Members...)
	changed := did2
	changed.hello.roster.Cluster = tag{9}
	away := meeting{peer: listOfThree[2], err: errors.New("connection refused")}
	starting := meeting{peer: listOfThree[2], err: &Refusal{Code: CodeNotReady}}
	refused := meeting{peer: listOfThree[2], err: &Refusal{Code: CodeReplaced}}
	joining := meeting{peer: listOfThree[2], hello: hello{NodeID: "n3", Incarnation: inc3, Joining: true}}
	for _, tt := range []struct {
		name   string
		second meeting
		third  meeting
		forms  bool
	}{
		{"all are met: a new cluster", ok2, ok3, true},
		{"one is away: not yet", ok2, away, false},
		{"one has formed: its roster", did2, ok3, true},
		{"one has formed and one is away: its roster", did2, away, true},
		{"one has formed and one is starting: its roster", did2, starting, true},
		{"both have formed", did2, did3, true},
		{"one refuses this node", ok2, refused, false},
		{"one refuses this node and the other has formed", did2, refused, false},
		{"one waits to join", ok2, joining, false},
		{"formed with other data of this node", formed(ok2, member{"n1", "a:1", wiped}, whole.Members[1], whole.Members[2]), ok3, false},
		{"formed without this node", formed(ok2, whole.Members[1:]...), ok3, false},
		{"formed of another list", formed(ok2, whole.Members[0], whole.Members[1]), ok3, false},
		{"formed with another node's data, each their own", did2, formed(ok3, whole.Members[0], member{"n2", "b:1", wiped}, whole.Members[2]), false},
		{"a cluster id that its members did not make", changed, ok3, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, missing := conclude(l, []meeting{tt.second, tt.third})
			if r.formed() != tt.forms {
				t.Fatalf("concluded %v, missing %v", r, missing)
			}
			if tt.forms && r.Cluster != whole.Cluster {
				t.Errorf("concluded cluster %s, want %s", r.Cluster, whole.Cluster)
			}
			if !tt.forms && len(missing) == 0 {
				t.Error("nothing says why not")
			}
		})
	}
}

func TestClusterIDFollowsFromEveryPartOfTheRoster(t *testing.T) {
	a, b := member{"n1", "a:1", inc1}, member{"n2", "b:1", inc2}
	id := form("", []member{a, b}).Cluster
	if got := form("", []member{b, a}).Cluster; got != id {
		t.Errorf("the order changes the id from %s to %s", id, got)
	}
	if want := "850e56ce1b581770d839f1923c8c1534"; id.String() != want {
		t.Errorf("the id is %s, want %s: nodes of two releases would form two clusters", id, want)
	}
	for _, other := range [][]member{
		{a}, {a, {"n2", "b:1", inc3}}, {a, {"n2", "b:2", inc2}}, {a, {"n3", "b:1", inc2}}, {a, {"n2b", ":1", inc2}},
	} {
		if form("", other).Cluster == id {
			t.Errorf("%v has the same id", other)
		}
	}
}
