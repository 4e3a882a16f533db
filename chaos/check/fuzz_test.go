package check

import (
	"bytes"
	"testing"
	"time"

	"github.com/onced/onced/chaos/history"
)

// Whatever a file says that reads as a history is judged, in bounded time; and
// what was judged once is judged the same again.
func FuzzJudge(f *testing.F) {
	s := newStory()
	s.work(s.request(0, 30, "d", false), 10, 1, upstream, history.Answered, "d")
	s.request(40, 50, "d", true)
	s.claim(60, 0, 2, 1)
	s.complete(70, 80, 2, "e")
	s.write(history.Forget, 90, 100, 2)
	s.get(110, 120, record("claimed", 3, ""))
	s.h.Run.Nodes = []string{"n1"}
	s.h.Faults = []*history.Fault{{Kind: "kill", Begin: ms(10), End: history.Never}}
	s.h.End = &history.End{LoadEnded: ms(100)}
	var file bytes.Buffer
	if err := history.Write(&file, &s.h); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := history.Read(bytes.NewReader(b))
		if err != nil || len(h.Calls) > 30 {
			return
		}
		o := Options{MinCalls: 1, KeyTimeout: 200 * time.Millisecond}
		v, again := Judge(t.Context(), h, o), Judge(t.Context(), h, o)
		undecided := len(v.Reasons) != len(again.Reasons) // by the time it took
		if v.Outcome != again.Outcome && !undecided {
			t.Errorf("it is %s, and then %s", v.Outcome, again.Outcome)
		}
		for _, found := range v.Findings {
			for _, c := range found.Calls {
				_ = c.Line()
			}
		}
	})
}
