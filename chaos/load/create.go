package load

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/onced/onced/chaos/history"
)

// playCreate creates a resource, several clients at once, and again.
func (s *script) playCreate() {
	s.kind, s.ttl = history.Create, s.cfg.TTL
	email := ""
	if s.chance.is(50) {
		email = s.email(s.chance)
	}
	if s.chance.is(10) {
		s.pad = strings.Repeat("x", 2000)
	}
	s.data = s.newData(email, "a")
	var first *history.Call
	together(1+s.chance.below(3), func(i int) {
		if i == 2 && s.chance.is(50) {
			s.elsewhere(s.create(s.newData(email, "b"), "b", email))
			return
		}
		c := s.elsewhere(s.create(s.data, "a", email))
		if i == 0 {
			first = c
		}
	})
	if first.Answer != nil && first.Answer.Status == http.StatusCreated {
		s.rememberResource(first.Answer.Resource, s.key)
	}
	for range 1 + s.chance.below(3) {
		s.pause()
		switch d := s.chance.below(10); {
		case d < 5:
			s.at(s.cfg.Nodes[s.anyNode()], s.create(s.data, "a", email))
		case d < 6:
			s.at(s.cfg.Nodes[s.anyNode()], s.create(s.newData(email, "b"), "b", email))
		default:
			s.look()
		}
	}
	switch d := s.chance.below(100); {
	case d < 5:
		s.settle()
		s.elsewhere(s.create(s.data, "a", email))
	case d < 8: // until it has ended
		s.sleep(s.cfg.TTL + s.chance.some(time.Second))
		s.elsewhere(s.create(s.data, "a", email))
	}
	s.remember(s)
}

func (s *script) newData(email, variant string) string {
	unique := ""
	if email != "" {
		unique = fmt.Sprintf(`"email":%q,`, email)
	}
	return fmt.Sprintf(`{%s"owner":%q,"variant":%q,"pad":%q}`, unique, s.owner(), variant, s.pad)
}

func (s *script) create(data, fingerprint, email string) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c := s.newCall(history.Create, node)
		c.Fingerprint, c.Unique = fingerprint, email
		return c, request{
			method: http.MethodPost, url: node.API + "/create", header: http.Header{"Idempotency-Key": {fmt.Sprintf("%q", s.key)}},
			body: []byte(`{"data":` + data + `}`),
		}
	}
}
