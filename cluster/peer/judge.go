package peer

import "fmt"

// Code says why a connection was refused.
type Code byte

// The codes are part of the protocol: none is ever reused.
const (
	accepted Code = iota
	// CodeVersion: the acceptor speaks another version of the protocol.
	CodeVersion
	// CodeWrongNode: another node answers at the address than was expected.
	CodeWrongNode
	// CodeSameID: the dialer has the id of the acceptor.
	CodeSameID
	// CodeReplaced: one of the two is known to the other by another data
	// directory. It lost its disk, and with it what it voted and acknowledged.
	CodeReplaced
	// CodeOtherCluster: the two belong to different clusters.
	CodeOtherCluster
	// CodeNotFormed: one of the two belongs to no cluster yet.
	CodeNotFormed
	// CodeNotMember: the acceptor's cluster, or its list, does not name the dialer.
	CodeNotMember
	// CodeNotJoining: the acceptor does not wait to be admitted, or not to this
	// cluster.
	CodeNotJoining
	// CodeNotReady: the acceptor is starting or stopping. The one code that
	// passes by itself.
	CodeNotReady
	// CodeUnproven: the connection does not prove that the dialer is who it
	// says (its certificate is another's).
	CodeUnproven
	// CodeListDiffers: two nodes that form a cluster were given different lists.
	CodeListDiffers
	// CodeSeedDiffers: two nodes that form a cluster begin with different content.
	CodeSeedDiffers
)

// Refusal is the error of a connection that was made and not accepted.
type Refusal struct {
	Code   Code
	Reason string // one line that says what to do
	By     string // the node that refused
}

func (r *Refusal) Error() string { return fmt.Sprintf("refused by %s: %s", r.By, r.Reason) }

// local is what an acceptor judges by: a copy of what its node knows.
type local struct {
	id          string
	addr        string
	incarnation tag
	seed        string
	roster      roster
	list        []Peer // the static list; empty when joining
	joinAddr    string // empty: not to be admitted
	joined      bool
}

func (l local) joining() bool { return l.joinAddr != "" && !l.roster.formed() }

// verdict is accepted, or why not.
type verdict struct {
	Code   Code
	Reason string
}

func refuse(code Code, format string, args ...any) verdict {
	return verdict{code, fmt.Sprintf(format, args...)}
}

// replaced is what a node is told that the cluster knows by another directory.
func replaced(id, addr string) verdict {
	return refuse(CodeReplaced, "this cluster knows %s by another data directory: remove it with `onced node remove %[1]s` (or DELETE /v1/cluster/nodes/%[1]s) on a running node, then start this one empty, under a new id, with --join %[2]s", id, addr)
}

// judge decides whether l lets in who begins a connection with p. It reads
// nothing but its arguments. This is the rule that keeps a node without its
// data from voting and acknowledging.
func judge(l local, p preface) verdict {
	switch {
	case p.WantID != "" && p.WantID != l.id:
		return refuse(CodeWrongNode, "this is %s, not %s: correct the address of %[2]s", l.id, p.WantID)
	case p.ID == l.id:
		return refuse(CodeSameID, "the node that answers at %s is %s itself: two nodes were started with one id, or one address was given to two", l.addr, l.id)
	// Before the data directories are compared, which are always others in
	// another cluster: none of its nodes is to be removed for that.
	case p.Cluster != tag{} && l.roster.formed() && p.Cluster != l.roster.Cluster:
		return refuse(CodeOtherCluster, "%s belongs to cluster %s and %s to cluster %s: correct the addresses, or start the one that does not belong here with its own data directory", l.id, l.roster.Cluster, p.ID, p.Cluster)
	case p.WantIncarnation != tag{} && p.WantIncarnation != l.incarnation:
		return refuse(CodeReplaced, "%s runs on another data directory than %s knows it by: remove it with `onced node remove %[1]s` (or DELETE /v1/cluster/nodes/%[1]s) on a running node, then start it empty, under a new id, with --join %[3]s", l.id, p.ID, joinVia(l, p))
	}
	switch p.Purpose {
	case forHello:
		return judgeHello(l, p)
	case forAdmit:
		return judgeAdmit(l, p)
	default:
		return judgeMember(l, p)
	}
}

// joinVia is an address to join through: the dialer's, where it is known.
func joinVia(l local, p preface) string {
	for _, known := range append(l.roster.list(), l.list...) {
		if known.ID == p.ID {
			return known.Addr
		}
	}
	return "<address of a running node>"
}

// judgeMember is the rule for raft and commands.
func judgeMember(l local, p preface) verdict {
	switch {
	case !l.roster.formed():
		return refuse(CodeNotFormed, "%s belongs to no cluster yet", l.id)
	case p.Cluster == tag{}:
		return refuse(CodeNotFormed, "%s belongs to no cluster yet and may only say hello", p.ID)
	case p.WantID == "" || p.WantIncarnation == tag{}:
		return refuse(CodeWrongNode, "%s did not say which node and data directory it expects here", p.ID)
	}
	m, known := l.roster.member(p.ID)
	switch {
	case known && m.Incarnation == p.Incarnation:
		return verdict{}
	case known:
		return replaced(p.ID, l.addr)
	case p.Purpose == forRaft && p.Index > l.roster.Index:
		// Its table is newer: it was admitted by an entry that this node has yet
		// to apply, and it may be the very leader that brings it.
		return verdict{}
	}
	return notMember(l, p)
}

func judgeHello(l local, p preface) verdict {
	if !l.roster.formed() {
		if l.joining() {
			return verdict{}
		}
		for _, listed := range l.list {
			if listed.ID == p.ID {
				return verdict{}
			}
		}
		return refuse(CodeNotMember, "%s was started with a list of peers that does not name %s: give all nodes of a new cluster the same --peers, or start a node that is to be added with --join", l.id, p.ID)
	}
	m, known := l.roster.member(p.ID)
	switch {
	case known && m.Incarnation == p.Incarnation:
		return verdict{}
	case known:
		return replaced(p.ID, l.addr)
	case p.Cluster != tag{} && p.Index > l.roster.Index:
		return verdict{}
	}
	return notMember(l, p)
}

func notMember(l local, p preface) verdict {
	if p.Cluster == l.roster.Cluster {
		return refuse(CodeNotMember, "%s is no member of this cluster: if it was removed, stop it; to have it back, start it empty, under a new id, with --join %s", p.ID, l.addr)
	}
	return refuse(CodeNotMember, "this cluster does not know %s: start it with --join %s, and add it with `onced node add %[1]s <its address>`", p.ID, l.addr)
}

// judgeAdmit decides whether the admission that follows is worth reading.
func judgeAdmit(l local, p preface) verdict {
	switch {
	case p.Cluster == tag{}:
		return refuse(CodeNotFormed, "%s belongs to no cluster itself", p.ID)
	case p.WantID == "" || p.WantIncarnation == tag{}:
		return refuse(CodeWrongNode, "%s did not say which node and data directory it admits", p.ID)
	case l.joining(), l.joined:
		return verdict{}
	}
	return refuse(CodeNotJoining, "%s does not wait to be added: start it empty, with --join %s", l.id, joinVia(l, p))
}

// judgeAdmission decides, after judge accepted p, whether l joins the cluster
// of a. An admission that was accepted before is accepted again: its answer
// may have been lost.
func judgeAdmission(l local, p preface, a admission) verdict {
	if l.roster.formed() {
		if l.joined && a.Cluster == l.roster.Cluster {
			return verdict{}
		}
		return refuse(CodeNotJoining, "%s belongs to cluster %s", l.id, l.roster.Cluster)
	}
	if a.Cluster != p.Cluster {
		return refuse(CodeOtherCluster, "%s belongs to cluster %s and admits to cluster %s", p.ID, p.Cluster, a.Cluster)
	}
	if by, ok := a.member(p.ID); !ok || by.Incarnation != p.Incarnation {
		return refuse(CodeNotMember, "%s is no member of the cluster that it admits to", p.ID)
	}
	if me, ok := a.member(l.id); !ok || me.Incarnation != l.incarnation {
		return refuse(CodeReplaced, "the admission is for another data directory of %s", l.id)
	}
	if _, ok := a.at(l.joinAddr); !ok {
		return refuse(CodeNotJoining, "%s waits to join the cluster of %s, which is the address of no member here: start it with --join and a member's address, written as the cluster writes it (such as %s)", l.id, l.joinAddr, a.Members[0].Addr)
	}
	return verdict{}
}
