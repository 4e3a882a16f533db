package check

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/onced/onced/chaos/history"
)

// unanswered claims may each have been granted or not, in any order: more states
// and orders than can be gone through, with an answer at the end that none gives.
func manyUnanswered() *story {
	s := newStory()
	for i := range 60 {
		c := s.call(history.Claim, i, 0, nil)
		c.Lease = ms(1000 + i)
	}
	s.replay(2000, 2010, 1, "d")
	return s
}

// A search that comes to its bound of steps says so, always after as many.
func TestTheSearchEndsAfterItsSteps(t *testing.T) {
	s := manyUnanswered()
	o := Options{KeyTimeout: 24 * time.Hour, KeySteps: 10_000, MinCalls: 1}.withDefaults()
	k := byKey(&s.h)[0]
	m := model{o.Margin}
	if got := m.verdict(operations(k.calls, k.effects, o), o.bounds()); got != porcupine.Unknown {
		t.Fatalf("the search said %s, want %s", got, porcupine.Unknown)
	}
	v := Judge(t.Context(), &s.h, o)
	if v.Undecided != 1 || v.Outcome == Valid {
		t.Errorf("%d keys are undecided and the outcome is %s, want 1 and not valid", v.Undecided, v.Outcome)
	}
}

// What a bound does not cut short is judged as without one.
func TestStepsThatSufficeChangeNothing(t *testing.T) {
	s := newStory()
	s.claim(0, 10, 1, 1)
	s.complete(20, 30, 1, "d")
	s.replay(40, 50, 1, "d")
	o := Options{KeySteps: 10_000, MinCalls: 1}.withDefaults()
	k := byKey(&s.h)[0]
	if got := (model{o.Margin}).verdict(operations(k.calls, k.effects, o), o.bounds()); got != porcupine.Ok {
		t.Errorf("the search said %s, want %s", got, porcupine.Ok)
	}
}
