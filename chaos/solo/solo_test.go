package solo

import (
	"bytes"
	"testing"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
)

// A history of the real node is valid, every rule has something to look at, and
// its file reads back as it is.
func TestRealHistoryIsValid(t *testing.T) {
	var file bytes.Buffer
	h, err := Run(t.Context(), Config{Dir: t.TempDir(), Seed: 7, Duration: 4 * time.Second, To: &file})
	if err != nil {
		t.Fatal(err)
	}
	v := check.Judge(t.Context(), h, check.Options{MinCalls: 200})
	for _, f := range v.Findings {
		t.Errorf("%s %v: %s", f.Rule, f.Key, f.What)
		for _, c := range f.Calls {
			t.Log(c.Line())
		}
		for _, e := range f.Effects {
			t.Log(e.Line())
		}
	}
	if v.Outcome != check.Valid {
		t.Errorf("it is %s: %q", v.Outcome, v.Reasons)
	}
	for _, r := range v.Rules {
		t.Logf("%s looked at %d", r.Name, r.Examined)
		if r.Examined == 0 {
			t.Errorf("the rule %s looked at nothing", r.Name)
		}
	}
	t.Logf("%+v, %d keys, judged in %v", v.Calls, v.Keys, v.Took)
	read, err := history.Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	if again := check.Judge(t.Context(), read, check.Options{MinCalls: 200}); again.Outcome != v.Outcome || again.Calls != v.Calls {
		t.Errorf("read from its file it is %s with %+v, and was %s with %+v", again.Outcome, again.Calls, v.Outcome, v.Calls)
	}
}
