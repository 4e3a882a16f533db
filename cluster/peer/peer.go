// Package peer is what a node knows about itself and its peers, and the
// connections between them.
//
// A data directory has an incarnation: 16 random bytes, made once with it. A
// cluster is formed from a static list when every node of the list has met all
// others; from then on it knows each node by id and incarnation, and every
// connection begins with both. So a node that lost its disk is a new node: the
// others hang up on it, and it can neither vote nor acknowledge.
package peer

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/onced/onced/fsm"
)

// Peer is one line of the static list that a new cluster is formed from.
type Peer struct {
	ID   string `json:"id"`
	Addr string `json:"raft_addr"` // host:port of its peer listener
}

// tag is the incarnation of a data directory, or the id of a cluster. The zero
// tag stands for none.
type tag [16]byte

func (t tag) String() string { return hex.EncodeToString(t[:]) }

// MarshalText writes t in hex.
func (t tag) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (t *tag) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(t) {
		return fmt.Errorf("%q is not %d bytes in hex", text, len(t))
	}
	*t = tag(b)
	return nil
}

// bytes is t as the encodings of fsm have it: nil for none.
func (t tag) bytes() []byte {
	if t == (tag{}) {
		return nil
	}
	return slices.Clone(t[:])
}

func asTag(b []byte) (tag, error) {
	if len(b) != len(tag{}) {
		return tag{}, fmt.Errorf("%x is not %d bytes", b, len(tag{}))
	}
	return tag(b), nil
}

// member is a node of a formed cluster, with the data directory that the
// cluster knows it by.
type member struct {
	ID          string `json:"id"`
	Addr        string `json:"raft_addr"`
	Incarnation tag    `json:"incarnation"`
}

// roster is a cluster's id and its members as of a log index, ordered by node
// id. The zero roster is that of a node that belongs to no cluster yet. Index 0
// is the roster that the cluster was formed with. A roster is never changed.
type roster struct {
	Cluster tag      `json:"cluster_id,omitzero"`
	Index   uint64   `json:"roster_index,omitempty"`
	Members []member `json:"roster,omitempty"`
}

const (
	maxMembers = 64
	maxID      = 64
	maxAddr    = 262 // a DNS name, a colon and a port, with room for brackets
)

func (r roster) formed() bool { return r.Cluster != tag{} }

func (r roster) member(id string) (member, bool) {
	for _, m := range r.Members {
		if m.ID == id {
			return m, true
		}
	}
	return member{}, false
}

func (r roster) at(addr string) (member, bool) {
	for _, m := range r.Members {
		if m.Addr == addr {
			return m, true
		}
	}
	return member{}, false
}

func (r roster) list() []Peer {
	list := make([]Peer, len(r.Members))
	for i, m := range r.Members {
		list[i] = Peer{ID: m.ID, Addr: m.Addr}
	}
	return list
}

// form makes the roster of a new cluster. Its id follows from the members and
// from what they begin with alone, so that all of them compute the same without
// an election.
func form(seed string, members []member) roster {
	members = sorted(members)
	h := sha256.New()
	h.Write([]byte(seed))
	for _, m := range members {
		for _, s := range []string{m.ID, m.Addr} {
			h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(s))))
			h.Write([]byte(s))
		}
		h.Write(m.Incarnation[:])
	}
	return roster{Cluster: tag(h.Sum(nil)[:16]), Members: members}
}

func sorted(members []member) []member {
	return slices.SortedFunc(slices.Values(members), func(a, b member) int { return cmp.Compare(a.ID, b.ID) })
}

// check reports what makes r no roster that a node may keep or act on.
func (r roster) check() error {
	if !r.formed() {
		return errors.New("it names no cluster")
	}
	if len(r.Members) == 0 || len(r.Members) > maxMembers {
		return fmt.Errorf("it has %d members, not 1 to %d", len(r.Members), maxMembers)
	}
	for i, m := range r.Members {
		if i > 0 && r.Members[i-1].ID >= m.ID {
			return fmt.Errorf("member %q is listed twice or out of order", m.ID)
		}
		if m.Incarnation == (tag{}) {
			return fmt.Errorf("member %q has no incarnation", m.ID)
		}
	}
	return checkList(r.list())
}

func checkList(list []Peer) error {
	if len(list) > maxMembers {
		return fmt.Errorf("%d peers are listed, more than %d", len(list), maxMembers)
	}
	for i, p := range list {
		if !validID(p.ID) {
			return fmt.Errorf("node id %q is not 1 to %d of A-Z a-z 0-9 . _ -", p.ID, maxID)
		}
		if !validAddr(p.Addr) {
			return fmt.Errorf("address %q of %s is not host:port", p.Addr, p.ID)
		}
		for _, q := range list[:i] {
			if p.ID == q.ID || p.Addr == q.Addr {
				return fmt.Errorf("%s=%s and %s=%s are one node listed twice", q.ID, q.Addr, p.ID, p.Addr)
			}
		}
	}
	return nil
}

const idBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

func validID(id string) bool {
	return id != "" && len(id) <= maxID && strings.Trim(id, idBytes) == ""
}

func validAddr(addr string) bool {
	if len(addr) > maxAddr || !printable(addr) {
		return false
	}
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != ""
}

func printable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return true
}

// difference names what only one of two lists has; it is empty if they are the
// same in any order.
func difference(ours, theirs []Peer) string {
	var parts []string
	for _, only := range []struct {
		whose string
		in    []Peer
		not   []Peer
	}{{"only here", ours, theirs}, {"only there", theirs, ours}} {
		var names []string
		for _, p := range only.in {
			if !slices.Contains(only.not, p) {
				names = append(names, p.ID+"="+p.Addr)
			}
		}
		if slices.Sort(names); len(names) > 0 {
			parts = append(parts, only.whose+": "+strings.Join(names, ","))
		}
	}
	return strings.Join(parts, "; ")
}

// rosterOf takes over the member table of the state machine.
func rosterOf(cluster []byte, index uint64, members []*fsm.Member) (roster, error) {
	id, err := asTag(cluster)
	if err != nil {
		return roster{}, fmt.Errorf("cluster id: %w", err)
	}
	r := roster{Cluster: id, Index: index}
	for _, m := range members {
		incarnation, err := asTag(m.GetIncarnation())
		if err != nil {
			return roster{}, fmt.Errorf("incarnation of member %q: %w", m.GetId(), err)
		}
		r.Members = append(r.Members, member{ID: m.GetId(), Addr: m.GetRaftAddr(), Incarnation: incarnation})
	}
	r.Members = sorted(r.Members)
	if err := r.check(); err != nil {
		return roster{}, fmt.Errorf("member table: %w", err)
	}
	return r, nil
}

func (r roster) fsmMembers() []*fsm.Member {
	members := make([]*fsm.Member, len(r.Members))
	for i, m := range r.Members {
		members[i] = &fsm.Member{Id: m.ID, RaftAddr: m.Addr, Incarnation: m.Incarnation.bytes()}
	}
	return members
}
