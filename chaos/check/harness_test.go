package check

import (
	"strings"
	"testing"
	"time"

	"github.com/onced/onced/chaos/history"
)

// ms is a moment of a hand-written history.
func ms(n int) history.Nano { return history.Span(time.Duration(n) * time.Millisecond) }

// story is a hand-written history of one key, of one node and clients that need
// no names. Times are milliseconds; a call ends at 0 if it was not answered.
type story struct {
	h  history.History
	at history.Key
	// What claims ask for.
	policy     string
	lease, ttl history.Nano
}

func newStory() *story {
	return &story{at: history.Key{Namespace: "default", Key: "k"}, policy: history.Retry, lease: ms(1000), ttl: ms(10_000)}
}

func (s *story) call(kind history.Kind, begin, end int, a *history.Answer) *history.Call {
	c := &history.Call{
		ID: uint64(len(s.h.Calls) + 1), Node: "n1", Kind: kind, Namespace: s.at.Namespace, Key: s.at.Key,
		TTL: s.ttl, Begin: ms(begin), End: ms(end), Answer: a,
	}
	if end == 0 {
		c.End, c.Answer = history.Never, nil
	}
	if kind == history.Claim || kind == history.Create {
		c.Fingerprint, c.Policy, c.Lease = "a", s.policy, s.lease
	}
	s.h.Calls = append(s.h.Calls, c)
	return c
}

// claim is granted that fence, as that attempt.
func (s *story) claim(begin, end int, fence uint64, attempt int) *history.Call {
	return s.call(history.Claim, begin, end, &history.Answer{Status: 201, State: "claimed", Fence: fence, Attempt: attempt})
}

// refused is a call answered with a problem.
func (s *story) refused(kind history.Kind, begin, end int, slug string) *history.Call {
	status := map[string]int{"key-reused": 422, "key-unknown": 404, "unavailable": 503}[slug]
	if status == 0 {
		status = 409
	}
	return s.call(kind, begin, end, &history.Answer{Status: status, Problem: slug})
}

func record(state string, fence uint64, digest string) *history.Answer {
	return &history.Answer{Status: 200, State: state, Fence: fence, Attempt: 1, Digest: digest}
}

// complete sends that response.
func (s *story) complete(begin, end int, fence uint64, digest string) *history.Call {
	c := s.call(history.Complete, begin, end, record("completed", fence, digest))
	c.Fence, c.Sent = fence, digest
	return c
}

// write is a call with a fence that is answered without a record.
func (s *story) write(kind history.Kind, begin, end int, fence uint64) *history.Call {
	c := s.call(kind, begin, end, &history.Answer{Status: 204})
	c.Fence, c.Lease = fence, s.lease
	return c
}

func (s *story) replay(begin, end int, fence uint64, digest string) *history.Call {
	a := record("completed", fence, digest)
	a.Replayed = true
	return s.call(history.Claim, begin, end, a)
}

func (s *story) get(begin, end int, a *history.Answer) *history.Call {
	return s.call(history.Get, begin, end, a)
}

func (s *story) create(begin, end int, digest string, replayed bool) *history.Call {
	return s.call(history.Create, begin, end, &history.Answer{Status: 201, Digest: digest, Replayed: replayed, Resource: "r-" + digest})
}

// work is what the worker of c, or the upstream, did.
func (s *story) work(c *history.Call, begin int, fence uint64, where, result, digest string) {
	s.h.Effects = append(s.h.Effects, &history.Effect{
		Call: c.ID, Where: where, Namespace: c.Namespace, Key: c.Key, Policy: c.Policy, Fence: fence, Attempt: 1,
		Begin: ms(begin), End: ms(begin), Result: result, Digest: digest,
	})
}

// request is one to the gateway, answered with that response.
func (s *story) request(begin, end int, digest string, replayed bool) *history.Call {
	c := s.call(history.Gateway, begin, end, &history.Answer{Status: 201, Digest: digest, Replayed: replayed})
	c.Fingerprint, c.Policy, c.Lease = "a", s.policy, s.lease
	return c
}

// judged returns the rules that the story breaks.
func (s *story) judged(t *testing.T) (broken []string) {
	t.Helper()
	s.h.Run.Nodes = []string{"n1"}
	s.h.End = &history.End{}
	v := Judge(t.Context(), &s.h, Options{MinCalls: 1})
	for _, f := range v.Findings {
		broken = append(broken, f.Rule)
		t.Logf("%s: %s", f.Rule, f.What)
	}
	if (v.Outcome == Invalid) != (len(broken) > 0) {
		t.Errorf("the outcome is %s with %d findings", v.Outcome, len(broken))
	}
	return broken
}

// expect fails the test unless the story breaks that rule, or none for "".
func (s *story) expect(t *testing.T, rule string) {
	t.Helper()
	broken := s.judged(t)
	if rule == "" && len(broken) > 0 {
		t.Errorf("it breaks %s and should break nothing", strings.Join(broken, ", "))
	}
	if rule != "" && !strings.Contains(strings.Join(broken, " "), rule) {
		t.Errorf("it breaks %q and should break %s", broken, rule)
	}
}
