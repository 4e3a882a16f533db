//go:build linux

package measure

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func TestAFigureIsOneThatWasMeasured(t *testing.T) {
	var ten []time.Duration
	for n := 10; n > 0; n-- {
		ten = append(ten, ms(n*100))
	}
	for name, test := range map[string]struct {
		times []time.Duration
		want  Figure
	}{
		"none":  {nil, Figure{}},
		"one":   {[]time.Duration{ms(7)}, Figure{1, Span(ms(7)), Span(ms(7)), Span(ms(7))}},
		"two":   {[]time.Duration{ms(9), ms(1)}, Figure{2, Span(ms(1)), Span(ms(9)), Span(ms(9))}},
		"three": {[]time.Duration{ms(3), ms(1), ms(2)}, Figure{3, Span(ms(2)), Span(ms(3)), Span(ms(3))}},
		"ten":   {ten, Figure{10, Span(ms(500)), Span(ms(900)), Span(ms(1000))}},
	} {
		if got := Sum(test.times); got != test.want {
			t.Errorf("%s: %+v, not %+v", name, got, test.want)
		}
	}
	if ten[0] != ms(1000) {
		t.Error("what was summed up was put in another order")
	}
}

func TestTheLongestGapIsOfSuccessesAndTouchesTheFault(t *testing.T) {
	calls := []call{
		{done: ms(4000)}, {done: ms(0)}, {done: ms(2000)}, {done: ms(2100)}, {done: ms(2900), failure: "status 503"}, {done: ms(3000)},
	}
	for name, test := range map[string]struct {
		w    window
		want time.Duration
	}{
		"a gap around the fault":                  {window{ms(500), ms(600)}, ms(2000)},
		"a failure ends no gap":                   {window{ms(2500), ms(2950)}, ms(900)},
		"one that begins in it":                   {window{ms(2050), ms(3500)}, ms(1000)},
		"one that ends as it begins":              {window{ms(2000), ms(2050)}, ms(2000)},
		"after the last success nothing is known": {window{ms(5000), ms(6000)}, 0},
	} {
		if got := longestGap(calls, test.w); got != test.want {
			t.Errorf("%s: %v, not %v", name, got, test.want)
		}
	}
	if got := longestGap(nil, window{0, ms(1)}); got != 0 {
		t.Errorf("no calls: %v", got)
	}
}

func TestFailuresAreCountedByWhatWasWrong(t *testing.T) {
	calls := []call{
		{done: ms(1), failure: "status 503"}, // before
		{done: ms(10)}, {done: ms(11), failure: "status 503"}, {done: ms(12), failure: "connection refused"}, {done: ms(20), failure: "status 503"},
		{done: ms(21), failure: "status 500"}, // after
	}
	made, f := failed(calls, window{ms(10), ms(20)})
	if want := (Failures{"status 503": 2, "connection refused": 1}); made != 4 || !reflect.DeepEqual(f, want) {
		t.Errorf("%d calls, %v", made, f)
	}
	if got, want := f.String(), "3 (2 status 503, 1 connection refused)"; got != want {
		t.Errorf("it reads %q, not %q", got, want)
	}
	if got := (Failures{}).String(); got != "0" {
		t.Errorf("none reads %q", got)
	}
	f.add(Failures{"status 503": 1, "no answer in time": 1})
	if f.Total() != 5 || f["status 503"] != 3 {
		t.Errorf("with two more it is %v", f)
	}
}

func TestATableHasColumns(t *testing.T) {
	var out bytes.Buffer
	if err := table(&out, []string{"fault", "worst"}, [][]string{{"kill-leader", "1.2s"}, {"x", "30ms"}}); err != nil {
		t.Fatal(err)
	}
	if want := "fault        worst\nkill-leader  1.2s\nx            30ms\n"; out.String() != want {
		t.Errorf("it is\n%s", &out)
	}
}

// timed is a result with nothing but a figure.
type timed struct {
	Result `json:"-"`
	Gap    Figure `json:"gap"`
}

func TestFiguresInJSONAreDurations(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, timed{Gap: Sum([]time.Duration{412*time.Millisecond + 300*time.Microsecond})}, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"median": "412ms"`) {
		t.Errorf("it is %s", &out)
	}
}

func TestTheVerdictOnPowerCuts(t *testing.T) {
	synced, control := Cuts{Cuts: 2, Acked: 50}, Cuts{Cuts: 1, Acked: 9, Lost: 3}
	lossy, blind := synced, control
	lossy.Lost, blind.Lost = 1, 0
	for name, test := range map[string]struct {
		p    PowerCuts
		want error
	}{
		"nothing lost, and it would be seen":  {PowerCuts{synced, control}, nil},
		"one lost":                            {PowerCuts{lossy, control}, ErrLost},
		"one lost, of the control none":       {PowerCuts{lossy, blind}, ErrLost},
		"nothing lost by the control either":  {PowerCuts{synced, blind}, ErrUnproven},
		"nothing was cut":                     {PowerCuts{Cuts{}, control}, ErrUnproven},
		"nothing was acknowledged to be lost": {PowerCuts{Cuts{Cuts: 3}, control}, ErrUnproven},
	} {
		if got := test.p.Verdict(); !errors.Is(got, test.want) {
			t.Errorf("%s: %v, not %v", name, got, test.want)
		}
		var out bytes.Buffer
		err := test.p.Print(&out)
		if test.want != nil && (err != nil || !strings.Contains(out.String(), test.want.Error())) {
			t.Errorf("%s: it prints, with %v,\n%s", name, err, &out)
		}
	}
}

func TestAnAnswerThatIsNotTheAcknowledgedOneIsLostOnce(t *testing.T) {
	p := &powered{lost: map[string]bool{}}
	for _, read := range []struct{ key, want, got string }{{"a", "1", "1"}, {"b", "1", "2"}, {"b", "1", "2"}, {"c", "1", ""}} {
		p.count(acked{read.key, read.want}, read.got, "n1")
	}
	if p.Reads != 4 || p.Lost != 2 || !strings.Contains(p.Example, `b: acknowledged "1", n1 answers "2"`) {
		t.Errorf("%+v", p.Cuts)
	}
}
