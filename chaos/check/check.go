// Package check judges a history: each key against a model of what onced
// promises, and the whole of it by rules that name what went wrong.
//
// It believes the history alone, and knows nothing of how the service is made.
package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onced/onced/chaos/history"
)

// Options bound the judgement. The zero value of a field takes the default that
// is named with it.
type Options struct {
	// Margin is how far the clocks of a majority may be apart. Default 200 ms.
	Margin history.Nano
	// KeyTimeout bounds the search on one key. Default 20 s.
	KeyTimeout time.Duration
	// KeySteps bounds it too, by how often it may ask the model and compare its
	// states: then the verdict follows from the history alone. Default: no bound.
	KeySteps int
	// MinCalls is how few answered calls prove nothing. Default 500.
	MinCalls int
}

func (o Options) withDefaults() Options {
	o.Margin = cmp.Or(o.Margin, history.Span(200*time.Millisecond))
	o.KeyTimeout = cmp.Or(o.KeyTimeout, 20*time.Second)
	o.MinCalls = cmp.Or(o.MinCalls, 500)
	return o
}

// Outcome is the verdict on a history.
type Outcome string

// Inconclusive says that nothing wrong was found, and that not enough was seen
// to say that all is well.
const (
	Valid        Outcome = "valid"
	Invalid      Outcome = "INVALID"
	Inconclusive Outcome = "inconclusive"
)

// maxFindings is how many findings of a rule are kept; all are counted.
const maxFindings = 20

// Finding is one thing that is wrong, with the shortest part of the history
// that shows it.
type Finding struct {
	Rule    string
	Key     history.Key // zero where it is of no key
	What    string
	Calls   []*history.Call
	Effects []*history.Effect
}

// Rule is one rule, and how much it was applied to.
type Rule struct {
	Name, Says string
	// Examined is how many calls, effects, fences or hashes it looked at: a
	// rule that saw none proved nothing.
	Examined int
	Found    int
}

// Verdict is the judgement of a history.
type Verdict struct {
	Outcome  Outcome
	Reasons  []string // why it is inconclusive
	Findings []Finding
	Rules    []Rule
	Keys     int // how many were checked
	// Undecided is how many of them the search was given up on.
	Undecided int
	Calls     Counts
	// Availability is how long the clients were without a success.
	Availability Availability
	Took         time.Duration
}

// Counts says what calls came to.
type Counts struct {
	All, Answered, Unanswered int
	// Unsent are those of the unanswered of which nothing was sent.
	Unsent int
	// Unavailable were answered that the cluster was not available in time.
	Unavailable int
}

// judgement is a Verdict in the making.
type judgement struct {
	Options
	h         *history.History
	keys      []*keyed
	byID      map[uint64]*history.Call
	examined  map[string]int
	found     map[string]int
	findings  []Finding
	undecided int // keys
}

// Judge judges a history. It ends early, and inconclusive, if ctx does.
func Judge(ctx context.Context, h *history.History, o Options) *Verdict {
	began := time.Now()
	j := &judgement{
		Options: o.withDefaults(), h: h, keys: byKey(h), byID: map[uint64]*history.Call{},
		examined: map[string]int{}, found: map[string]int{},
	}
	for _, c := range h.Calls {
		j.byID[c.ID] = c
	}
	j.effects()
	for _, k := range j.keys {
		j.blockOnce(k)
		j.sameBytes(k)
		j.notEarly(k)
		j.notLost(k)
		j.localReads(k)
	}
	j.fences()
	j.namespaces()
	j.resources()
	j.hashes()
	j.linearizable(ctx)
	v := &Verdict{Findings: j.findings, Keys: len(j.keys), Undecided: j.undecided, Availability: availability(h)}
	for _, r := range rules {
		v.Rules = append(v.Rules, Rule{r.name, r.says, j.examined[r.name], j.found[r.name]})
	}
	for _, c := range h.Calls {
		v.Calls.count(c)
	}
	v.Reasons = j.doubts(ctx, v)
	switch {
	case len(v.Findings) > 0:
		v.Outcome = Invalid
	case len(v.Reasons) > 0:
		v.Outcome = Inconclusive
	default:
		v.Outcome = Valid
	}
	v.Took = time.Since(began)
	return v
}

func (n *Counts) count(c *history.Call) {
	n.All++
	switch {
	case c.Answer == nil:
		n.Unanswered++
		if c.Failure == Unsent {
			n.Unsent++
		}
	case c.Is("unavailable"):
		n.Unavailable++
		n.Answered++
	default:
		n.Answered++
	}
}

func (j *judgement) find(rule string, key history.Key, what string, calls []*history.Call, effects []*history.Effect) {
	j.found[rule]++
	if j.found[rule] > maxFindings {
		return
	}
	j.findings = append(j.findings, Finding{rule, key, what, calls, effects})
}

// doubts is why a history without a finding proves nothing.
func (j *judgement) doubts(ctx context.Context, v *Verdict) (why []string) {
	doubt := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if j.h.End == nil {
		doubt("the history is unfinished")
	} else {
		why = append(why, j.h.End.Failures...)
	}
	if v.Calls.Answered < j.MinCalls {
		doubt("only %d calls were answered, fewer than %d", v.Calls.Answered, j.MinCalls)
	}
	if ctx.Err() != nil {
		doubt("the check was broken off")
	}
	if j.undecided > 0 {
		doubt("the check of %d keys took too long", j.undecided)
	}
	for _, kind := range j.h.Run.Faults {
		if !slices.ContainsFunc(j.h.Faults, func(f *history.Fault) bool {
			return f.Evidence != "" && slices.Contains(strings.Split(f.Kind, "+"), kind)
		}) {
			doubt("nothing shows that the fault %s bit", kind)
		}
	}
	for _, node := range j.h.Run.Nodes {
		if c := lastCall(j.h.Calls, node); c == nil {
			doubt("nothing was read back from %s", node)
		} else if c.Answer == nil || c.Answer.Status >= 500 {
			doubt("the last call to %s failed", node)
		}
	}
	if !j.comparable() {
		doubt("the nodes never held as much as each other, so their state could not be compared")
	}
	return why
}

// lastCall returns the last call of the read-back from a node.
func lastCall(calls []*history.Call, node string) (last *history.Call) {
	for _, c := range calls {
		if c.Final && c.Node == node && (last == nil || c.Begin > last.Begin) {
			last = c
		}
	}
	return last
}
