package load

import (
	"fmt"
	"net/http"
	"time"

	"github.com/onced/onced/chaos/history"
)

// playGateway sends a keyed request through the gateways, for several tenants
// under the same key.
func (s *script) playGateway() {
	policy := []string{history.Retry, history.Block}[s.chance.below(2)]
	together(1+s.chance.below(3), func(i int) {
		tenant := *s
		tenant.kind, tenant.policy, tenant.tenant = history.Gateway, policy, fmt.Sprintf("tenant-%d", i)
		tenant.ttl, tenant.lease = blockTTL, blockLease
		if policy == history.Retry {
			tenant.ttl, tenant.lease = retryTTL, retryLease
		}
		tenant.playTenant()
	})
}

func (s *script) playTenant() {
	mood := ""
	switch d := s.chance.below(100); {
	case d < 8:
		mood = moodSlow
	case d < 14:
		mood = moodBroken
	case d < 20:
		mood = moodDeclines
	case d < 26:
		mood = moodFails
	}
	together(1+s.chance.below(3), func(i int) {
		if i == 2 && s.chance.is(40) {
			s.elsewhere(s.post("b", ""))
			return
		}
		s.elsewhere(s.post("a", mood))
	})
	for range 1 + s.chance.below(3) {
		s.pause()
		if s.chance.is(60) {
			s.at(s.cfg.Nodes[s.anyNode()], s.post("a", ""))
		} else {
			s.look()
		}
	}
	if mood == moodBroken && s.chance.is(60) || s.chance.is(4) {
		s.settle()
		s.elsewhere(s.post("a", ""))
	}
	if s.policy == history.Retry && s.chance.is(10) {
		s.sleep(s.ttl + s.chance.some(500*time.Millisecond))
		s.elsewhere(s.post("a", ""))
	}
	s.remember(s)
}

// post is a request to the gateway.
func (s *script) post(fingerprint, mood string) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c := s.newCall(history.Gateway, node)
		c.Fingerprint, c.Policy, c.Lease = fingerprint, s.policy, history.Span(s.lease)
		header := http.Header{"Idempotency-Key": {fmt.Sprintf("%q", s.key)}, TenantHeader: {s.tenant}}
		if mood != "" {
			header.Set(moodHeader, mood)
		}
		return c, request{
			method: http.MethodPost, url: node.Gateway + "/" + s.policy + "/payments", header: header,
			body: encode(map[string]any{"variant": fingerprint}),
		}
	}
}
