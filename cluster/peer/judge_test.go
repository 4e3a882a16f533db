package peer

import (
	"strings"
	"testing"
)

// The cluster of the tests of judge: n1 accepts, and n2 dials it.
var (
	inc1, inc2, inc3 = tag{1}, tag{2}, tag{3}
	wiped            = tag{0xee}
	threeNodes       = roster{Cluster: tag{0xc1}, Index: 50, Members: []member{
		{"n1", "a:1", inc1}, {"n2", "b:1", inc2}, {"n3", "c:1", inc3},
	}}
	listOfThree = []Peer{{"n1", "a:1"}, {"n2", "b:1"}, {"n3", "c:1"}}
)

func formedLocal() local {
	return local{id: "n1", addr: "a:1", incarnation: inc1, roster: threeNodes, list: listOfThree}
}

func formingLocal() local {
	return local{id: "n1", addr: "a:1", incarnation: inc1, list: listOfThree}
}

func joiningLocal() local {
	return local{id: "n1", addr: "a:1", incarnation: inc1, joinAddr: "b:1"}
}

func joinedLocal() local {
	l := joiningLocal()
	l.roster, l.joined = threeNodes, true
	return l
}

// fromN2 is what the member n2 begins a connection with.
func fromN2(why purpose) preface {
	return preface{
		Purpose: why, ID: "n2", Incarnation: inc2, Cluster: threeNodes.Cluster, Index: 50,
		WantID: "n1", WantIncarnation: inc1,
	}
}

func with(p preface, change func(*preface)) preface { change(&p); return p }

func TestJudgeOnRaftAndCommands(t *testing.T) {
	for _, why := range []purpose{forRaft, forCommands} {
		for _, tt := range []struct {
			name string
			l    local
			p    preface
			want Code
		}{
			{"member with its own data is let in", formedLocal(), fromN2(why), accepted},
			{"member with an older table is let in", formedLocal(), with(fromN2(why), func(p *preface) { p.Index = 0 }), accepted},
			{"dialer that lost its disk and knows no cluster", formedLocal(), with(fromN2(why), func(p *preface) { p.Incarnation, p.Cluster = wiped, tag{} }), CodeNotFormed},
			{"dialer that lost its disk and claims the cluster", formedLocal(), with(fromN2(why), func(p *preface) { p.Incarnation = wiped }), CodeReplaced},
			{"dialer that lost its disk and claims a newer table", formedLocal(), with(fromN2(why), func(p *preface) { p.Incarnation, p.Index = wiped, 99 }), CodeReplaced},
			{"acceptor that lost its disk", formingLocal(), with(fromN2(why), func(p *preface) { p.WantIncarnation = wiped }), CodeReplaced},
			{"acceptor with other data than expected", formedLocal(), with(fromN2(why), func(p *preface) { p.WantIncarnation = wiped }), CodeReplaced},
			{"acceptor that has not stored the roster", formingLocal(), fromN2(why), CodeNotFormed},
			{"acceptor that waits to be admitted", joiningLocal(), fromN2(why), CodeNotFormed},
			{"other cluster", formedLocal(), with(fromN2(why), func(p *preface) { p.Cluster = tag{9} }), CodeOtherCluster},
			{"other cluster with a node of the same name", formedLocal(), with(fromN2(why), func(p *preface) { p.Cluster, p.Incarnation, p.WantIncarnation = tag{9}, tag{8}, tag{7} }), CodeOtherCluster},
			{"another node is expected here", formedLocal(), with(fromN2(why), func(p *preface) { p.WantID = "n3" }), CodeWrongNode},
			{"dialer expects no one in particular", formedLocal(), with(fromN2(why), func(p *preface) { p.WantID = "" }), CodeWrongNode},
			{"dialer expects no data directory in particular", formedLocal(), with(fromN2(why), func(p *preface) { p.WantIncarnation = tag{} }), CodeWrongNode},
			{"dialer has the acceptor's id", formedLocal(), with(fromN2(why), func(p *preface) { p.ID, p.Incarnation = "n1", wiped }), CodeSameID},
			{"acceptor dials itself", formedLocal(), with(fromN2(why), func(p *preface) { p.ID, p.Incarnation = "n1", inc1 }), CodeSameID},
			{"dialer that was removed", formedLocal(), with(fromN2(why), func(p *preface) { p.ID, p.Index = "n4", 49 }), CodeNotMember},
			{"stranger whose table is as new", formedLocal(), with(fromN2(why), func(p *preface) { p.ID = "n4" }), CodeNotMember},
		} {
			t.Run(why.String()+" "+tt.name, func(t *testing.T) { wantVerdict(t, judge(tt.l, tt.p), tt.want) })
		}
	}
	newer := with(fromN2(forRaft), func(p *preface) { p.ID, p.Incarnation, p.Index = "n4", tag{4}, 51 })
	t.Run("raft of a member that this node has yet to hear of is let in", func(t *testing.T) { wantVerdict(t, judge(formedLocal(), newer), accepted) })
	newer.Purpose = forCommands
	t.Run("commands of it wait until then", func(t *testing.T) { wantVerdict(t, judge(formedLocal(), newer), CodeNotMember) })
}

func TestJudgeOnHello(t *testing.T) {
	unformed := preface{Purpose: forHello, ID: "n2", Incarnation: inc2, WantID: "n1"}
	for _, tt := range []struct {
		name string
		l    local
		p    preface
		want Code
	}{
		{"two that form meet", formingLocal(), unformed, accepted},
		{"one that formed meets one that has yet to", formingLocal(), fromN2(forHello), accepted},
		{"one that has yet to form meets one that did, with the data it was formed with", formedLocal(), unformed, accepted},
		{"one that lost its disk meets the cluster", formedLocal(), with(unformed, func(p *preface) { p.Incarnation = wiped }), CodeReplaced},
		{"member asks member", formedLocal(), fromN2(forHello), accepted},
		{"member asks who waits", joiningLocal(), with(fromN2(forHello), func(p *preface) { p.WantID, p.WantIncarnation = "", tag{} }), accepted},
		{"member asks for data that is gone", formingLocal(), with(fromN2(forHello), func(p *preface) { p.WantIncarnation = wiped }), CodeReplaced},
		{"member of another cluster", formedLocal(), with(fromN2(forHello), func(p *preface) { p.Cluster = tag{9} }), CodeOtherCluster},
		{"one that the list does not name", formingLocal(), with(unformed, func(p *preface) { p.ID = "n4" }), CodeNotMember},
		{"one that the cluster does not know", formedLocal(), with(unformed, func(p *preface) { p.ID = "n4" }), CodeNotMember},
		{"one that the cluster does not know, with a newer table of none", formedLocal(), with(unformed, func(p *preface) { p.ID, p.Index = "n4", 99 }), CodeNotMember},
		{"one that was removed", formedLocal(), with(fromN2(forHello), func(p *preface) { p.ID, p.Index = "n4", 50 }), CodeNotMember},
		{"one that this node has yet to hear of", formedLocal(), with(fromN2(forHello), func(p *preface) { p.ID, p.Index = "n4", 51 }), accepted},
		{"wrong address", formingLocal(), with(unformed, func(p *preface) { p.WantID = "n3" }), CodeWrongNode},
		{"two nodes with one id", formingLocal(), with(unformed, func(p *preface) { p.ID = "n1" }), CodeSameID},
	} {
		t.Run(tt.name, func(t *testing.T) { wantVerdict(t, judge(tt.l, tt.p), tt.want) })
	}
}

func TestJudgeOnAdmit(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    local
		p    preface
		want Code
	}{
		{"node that waits hears it", joiningLocal(), fromN2(forAdmit), accepted},
		{"node that was admitted hears it again", joinedLocal(), fromN2(forAdmit), accepted},
		{"node that was admitted elsewhere", joinedLocal(), with(fromN2(forAdmit), func(p *preface) { p.Cluster = tag{9} }), CodeOtherCluster},
		{"node of a list", formingLocal(), fromN2(forAdmit), CodeNotJoining},
		{"member from the start", formedLocal(), fromN2(forAdmit), CodeNotJoining},
		{"other data directory than was asked", joiningLocal(), with(fromN2(forAdmit), func(p *preface) { p.WantIncarnation = wiped }), CodeReplaced},
		{"no data directory named", joiningLocal(), with(fromN2(forAdmit), func(p *preface) { p.WantIncarnation = tag{} }), CodeWrongNode},
		{"by a node without a cluster", joiningLocal(), with(fromN2(forAdmit), func(p *preface) { p.Cluster = tag{} }), CodeNotFormed},
	} {
		t.Run(tt.name, func(t *testing.T) { wantVerdict(t, judge(tt.l, tt.p), tt.want) })
	}
}

func TestJudgeOnAdmission(t *testing.T) {
	change := func(f func(r *roster)) admission {
		r := threeNodes
		r.Members = append([]member(nil), r.Members...)
		f(&r)
		return admission{r}
	}
	for _, tt := range []struct {
		name string
		l    local
		a    admission
		want Code
	}{
		{"is taken", joiningLocal(), admission{threeNodes}, accepted},
		{"is taken again", joinedLocal(), admission{threeNodes}, accepted},
		{"to another cluster than the dialer's", joiningLocal(), change(func(r *roster) { r.Cluster = tag{9} }), CodeOtherCluster},
		{"to another cluster than before", joinedLocal(), change(func(r *roster) { r.Cluster = tag{9} }), CodeNotJoining},
		{"of a list's node", formedLocal(), admission{threeNodes}, CodeNotJoining},
		{"for another data directory", joiningLocal(), change(func(r *roster) { r.Members[0].Incarnation = wiped }), CodeReplaced},
		{"that does not name this node", joiningLocal(), change(func(r *roster) { r.Members = r.Members[1:] }), CodeReplaced},
		{"by no member", joiningLocal(), change(func(r *roster) { r.Members[1].ID = "n9" }), CodeNotMember},
		{"by a member without its data", joiningLocal(), change(func(r *roster) { r.Members[1].Incarnation = wiped }), CodeNotMember},
		{"without the address to join", joiningLocal(), change(func(r *roster) { r.Members[1].Addr = "z:1" }), CodeNotJoining},
	} {
		t.Run(tt.name, func(t *testing.T) { wantVerdict(t, judgeAdmission(tt.l, fromN2(forAdmit), tt.a), tt.want) })
	}
}

func wantVerdict(t *testing.T, got verdict, want Code) {
	t.Helper()
	if got.Code != want {
		t.Errorf("verdict %d (%s), want %d", got.Code, got.Reason, want)
	}
	if (got.Reason == "") != (want == accepted) || got.Reason != line(got.Reason) || strings.Contains(got.Reason, "%!") {
		t.Errorf("reason %q", got.Reason)
	}
}

func TestReasonsOfTheLongestNamesFit(t *testing.T) {
	id, addr := strings.Repeat("x", maxID), strings.Repeat("y", maxAddr-2)+":1"
	l := local{id: id + "a", addr: addr, incarnation: inc1, joinAddr: addr, roster: roster{Cluster: tag{1}, Members: []member{{id, addr, inc2}}}}
	for _, v := range []verdict{
		judge(l, preface{Purpose: forRaft, ID: id, WantIncarnation: wiped}),
		judge(l, preface{Purpose: forHello, ID: id, Incarnation: wiped}),
		judge(l, preface{Purpose: forRaft, ID: id, Cluster: tag{2}}),
	} {
		if v.Code == accepted || v.Reason != line(v.Reason) {
			t.Errorf("verdict %d with %d bytes of reason", v.Code, len(v.Reason))
		}
	}
}
