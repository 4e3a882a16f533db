package load

import (
	"fmt"
	"net/http"
	"time"

	"github.com/onced/onced/chaos/history"
)

// playKey is workers of the Key API that want one key, some of which fail it.
func (s *script) playKey() {
	s.kind = history.Claim
	s.policy = []string{history.Retry, history.Block}[s.chance.below(2)]
	s.lease = []time.Duration{400 * time.Millisecond, time.Second, 3 * time.Second}[s.chance.below(3)]
	s.ttl = time.Hour
	if s.chance.is(25) {
		s.ttl = time.Duration(1+s.chance.below(3)) * time.Second
	}
	together(1+s.chance.below(3), func(i int) {
		if i == 2 && s.chance.is(40) {
			s.elsewhere(s.claim("b", "", 0))
			return
		}
		s.work(fmt.Sprintf("w%d", i))
	})
	for range 1 + s.chance.below(3) {
		s.pause()
		s.look()
	}
	if s.chance.is(40) {
		s.work("w3")
	}
	if s.chance.is(12) {
		s.settle()
		s.work("w4")
	}
	if s.ttl < time.Minute && s.chance.is(50) {
		s.sleep(s.ttl + s.chance.some(500*time.Millisecond))
		s.look()
		s.work("w5")
	}
	s.remember(s)
}

func (s *script) claim(fingerprint, attempt string, wait time.Duration) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c := s.newCall(history.Claim, node)
		c.Fingerprint, c.AttemptID, c.Policy, c.Lease, c.Wait = fingerprint, attempt, s.policy, history.Span(s.lease), history.Span(wait)
		body := map[string]any{
			"fingerprint": fingerprint, "lease": s.lease.String(), "ttl": s.ttl.String(), "on_lapse": s.policy,
		}
		if attempt != "" {
			body["attempt_id"] = attempt
		}
		return c, request{method: http.MethodPost, url: s.keyURL(node, "claim"), body: encode(body)}
	}
}

// work is one worker: it claims, does the work if it may, and ends its claim in
// one of all the ways there are.
func (s *script) work(name string) {
	attempt := name
	if s.chance.is(20) {
		attempt = "" // it cannot say that it is still itself
	}
	wait := time.Duration(0)
	if s.chance.is(25) {
		wait = time.Duration(1+s.chance.below(2)) * time.Second
	}
	c := s.elsewhere(s.claim("a", attempt, wait))
	if c.Answer == nil || c.Answer.Status != http.StatusCreated {
		return
	}
	fence := c.Answer.Fence
	s.do(c)
	switch d := s.chance.below(100); {
	case d < 45:
		s.pause()
		s.complete(fence)
	case d < 60:
		for range 1 + s.chance.below(3) {
			s.sleep(s.lease / 3)
			s.elsewhere(s.renew(fence))
		}
		s.complete(fence)
	case d < 72: // late: the lease is over, and someone else may have been let in
		s.sleep(s.lease + s.chance.some(300*time.Millisecond))
		s.complete(fence)
	case d < 82: // it has died, as far as anyone can tell
	case d < 90:
		s.elsewhere(s.release(fence))
	default:
		s.elsewhere(s.fail(fence))
		if s.chance.is(30) {
			s.complete(fence)
		}
	}
}

// do is the work.
func (s *script) do(c *history.Call) {
	now := s.cfg.Clock()
	s.cfg.History.Effect(&history.Effect{
		Call: c.ID, Where: "worker", Namespace: c.Namespace, Key: c.Key, Policy: c.Policy,
		Fence: c.Answer.Fence, Attempt: c.Answer.Attempt, Begin: now, End: now, Result: history.Answered,
	})
}

// complete records the response; now and then twice, or another one after it.
func (s *script) complete(fence uint64) {
	response := s.response(s.chance.uint64())
	s.elsewhere(s.write(history.Complete, fence, &response))
	if s.chance.is(15) {
		s.elsewhere(s.write(history.Complete, fence, &response))
	}
	if s.chance.is(8) {
		other := s.response(s.chance.uint64())
		s.elsewhere(s.write(history.Complete, fence, &other))
	}
	if s.chance.is(5) {
		s.elsewhere(s.release(fence))
	}
}

func (s *script) renew(fence uint64) func(Node) (*history.Call, request) {
	return s.write(history.Renew, fence, nil)
}

func (s *script) release(fence uint64) func(Node) (*history.Call, request) {
	return s.write(history.Release, fence, nil)
}

func (s *script) fail(fence uint64) func(Node) (*history.Call, request) {
	return s.write(history.Fail, fence, nil)
}

// write is a call that needs the fence.
func (s *script) write(kind history.Kind, fence uint64, response *recordedAnswer) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c := s.newCall(kind, node)
		c.Fence = fence
		body := map[string]any{"fence": fence}
		if kind == history.Renew {
			c.Lease, body["lease"] = history.Span(s.lease), s.lease.String()
		}
		if response != nil {
			c.Sent, body["response"] = response.digest(), response
		}
		return c, request{method: http.MethodPost, url: s.keyURL(node, string(kind)), body: encode(body)}
	}
}
