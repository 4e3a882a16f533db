package check

import (
	"slices"
	"time"

	"github.com/onced/onced/chaos/history"
)

// Availability is how long the clients of all nodes together were without a
// success: an answer of whatever kind that is no fault of the cluster.
type Availability struct {
	Longest Gap
	// PerFault has one for each fault of the history, in its order.
	PerFault []Gap
}

// Gap is a time without a success.
type Gap struct{ Begin, End history.Nano }

// Length is how long it was.
func (g Gap) Length() history.Nano { return g.End - g.Begin }

// aftermath is how long after its end a fault is still held to account.
const aftermath = history.Nano(3 * time.Second)

// Succeeded reports whether a call counts as a success.
func Succeeded(c *history.Call) bool {
	if c.Answer == nil || c.Is("unavailable") || c.Is("internal") || c.Is("overloaded") {
		return false
	}
	return c.Answer.Status < 500 || c.Kind == history.Gateway && c.Answer.Problem == ""
}

func availability(h *history.History) Availability {
	end := h.Run.Load
	if h.End != nil {
		end = h.End.LoadEnded
	}
	var moments []history.Nano
	for _, c := range h.Calls {
		if !c.Final && Succeeded(c) && c.End <= end {
			moments = append(moments, c.End)
		}
	}
	slices.Sort(moments)
	var gaps []Gap
	last := history.Nano(0)
	for _, at := range append(moments, end) {
		gaps = append(gaps, Gap{last, at})
		last = at
	}
	a := Availability{Longest: longest(gaps, 0, end)}
	for _, f := range h.Faults {
		a.PerFault = append(a.PerFault, longest(gaps, f.Begin, min(f.End, history.Never-aftermath)+aftermath))
	}
	return a
}

// longest returns the longest gap of which a part is between from and to.
func longest(gaps []Gap, from, to history.Nano) (g Gap) {
	for _, x := range gaps {
		if x.End >= from && x.Begin <= to && x.Length() > g.Length() {
			g = x
		}
	}
	return g
}
