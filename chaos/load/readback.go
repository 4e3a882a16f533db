package load

import (
	"context"
	"net/http"

	"github.com/onced/onced/chaos/history"
)

// ReadBack asks every node for what the load has left, a part of it at random
// where it is much, and has each take a new key. The load is over, the faults
// are healed, and the nodes hold as much as each other.
func (l *Load) ReadBack(ctx context.Context) {
	l.mu.Lock()
	known, resources := l.known, l.resources
	l.mu.Unlock()
	const clients = 4
	together(clients, func(client int) {
		for i := client; i < len(known) && ctx.Err() == nil; i += clients {
			s := *known[i]
			s.ctx, s.client = ctx, client
			s.readBack(i)
		}
		for i := client; i < len(resources) && ctx.Err() == nil; i += clients {
			s := script{Load: l, ctx: ctx, client: client, key: resources[i].key, kind: history.Resource}
			for _, node := range l.cfg.Nodes {
				s.at(node, final(s.resource(resources[i].id)))
			}
		}
	})
	for i, node := range l.cfg.Nodes {
		s := script{Load: l, ctx: ctx, chance: &dice{rand: l.chance}, kind: history.Create, key: keyName(l.keys.Add(1)), client: i, ttl: l.cfg.TTL}
		s.data = s.newData("", "a")
		s.at(node, final(s.create(s.data, "a", "")))
	}
}

// readBack reads one key: every node's own state, and through the log at one of
// them by turns; and asks that one again for what was asked first.
func (s *script) readBack(turn int) {
	for _, node := range s.cfg.Nodes {
		s.at(node, final(s.get(history.GetLocal)))
	}
	node := s.cfg.Nodes[turn%len(s.cfg.Nodes)]
	c := s.at(node, final(s.get(history.Get)))
	if c.Answer == nil || c.Answer.State != "completed" {
		return
	}
	switch s.kind {
	case history.Create:
		s.at(node, final(s.create(s.data, "a", "")))
	case history.Claim:
		s.at(node, final(s.claim("a", "", 0)))
	case history.Gateway:
		s.at(node, final(s.post("a", "")))
	}
}

func (s *script) resource(id string) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c := s.newCall(history.Resource, node)
		c.Resource = id
		return c, request{method: http.MethodGet, url: node.API + "/resources/" + id}
	}
}

func final(make func(Node) (*history.Call, request)) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c, r := make(node)
		c.Final = true
		return c, r
	}
}
