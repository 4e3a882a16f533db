package simulation

import (
	"testing"
	"time"
)

// A grant that is repeated to a client that sent its claim again stands no
// longer for it.
func TestARepeatedGrantStandsFromTheFirstCallOfTheAttempt(t *testing.T) {
	const s = time.Second
	granted := func(begin time.Duration, repeated bool) *call {
		return &call{
			verb: "claim", key: "k", attempt: "a", lease: 10 * s, begin: begin, end: begin + s,
			answer: &answer{status: 201}, record: record{Fence: 7, Repeated: repeated},
		}
	}
	unanswered := &call{verb: "claim", key: "k", attempt: "a", lease: 10 * s, begin: s, end: 2 * s}
	stranger := &call{verb: "claim", key: "k", attempt: "b", lease: 10 * s, begin: 0, end: 2 * s}
	for _, c := range []struct {
		name  string
		calls []*call
		until time.Duration
	}{
		{"answered at once", []*call{granted(3*s, false)}, 13 * s},
		{"answered by another node", []*call{unanswered, stranger, granted(3*s, true)}, 11 * s},
		{"answered anew", []*call{unanswered, granted(3*s, false)}, 13 * s},
		{"answered both ways", []*call{unanswered, granted(3*s, true), granted(4*s, false)}, 14 * s},
	} {
		all := grants(c.calls)
		if len(all) != 1 || all[0].lease != c.until {
			t.Errorf("%s: %d grants, the first until %v, want one until %v", c.name, len(all), all[0].lease, c.until)
		}
	}
}
