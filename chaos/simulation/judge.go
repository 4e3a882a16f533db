package simulation

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// early is how much sooner than its time, in true time, a thing may end: by the
// skew of honest clocks, and by as much as the readings of the others' clocks
// were late when it began.
const early = 2*honest + mostLate + 20*time.Millisecond

// judge holds the calls against what is promised.
func (w *world) judge() {
	if len(w.violations) > 0 {
		return // one is enough, and the run may have been cut short
	}
	byKey := map[string][]*call{}
	var keys []string
	for _, c := range w.calls {
		if byKey[c.key] == nil {
			keys = append(keys, c.key)
		}
		byKey[c.key] = append(byKey[c.key], c)
	}
	slices.Sort(keys)
	owners := map[string]string{}
	for _, key := range keys {
		calls := byKey[key]
		slices.SortStableFunc(calls, func(a, b *call) int { return cmp.Compare(a.begin, b.begin) })
		w.judgeStatus(calls)
		if key[0] == 'c' {
			w.judgeCreates(key, calls, owners)
			continue
		}
		w.judgeGrants(key, calls)
		w.judgeResponses(key, calls)
	}
	w.judgeFences()
}

// problems are those that each verb may be answered with.
var problems = map[string]string{
	"create":   "unavailable key-reused duplicate-resource",
	"claim":    "unavailable key-reused in-progress outcome-unknown",
	"renew":    "unavailable stale-fence",
	"complete": "unavailable stale-fence",
	"release":  "unavailable stale-fence",
	"fail":     "unavailable stale-fence",
	"get":      "unavailable key-unknown",
	"local":    "key-unknown",
}

func (w *world) judgeStatus(calls []*call) {
	for _, c := range calls {
		if c.is("internal") && w.rotten[c.node] {
			continue // it has found out, and is about to exit
		}
		if c.answer != nil && c.answer.status/100 != 2 && !slices.Contains(strings.Fields(problems[c.verb]), c.answer.problem) {
			w.violate("an answer that there is none of: %v: %s", c, c.answer.body)
		}
	}
}

// judgeCreates: one response for a key, of one payload, and one resource for a
// unique value.
func (w *world) judgeCreates(key string, calls []*call, owners map[string]string) {
	var first, recorded *call // created, or recorded as a duplicate
	for _, c := range calls {
		switch {
		case c.ok() && first == nil:
			first = c
		case c.is("duplicate-resource") && recorded == nil:
			recorded = c
		case c.ok() && (string(c.answer.body) != string(first.answer.body)):
			w.violate("two responses for one key: %v; %v", first, c)
		}
		if c.ok() && !strings.Contains(string(c.answer.body), `"`+key+c.variant+`"`) {
			w.violate("the response of another payload: %v", c)
		}
	}
	if first == nil {
		return
	}
	if recorded != nil && recorded.variant == first.variant {
		w.violate("a key was answered both ways: %v; %v", first, recorded)
	}
	var resource struct {
		ID   string `json:"id"`
		Data struct {
			Email string `json:"email"`
		} `json:"data"`
	}
	if err := json.Unmarshal(first.answer.body, &resource); err != nil {
		w.violate("an answer is not JSON: %v", first)
		return
	}
	if owner, taken := owners[resource.Data.Email]; taken && owner != resource.ID {
		w.violate("%s is in two resources, %s and %s", resource.Data.Email, owner, resource.ID)
	}
	owners[resource.Data.Email] = resource.ID
	for _, c := range calls {
		if c.variant == first.variant && c.is("key-reused") {
			w.violate("the payload of the record was called another: %v", c)
		}
	}
}

// granted is a claim that was granted, with what its holder did about it.
type granted struct {
	*call
	lease time.Duration // until when it stands at least
	ended time.Duration // when its holder may have ended it first; never: it did not
	kept  bool          // by fail: the record stays
}

const never = time.Duration(1<<63 - 1)

func grants(calls []*call) (all []*granted) {
	byFence := map[uint64]*granted{}
	for _, c := range calls {
		if c.verb == "claim" && c.ok() && c.answer.status == 201 {
			g := byFence[c.record.Fence]
			if g == nil {
				g = &granted{call: c, ended: never}
				byFence[c.record.Fence] = g
				all = append(all, g)
			}
			g.lease = max(g.lease, asked(calls, c)+c.lease)
		}
	}
	for _, c := range calls {
		g := byFence[c.fence]
		if g == nil {
			continue
		}
		switch {
		case c.verb == "renew" && c.ok():
			g.lease = max(g.lease, c.begin+c.lease)
		case c.verb == "fail" && c.begin < g.ended:
			g.ended, g.kept = c.begin, true
		case (c.verb == "complete" || c.verb == "release") && c.begin < g.ended:
			g.ended, g.kept = c.begin, false
		case c.verb == "complete" || c.verb == "release":
			g.kept = false
		}
	}
	slices.SortFunc(all, func(a, b *granted) int { return cmp.Compare(a.record.Fence, b.record.Fence) })
	return all
}

// asked is when the claim that c was answered may have been made. An answer that
// repeats a grant makes it no longer: it may have been for the first of the
// calls of that attempt, which was not answered.
func asked(calls []*call, c *call) time.Duration {
	first := c.begin
	for _, other := range calls {
		if c.record.Repeated && other.verb == "claim" && other.attempt == c.attempt {
			first = min(first, other.begin)
		}
	}
	return first
}

// judgeGrants: no two hold a key at once, and where the policy is block none
// holds it after another, until that is over.
func (w *world) judgeGrants(key string, calls []*call) {
	all := grants(calls)
	for _, c := range calls {
		if c.verb == "claim" && c.ok() && c.answer.status == 201 && !c.record.Repeated {
			for _, g := range all {
				if g.record.Fence == c.record.Fence && g.call != c && !g.record.Repeated && (c.attempt == "" || c.attempt != g.attempt) {
					w.violate("one fence for two: %v; %v", g.call, c)
				}
			}
		}
	}
	for i, g := range all {
		if i+1 == len(all) {
			break
		}
		next := all[i+1]
		if g.ended < next.end {
			continue // its holder ended it, or tried to
		}
		tooSoon, blocked := next.end < g.lease-early, g.block && next.end < g.lease+g.ttl-early
		switch {
		case (tooSoon || blocked && g.ttl < longTTL) && w.timeMayStandStill(span{g.begin, next.end}):
			w.spared++
		case tooSoon:
			w.violate("%s was granted again before its lease ended at %.6f: %v; %v", key, g.lease.Seconds(), g.call, next.call)
		case blocked:
			w.violate("%s was granted again, though a claim that lapses blocks it: %v; %v", key, g.call, next.call)
		}
	}
}

// judgeResponses: what was acknowledged, or seen, is there until its time, the
// same at every node.
func (w *world) judgeResponses(key string, calls []*call) {
	sent := map[string]*call{} // by body: the first that may have recorded it
	for _, c := range calls {
		if c.verb == "complete" && sent[c.sent] == nil {
			sent[c.sent] = c
		}
	}
	type seen struct {
		body       string
		sent       time.Duration
		from, till time.Duration
		short      bool // it is to end within the run
		call       *call
	}
	var known []seen
	for _, c := range calls {
		if !c.ok() || c.record.Response == nil {
			continue
		}
		body := c.record.Response.Body
		by := sent[body]
		if by == nil || by.begin > c.end || by.fence != c.record.Fence {
			w.violate("a response that nobody sent: %v", c)
			continue
		}
		known = append(known, seen{body, by.begin, c.end, by.begin + by.ttl - early, by.ttl < longTTL, c})
	}
	slices.SortStableFunc(known, func(a, b seen) int { return cmp.Compare(a.from, b.from) })
	for _, c := range calls {
		for _, k := range known {
			if k.from > c.begin {
				break
			}
			if c.end >= k.till || c.agrees(k.body, k.call.record.Fence) {
				continue
			}
			if k.short && w.timeMayStandStill(span{k.sent, c.end}) {
				w.spared++
			} else {
				w.violate("%s was completed, and that was lost or changed: %v; %v", key, k.call, c)
			}
			break
		}
	}
}

// agrees tells whether an answer is one that a key may give whose record is
// completed with body under fence.
func (c *call) agrees(body string, fence uint64) bool {
	if c.answer == nil || c.is("unavailable") || c.is("internal") {
		return true
	}
	same := c.record.Response != nil && c.record.Response.Body == body && c.record.Fence == fence
	switch c.verb {
	case "claim":
		return same || c.is("key-reused")
	case "get":
		return same
	case "local":
		return true // this node may not have come so far
	case "complete":
		return same && c.sent == body || c.is("stale-fence") && (c.sent != body || c.fence != fence)
	case "release":
		return c.answer.status == 204 || c.is("stale-fence")
	}
	return c.is("stale-fence")
}

// judgeFences: a fence that is granted after another has been is higher.
func (w *world) judgeFences() {
	var all []*call
	for _, c := range w.calls {
		if c.verb == "claim" && c.ok() && c.answer.status == 201 && !c.record.Repeated {
			all = append(all, c)
		}
	}
	byEnd := slices.SortedStableFunc(slices.Values(all), func(a, b *call) int { return cmp.Compare(a.end, b.end) })
	slices.SortStableFunc(all, func(a, b *call) int { return cmp.Compare(a.begin, b.begin) })
	var highest *call
	i := 0
	for _, c := range all {
		for ; i < len(byEnd) && byEnd[i].end < c.begin; i++ {
			if highest == nil || byEnd[i].record.Fence > highest.record.Fence {
				highest = byEnd[i]
			}
		}
		if highest != nil && c.record.Fence <= highest.record.Fence {
			w.violate("a fence went back: %v; %v", highest, c)
		}
	}
}
