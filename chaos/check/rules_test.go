package check

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/onced/onced/chaos/history"
)

func TestRules(t *testing.T) {
	other := history.Key{Namespace: "tenant", Key: "k"}
	for _, test := range []struct {
		name string
		tell func(*story)
		rule string
	}{
		{"a worker works without a claim", func(s *story) {
			c := s.refused(history.Claim, 0, 10, "unavailable")
			s.work(c, 20, 1, "worker", history.Answered, "")
		}, ruleOneRun},
		{"one claim is worked on twice", func(s *story) {
			c := s.claim(0, 10, 1, 1)
			s.work(c, 20, 1, "worker", history.Answered, "")
			s.work(c, 30, 1, "worker", history.Answered, "")
		}, ruleOneRun},
		{"a blocked key runs again once an operator lets it", func(s *story) {
			s.policy = history.Block
			s.work(s.claim(0, 10, 1, 1), 20, 1, "worker", history.Answered, "")
			s.write(history.Resolve, 1500, 1510, 1).Retry = true
			s.work(s.claim(1520, 1530, 2, 1), 1540, 2, "worker", history.Answered, "")
		}, ""},
		{"a request that was long on its way runs after the one that an operator let in", func(s *story) {
			s.policy = history.Block
			first := s.claim(0, 10, 1, 1)
			s.write(history.Resolve, 1500, 1510, 1).Retry = true
			s.work(s.claim(1520, 1530, 2, 1), 1540, 2, "worker", history.Answered, "")
			s.work(first, 1600, 1, "worker", history.Answered, "")
		}, ""},
		{"it runs after one that nobody let in", func(s *story) {
			s.policy = history.Block
			first := s.claim(0, 10, 1, 1)
			s.work(s.claim(1520, 1530, 2, 1), 1540, 2, "worker", history.Answered, "")
			s.work(first, 1600, 1, "worker", history.Answered, "")
		}, ruleBlockOnce},
		{"fences of two keys in the order of time", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.at = other
			s.claim(20, 30, 2, 1)
		}, ""},
		{"fences of two keys against it", func(s *story) {
			s.claim(0, 10, 2, 1)
			s.at = other
			s.claim(20, 30, 1, 1)
		}, ruleFences},
		{"fences of two keys granted at once", func(s *story) {
			s.claim(0, 25, 2, 1)
			s.at = other
			s.claim(20, 30, 1, 1)
		}, ""},
		{"one fence for two keys", func(s *story) {
			s.claim(0, 25, 2, 1)
			s.at = other
			s.claim(20, 30, 2, 1)
		}, ruleFences},
		{"the response of another namespace", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d").Answer.Owner = "tenant/k"
		}, ruleNamespaces},
		{"the response that was sent for another key", func(s *story) {
			s.claim(0, 10, 1, 1)
			s.complete(20, 30, 1, "d")
			s.at = other
			s.create(40, 50, "d", true)
		}, ruleNamespaces},
		{"an acknowledged response read back", func(s *story) {
			s.create(0, 10, "d", false)
			s.call(history.GetLocal, 100, 110, record("completed", 1, "d")).Final = true
		}, ""},
		{"an acknowledged response not read back", func(s *story) {
			s.create(0, 10, "d", false)
			s.refused(history.GetLocal, 100, 110, "key-unknown").Final = true
		}, ruleNotLost},
		{"an old state of a node's own", func(s *story) {
			s.create(0, 10, "d", false)
			s.refused(history.GetLocal, 100, 110, "key-unknown")
		}, ""},
		{"a node's own state of before the retention ended", func(s *story) {
			s.create(0, 10, "d", false)
			s.create(10_100, 10_110, "e", false)
			s.call(history.GetLocal, 10_120, 10_130, record("completed", 1, "d"))
		}, ""},
		{"the same once every node has come so far", func(s *story) {
			s.create(0, 10, "d", false)
			s.create(10_100, 10_110, "e", false)
			s.call(history.GetLocal, 10_120, 10_130, record("completed", 1, "d")).Final = true
		}, ruleSameBytes},
		{"a node's own state of another response within the retention", func(s *story) {
			s.create(0, 10, "d", false)
			s.call(history.GetLocal, 100, 110, record("completed", 1, "e"))
			s.create(10_100, 10_110, "e", false)
		}, ruleSameBytes},
		{"a state that never was", func(s *story) {
			s.create(0, 10, "d", false)
			s.call(history.GetLocal, 100, 110, record("completed", 1, "e"))
		}, ruleLocalReads},
		{"a resource is there", func(s *story) {
			s.create(0, 10, "d", false)
			s.call(history.Resource, 20, 30, &history.Answer{Status: 200, Digest: "d"}).Resource = "r-d"
		}, ""},
		{"a resource is gone", func(s *story) {
			s.create(0, 10, "d", false)
			s.refused(history.Resource, 20, 30, "not-found").Resource = "r-d"
		}, ruleResources},
		{"a unique value twice", func(s *story) {
			s.create(0, 10, "d", false).Unique = "a@example.com"
			s.at = history.Key{Namespace: "default", Key: "other"}
			s.create(20, 30, "e", false).Unique = "a@example.com"
		}, ruleUnique},
		{"nodes with different state", func(s *story) {
			s.h.States = []*history.State{{Node: "n1", Index: 7, Hash: "a"}, {Node: "n2", Index: 7, Hash: "b"}}
		}, ruleHashes},
		{"nodes that have applied more and less", func(s *story) {
			s.h.States = []*history.State{{Node: "n1", Index: 7, Hash: "a"}, {Node: "n2", Index: 8, Hash: "b"}}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStory()
			test.tell(s)
			s.expect(t, test.rule)
		})
	}
}

// What was found is shown with no more than shows it.
func TestFindingIsShort(t *testing.T) {
	s := newStory()
	for i := range 20 {
		s.refused(history.Get, 10*i, 10*i+5, "key-unknown")
	}
	s.claim(1000, 1010, 1, 1)
	for i := range 20 {
		s.get(1020+10*i, 1025+10*i, record("claimed", 1, ""))
	}
	s.complete(1500, 1510, 1, "d")
	s.get(1520, 1530, record("claimed", 1, ""))
	s.claim(9000, 9010, 2, 1)
	v := Judge(t.Context(), &s.h, Options{MinCalls: 1})
	i := slices.IndexFunc(v.Findings, func(f Finding) bool { return f.Rule == ruleLinearizable })
	if i < 0 {
		t.Fatalf("nothing was found: %+v", v)
	}
	if n := len(v.Findings[i].Calls); n != 3 {
		for _, c := range v.Findings[i].Calls {
			t.Log(c.Line())
		}
		t.Errorf("the finding has %d calls; claim, complete and one read show it", n)
	}
}

// A history without a finding proves nothing if too little was seen.
func TestInconclusive(t *testing.T) {
	whole := func() *history.History {
		s := newStory()
		s.create(0, 10, "d", false)
		s.create(20, 30, "d", true).Final = true
		return &history.History{
			Run:    history.Run{Nodes: []string{"n1"}, Faults: []string{"kill"}},
			Calls:  s.h.Calls,
			Faults: []*history.Fault{{Kind: "kill", Evidence: "it died"}},
			End:    &history.End{LoadEnded: ms(40)},
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, test := range []struct {
		name   string
		change func(*history.History)
		ctx    context.Context
		why    string // "": it is valid
	}{
		{"all was seen", func(*history.History) {}, t.Context(), ""},
		{"it is unfinished", func(h *history.History) { h.End = nil }, t.Context(), "unfinished"},
		{"something failed", func(h *history.History) { h.End.Failures = []string{"n1 fell over"} }, t.Context(), "n1 fell over"},
		{"too few calls", func(h *history.History) { h.Calls[0].Answer, h.Calls[0].End = nil, history.Never }, t.Context(), "fewer than 2"},
		{"a fault without evidence", func(h *history.History) { h.Faults[0].Evidence = "" }, t.Context(), "nothing shows that the fault kill bit"},
		{"a fault that was not made", func(h *history.History) { h.Faults = nil }, t.Context(), "nothing shows that the fault kill bit"},
		{"the last call failed", func(h *history.History) {
			h.Calls[1].Answer = &history.Answer{Status: 503, Problem: "unavailable"}
		}, t.Context(), "the last call to n1 failed"},
		{"nothing was read back", func(h *history.History) { h.Calls[1].Final = false }, t.Context(), "nothing was read back from n1"},
		{"states that cannot be compared", func(h *history.History) { h.Run.Nodes = []string{"n1", "n2"} }, t.Context(), "could not be compared"},
		{"the check was broken off", func(*history.History) {}, ended, "broken off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := whole()
			test.change(h)
			v := Judge(test.ctx, h, Options{MinCalls: 2})
			want := Valid
			if test.why != "" {
				want = Inconclusive
			}
			if why := strings.Join(v.Reasons, "; "); v.Outcome != want || !strings.Contains(why, test.why) {
				t.Errorf("it is %s because of %q, and should be %s because of %q", v.Outcome, why, want, test.why)
			}
		})
	}
}

func TestAvailability(t *testing.T) {
	s := newStory()
	s.create(0, 100, "d", false)
	s.refused(history.Get, 200, 300, "unavailable") // no success
	s.refused(history.Get, 300, 1500, "in-progress")
	s.create(1500, 1600, "d", true)
	s.create(9000, 9100, "d", true).Final = true // not of the load
	s.h.Faults = []*history.Fault{{Kind: "late", Begin: ms(1550), End: ms(1580)}, {Kind: "pause", Begin: ms(150), End: ms(400)}}
	s.h.End = &history.End{LoadEnded: ms(2000)}
	a := availability(&s.h)
	if want := (Gap{ms(100), ms(1500)}); a.Longest != want || a.PerFault[1] != want {
		t.Errorf("the longest time without a success is %v, and %v for the fault; want %v", a.Longest, a.PerFault[1], want)
	}
	if want := (Gap{ms(1600), ms(2000)}); a.PerFault[0] != want {
		t.Errorf("for a fault when all went well it is %v; want %v", a.PerFault[0], want)
	}
}
