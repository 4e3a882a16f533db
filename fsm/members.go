package fsm

import (
	"bytes"
	"slices"
)

// bind makes the nodes of c a cluster, once.
func (t *transaction) bind(c *Command) *Outcome {
	if len(t.meta.ClusterId) == 0 {
		t.meta.ClusterId, t.meta.Members = c.ClusterId, c.Members
		return done()
	}
	if bytes.Equal(t.meta.ClusterId, c.ClusterId) && slices.EqualFunc(t.meta.Members, c.Members, sameMember) {
		return done()
	}
	return refused("the cluster is bound already")
}

// admit adds a node, or gives the same node a new address. A node that lost
// its data directory is another node, and cannot take the old one's place.
func (t *transaction) admit(c *Command) *Outcome {
	node := c.Members[0]
	i := t.member(node.Id)
	switch {
	case i < 0:
		t.meta.Members = append(t.meta.Members, node)
	case bytes.Equal(t.meta.Members[i].Incarnation, node.Incarnation):
		t.meta.Members[i] = node
	default:
		return refused("another node has this id")
	}
	return done()
}

// dismiss takes a node out. A resend must not hit a later node of the same id,
// so a command that names an incarnation means that one alone.
func (t *transaction) dismiss(c *Command) *Outcome {
	node := c.Members[0]
	i := t.member(node.Id)
	if i < 0 || len(node.Incarnation) > 0 && !bytes.Equal(t.meta.Members[i].Incarnation, node.Incarnation) {
		return done()
	}
	if len(t.meta.Members) == 1 {
		return refused("it is the last node")
	}
	t.meta.Members = slices.Delete(t.meta.Members, i, i+1)
	return done()
}

// Foresee returns meta with the time and the members that it will have once an
// entry's payload is applied, and changes nothing. The error is that of Apply.
// It serves a node that has stored an entry, and cannot know yet that it is
// committed, but must reach those whom it admits.
func Foresee(meta *Meta, data []byte) (*Meta, error) {
	time, commands, err := decodeEntry(data)
	if err != nil {
		return nil, err
	}
	next := &Meta{
		ClusterId: meta.ClusterId, Members: slices.Clone(meta.Members),
		Time: min(max(meta.Time, time), maxTime), AppliedIndex: meta.AppliedIndex,
	}
	t := &transaction{meta: next}
	for _, b := range commands {
		c, err := decodeCommand(b)
		if err != nil {
			return nil, err
		}
		switch c.Kind {
		case Kind_BIND, Kind_ADMIT, Kind_DISMISS:
			if _, err := t.judge(c); err != nil {
				return nil, err
			}
		}
	}
	return next, nil
}

func (t *transaction) member(id string) int {
	return slices.IndexFunc(t.meta.Members, func(m *Member) bool { return m.Id == id })
}

func sameMember(a, b *Member) bool {
	return a.Id == b.Id && a.RaftAddr == b.RaftAddr && bytes.Equal(a.Incarnation, b.Incarnation)
}
