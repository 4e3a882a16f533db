package check

import (
	"testing"

	"github.com/onced/onced/chaos/history"
)

// Each story is a contract: what may be seen of one key, and what may not.
func TestOneKey(t *testing.T) {
	const wrong = ruleLinearizable
	for _, test := range []struct {
		name string
		tell func(*story)
		rule string
	}{
		{"claimed, completed, replayed", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.replay(40, 50, 1, "d")
		}, ""},
		{"replayed with another byte", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.replay(40, 50, 1, "e")
		}, ruleSameBytes},
		{"in flight while the claim stands", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 20, 30, "in-progress")
		}, ""},
		{"in flight and never claimed", func(s *story) {
			s.refused(history.Claim, 20, 30, "in-progress")
		}, wrong},
		{"granted twice while the claim stands", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.claim(20, 30, 2, 2)
		}, ruleNotEarly},
		{"taken over once the lease has ended", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.claim(1100, 1110, 2, 2)
			s.complete(1120, 1130, 2, "d")
		}, ""},
		{"taken over with the first attempt's number", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.claim(1100, 1110, 2, 1)
		}, wrong},
		{"taken over where the policy is block", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.claim(1100, 1110, 2, 2)
		}, wrong},
		{"granted afresh to the call that had no answer, where the policy is block", func(s *story) {
			s.policy = history.Block
			s.call(history.Claim, 0, 0, nil)
			a := record("unknown", 2, "")
			a.Attempt = 2
			s.get(2300, 2310, a)
		}, ""},
		{"granted afresh to a call that had no answer, as no first attempt", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.call(history.Claim, 1100, 0, nil)
			a := record("unknown", 2, "")
			a.Attempt = 2
			s.get(2300, 2310, a)
		}, wrong},
		{"granted afresh to the same call whenever its lease had ended before it was answered", func(s *story) {
			s.claim(0, 2300, 3, 3)
		}, ""},
		{"granted afresh to the same call more often than leases ended", func(s *story) {
			s.claim(0, 1500, 3, 3)
		}, wrong},
		{"asked before the record ended, and answered with the next one", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.replay(9990, 10500, 2, "e")
			s.get(10000, 10005, record("completed", 1, "d"))
			s.claim(10100, 10110, 2, 1)
			s.complete(10200, 10210, 2, "e")
		}, ""},
		{"a copy of a claim that was answered comes after the record has ended", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 5000, 6000, "outcome-unknown")
			s.get(13000, 13010, record("unknown", 2, ""))
		}, wrong},
		{"a copy of a claim that was answered comes after the key was given back", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 100, 900, "in-progress")
			s.write(history.Release, 910, 920, 1)
			s.get(3000, 3010, record("unknown", 2, ""))
		}, wrong},
		{"unknown where the policy is block", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 1100, 1110, "outcome-unknown")
		}, ""},
		{"unknown while the lease stands", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 100, 110, "outcome-unknown")
		}, wrong},
		{"completed late, before anyone else was let in", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(5000, 5010, 1, "d")
			s.replay(5020, 5030, 1, "d")
		}, ""},
		{"completed late, after a takeover", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.claim(1100, 1110, 2, 2)
			s.complete(1120, 1130, 1, "d")
		}, wrong},
		{"a takeover that was not answered fences the first", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.call(history.Claim, 1100, 0, nil)
			c := s.complete(1120, 1130, 1, "d")
			c.Answer = &history.Answer{Status: 409, Problem: "stale-fence"}
		}, ""},
		{"fenced though nobody took over", func(s *story) {
			s.claim(0, 10, 1, 1)
			c := s.complete(1120, 1130, 1, "d")
			c.Answer = &history.Answer{Status: 409, Problem: "stale-fence"}
		}, wrong},
		{"completed again with the same response", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.complete(40, 50, 1, "d")
		}, ""},
		{"completed again with another", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.complete(40, 50, 1, "e")
		}, wrong},
		{"a complete that was not answered was done", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 0, 1, "d")
			s.replay(100, 110, 1, "d")
		}, ""},
		{"a complete that was not answered was not done", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 0, 1, "d")
			s.claim(1500, 1510, 2, 2)
		}, ""},
		{"a complete that was not answered comes and goes", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 0, 1, "d")
			s.replay(100, 110, 1, "d")
			s.claim(1500, 1510, 2, 2)
		}, wrong},
		{"the same attempt has the same grant", func(s *story) {
			s.claim(0, 10, 1, 1).AttemptID = "w"
			c := s.claim(20, 30, 1, 1)
			c.AttemptID, c.Answer.Repeated = "w", true
		}, ""},
		{"another attempt has the same grant", func(s *story) {
			s.claim(0, 10, 1, 1).AttemptID = "w"
			c := s.claim(20, 30, 1, 1)
			c.AttemptID, c.Answer.Repeated = "x", true
		}, wrong},
		{"released, and claimed anew", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.write(history.Release, 20, 30, 1)
			s.claim(40, 50, 2, 1)
		}, ""},
		{"renewed, and taken over too soon", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.write(history.Renew, 800, 810, 1)
			s.claim(1500, 1510, 2, 2)
		}, wrong},
		{"renewed after the lease, and nothing of it", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.write(history.Renew, 1500, 1510, 1).Answer = &history.Answer{Status: 409, Problem: "stale-fence"}
			s.claim(1600, 1610, 2, 2)
		}, ""},
		{"failed, and unknown at once", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.write(history.Fail, 20, 30, 1).Answer = record("unknown", 1, "")
			s.get(40, 50, record("unknown", 1, ""))
			s.claim(60, 70, 2, 2)
		}, ""},
		{"ended, and new", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.claim(10_100, 10_110, 2, 1)
		}, ""},
		{"ended too soon", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.refused(history.Get, 5000, 5010, "key-unknown")
		}, ruleNotEarly},
		{"an unanswered claim does not make it end", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.call(history.Claim, 40, 0, nil)
			s.refused(history.Get, 5000, 5010, "key-unknown")
		}, wrong},
		{"forgotten, and new", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.write(history.Forget, 40, 50, 1)
			s.claim(60, 70, 2, 1)
		}, ""},
		{"forgotten, and replayed by a node that does not know", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.write(history.Forget, 40, 50, 1)
			s.replay(60, 70, 1, "d")
		}, ""},
		{"resolved with a response", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			c := s.call(history.Resolve, 1500, 1510, record("completed", 1, "d"))
			c.Fence, c.Sent = 1, "d"
			s.replay(1520, 1530, 1, "d")
		}, ""},
		{"resolved to run again", func(s *story) {
			s.policy = history.Block
			s.claim(0, 10, 1, 1)
			s.write(history.Resolve, 1500, 1510, 1).Retry = true
			s.claim(1520, 1530, 2, 1)
		}, ""},
		{"resolved while the claim stands", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.write(history.Resolve, 100, 110, 1).Retry = true
		}, wrong},
		{"another request", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 20, 30, "key-reused").Fingerprint = "b"
		}, ""},
		{"the same request taken for another", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.refused(history.Claim, 20, 30, "key-reused")
		}, wrong},
		{"created and replayed", func(s *story) {
			s.create(0, 10, "d", false)
			s.create(20, 30, "d", true)
			s.get(40, 50, record("completed", 7, "d"))
		}, ""},
		{"created twice", func(s *story) {
			s.create(0, 10, "d", false)
			s.create(20, 30, "e", false)
		}, ruleNotEarly},
		{"created at once, one replayed", func(s *story) {
			s.create(0, 30, "d", false)
			s.create(10, 20, "d", true)
		}, ""},
		{"a create that was not answered is replayed", func(s *story) {
			s.create(0, 0, "d", false)
			s.create(20, 30, "d", true)
			s.create(40, 50, "d", true)
		}, ""},
		{"a read goes back in time", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.get(40, 50, record("claimed", 1, ""))
		}, wrong},
		{"two reads in another order than the writes", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 100, 1, "d")
			s.get(30, 40, record("completed", 1, "d"))
			s.get(50, 60, record("claimed", 1, ""))
		}, wrong},
		{"granted, lapsed and granted again within one call", func(s *story) {
			s.policy = history.Block
			s.claim(0, 3000, 2, 2)
			s.complete(3010, 3020, 2, "d")
		}, ""},
		{"no answer that nothing was run, and released by itself", func(s *story) {
			s.refused(history.Claim, 0, 10, "unavailable")
			s.refused(history.Claim, 20, 30, "in-progress")
			s.claim(40, 50, 2, 1)
		}, ""},
		{"so is an attempt that has not come back", func(s *story) {
			s.refused(history.Claim, 0, 10, "unavailable").AttemptID = "w"
			s.refused(history.Claim, 20, 30, "in-progress")
			s.claim(40, 50, 2, 1)
		}, ""},
		{"an attempt that has come back is not", func(s *story) {
			s.refused(history.Claim, 0, 10, "unavailable").AttemptID = "w"
			again := s.claim(20, 30, 1, 1)
			again.AttemptID, again.Answer.Repeated = "w", true
			s.claim(40, 50, 2, 1)
		}, wrong},
		{"nothing was sent, so nothing was done", func(s *story) {
			s.call(history.Claim, 0, 0, nil).Failure = Unsent
			s.refused(history.Claim, 20, 30, "in-progress")
		}, wrong},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStory()
			test.tell(s)
			s.expect(t, test.rule)
		})
	}
}

// A request to the gateway is a claim, a run and an end of it.
func TestGatewayRequests(t *testing.T) {
	for _, test := range []struct {
		name string
		tell func(*story)
		rule string
	}{
		{"run once, and replayed", func(s *story) {
			s.work(s.request(0, 30, "d", false), 10, 1, upstream, history.Answered, "d")
			s.request(40, 50, "d", true)
		}, ""},
		{"run at once by two", func(s *story) {
			s.work(s.request(0, 30, "d", false), 10, 1, upstream, history.Answered, "d")
			s.work(s.request(0, 30, "e", false), 15, 2, upstream, history.Answered, "e")
		}, ruleLinearizable},
		{"answered with other bytes than the upstream's", func(s *story) {
			s.work(s.request(0, 30, "e", false), 10, 1, upstream, history.Answered, "d")
		}, ruleLinearizable},
		{"not answered, and recorded", func(s *story) {
			s.work(s.request(0, 0, "", false), 10, 1, upstream, history.Answered, "d")
			s.request(40, 50, "d", true)
		}, ""},
		{"not answered, and unknown", func(s *story) {
			s.policy = history.Block
			s.work(s.request(0, 0, "", false), 10, 1, upstream, history.Broken, "")
			s.request(40, 50, "", false).Answer = &history.Answer{Status: 409, Problem: "outcome-unknown"}
		}, ""},
		{"broken off, and run again where the policy is block", func(s *story) {
			s.policy = history.Block
			s.request(0, 20, "", false).Answer = &history.Answer{Status: 504, Problem: "outcome-unknown"}
			s.work(s.h.Calls[0], 10, 1, upstream, history.Broken, "")
			s.work(s.request(40, 60, "d", false), 50, 2, upstream, history.Answered, "d")
		}, ruleBlockOnce},
		{"broken off, and run again where it is retry", func(s *story) {
			s.request(0, 20, "", false).Answer = &history.Answer{Status: 504, Problem: "outcome-unknown"}
			s.work(s.h.Calls[0], 10, 1, upstream, history.Broken, "")
			s.work(s.request(40, 60, "d", false), 50, 2, upstream, history.Answered, "d")
			s.h.Effects[1].Attempt = 2
		}, ""},
		{"declined, and run again where the policy is block", func(s *story) {
			s.policy = history.Block
			s.request(0, 20, "", false).Answer = &history.Answer{Status: 503}
			s.work(s.h.Calls[0], 10, 1, upstream, history.Declined, "")
			s.work(s.request(40, 60, "d", false), 50, 2, upstream, history.Answered, "d")
		}, ""},
		{"reached the upstream twice", func(s *story) {
			c := s.request(0, 30, "d", false)
			s.work(c, 10, 1, upstream, history.Answered, "d")
			s.work(c, 12, 2, upstream, history.Answered, "e")
		}, ruleOneRun},
		{"answered without a run", func(s *story) {
			s.request(0, 30, "d", false)
		}, ruleOneRun},
		{"ran after its answer", func(s *story) {
			s.work(s.request(0, 30, "d", false), 40, 1, upstream, history.Answered, "d")
		}, ruleOneRun},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStory()
			test.tell(s)
			s.expect(t, test.rule)
		})
	}
}
