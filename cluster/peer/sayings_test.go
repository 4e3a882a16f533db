package peer

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestSameThingIsSaidAgainAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSayings()
		for _, step := range []struct {
			wait time.Duration
			what string
			due  bool
		}{
			{0, "a", true}, {0, "a", false}, {0, "b", true},
			{sayAgain - 1, "a", false}, {1, "a", true}, {0, "a", false}, {0, "b", true},
		} {
			time.Sleep(step.wait)
			if got := s.due(step.what); got != step.due {
				t.Errorf("%v: due is %v", step, got)
			}
		}
	})
}

func TestSayingsThatAreRememberedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSayings()
		for i := range 2 * maxSayings {
			if got := s.due(fmt.Sprint(i)); got != (i < maxSayings) {
				t.Fatalf("saying %d: due is %v", i, got)
			}
		}
		time.Sleep(sayAgain)
		if !s.due("later") || len(s.last) != 1 {
			t.Errorf("%d sayings are remembered after their time", len(s.last))
		}
	})
}
