package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/onced/onced/chaos/history"
)

// The rules that are applied to the whole history. Each says by itself what
// went wrong, which the model does not.
const (
	ruleLinearizable = "linearizable"
	ruleOneRun       = "one-run-per-claim"
	ruleBlockOnce    = "block-runs-once"
	ruleSameBytes    = "same-bytes"
	ruleNotEarly     = "nothing-ends-early"
	ruleNotLost      = "nothing-lost"
	ruleLocalReads   = "local-reads"
	ruleFences       = "fences-grow"
	ruleNamespaces   = "namespaces"
	ruleResources    = "resources"
	ruleUnique       = "unique-fields"
	ruleHashes       = "equal-state"
)

var rules = []struct{ name, says string }{
	{ruleLinearizable, "the calls on each key have an order in which the model gives the same answers (calls)"},
	{ruleOneRun, "work is done at most once for each claim granted, and for none that was not (effects)"},
	{ruleBlockOnce, "where the policy is block, work is done once until the record ends, or an operator lets it run again (effects)"},
	{ruleSameBytes, "every answer for a key within its retention has the same bytes (answers)"},
	{ruleNotEarly, "no lease and no record ends before its time (answers that show that one ended)"},
	{ruleNotLost, "what was acknowledged is there at the end, on every node (answers read back)"},
	{ruleLocalReads, "a node's own state is one that the record was in (reads)"},
	{ruleFences, "a later claim, of whatever key, has a higher fence (grants)"},
	{ruleNamespaces, "no answer of one key or namespace is given for another (answers)"},
	{ruleResources, "what was created is there at the end, on every node (reads)"},
	{ruleUnique, "no two resources have the same unique value (resources)"},
	{ruleHashes, "nodes that applied as much hold the same (hashes)"},
}

// effects applies ruleOneRun.
func (j *judgement) effects() {
	type grant struct {
		history.Key
		fence uint64
	}
	byGrant := map[grant]*history.Effect{}
	byCall := map[uint64]*history.Effect{}
	for _, e := range j.h.Effects {
		j.examined[ruleOneRun]++
		c := j.byID[e.Call]
		at := grant{e.Of(), e.Fence}
		switch {
		case byGrant[at] != nil:
			j.find(ruleOneRun, e.Of(), fmt.Sprintf("the claim with fence %d ran twice", e.Fence), j.callsOf(byGrant[at], e), []*history.Effect{byGrant[at], e})
		case e.Where == upstream && byCall[e.Call] != nil:
			j.find(ruleOneRun, e.Of(), "one request reached the upstream twice", j.callsOf(e), []*history.Effect{byCall[e.Call], e})
		case c == nil || c.Of() != e.Of() || c.Kind != history.Claim && c.Kind != history.Gateway:
			j.find(ruleOneRun, e.Of(), "work was done that no call asked for", j.callsOf(e), []*history.Effect{e})
		case c.Kind == history.Claim && (c.Answer == nil || c.Answer.Fence != e.Fence):
			j.find(ruleOneRun, e.Of(), "work was done without a claim granted", j.callsOf(e), []*history.Effect{e})
		case c.End < e.Begin && c.Kind == history.Gateway:
			j.find(ruleOneRun, e.Of(), "work was done after its request was answered", j.callsOf(e), []*history.Effect{e})
		}
		byGrant[at], byCall[e.Call] = e, e
	}
	for _, c := range j.h.Calls {
		if c.Kind != history.Gateway || c.Answer == nil || c.Answer.Problem != "" || c.Answer.Replayed {
			continue
		}
		j.examined[ruleOneRun]++
		if e := byCall[c.ID]; e == nil || e.Where != upstream {
			j.find(ruleOneRun, c.Of(), "a request was answered as if it had run, and did not reach the upstream", []*history.Call{c}, nil)
		}
	}
}

func (j *judgement) callsOf(effects ...*history.Effect) (calls []*history.Call) {
	for _, e := range effects {
		if c := j.byID[e.Call]; c != nil && !slices.Contains(calls, c) {
			calls = append(calls, c)
		}
	}
	return calls
}

// blockOnce applies ruleBlockOnce: between two grants that were run something must
// have let the second in. The first may run later than the second: its request
// may have been on its way all the time.
func (j *judgement) blockOnce(k *keyed) {
	effects := slices.Clone(k.effects)
	slices.SortStableFunc(effects, func(a, b *history.Effect) int { return cmp.Compare(a.Fence, b.Fence) })
	for i, second := range effects {
		if second.Policy != history.Block {
			continue
		}
		j.examined[ruleBlockOnce]++
		if i == 0 {
			continue
		}
		first := effects[i-1]
		if first.Policy != history.Block || first.Fence == second.Fence || first.Result == history.Declined {
			continue
		}
		ttl, granted := history.Nano(0), first.Begin
		if c := j.byID[first.Call]; c != nil {
			ttl, granted = c.TTL, min(granted, c.Begin)
		}
		if second.Begin+j.Margin >= first.Begin+ttl || letRunAgain(k, granted, second.Begin) {
			continue
		}
		j.find(ruleBlockOnce, k.key, "it ran twice, and nothing let it run again", j.callsOf(first, second), []*history.Effect{first, second})
	}
}

// letRunAgain reports whether a call that gives the key back may have been done
// between two moments.
func letRunAgain(k *keyed, from, to history.Nano) bool {
	return slices.ContainsFunc(k.calls, func(c *history.Call) bool {
		gives := c.Kind == history.Forget || c.Kind == history.Release || c.Kind == history.Resolve && c.Retry
		return gives && (c.OK() || c.Ambiguous()) && c.Begin <= to && c.End >= from
	})
}

// sighting is a completed response that a client saw for the key, or the call
// that made it.
type sighting struct {
	call   *history.Call
	digest string
}

func sightings(k *keyed) (all []sighting) {
	for _, c := range k.calls {
		if c.Answer == nil || c.Answer.Digest == "" || c.Kind == history.Resource {
			continue
		}
		all = append(all, sighting{c, c.Answer.Digest})
	}
	return all
}

// ttlOf is the shortest retention that a call on the key asked for.
func ttlOf(k *keyed) history.Nano {
	ttl := history.Never
	for _, c := range k.calls {
		if c.TTL > 0 {
			ttl = min(ttl, c.TTL)
		}
	}
	return ttl
}

// ended is when what began at a moment ends after a span, which may be Never.
func ended(from, span history.Nano) history.Nano {
	if span >= history.Never-from {
		return history.Never
	}
	return from + span
}

// madeAt is the earliest moment at which the response of that digest may have
// been recorded.
func madeAt(k *keyed, digest string) history.Nano {
	made := history.Never
	for _, c := range k.calls {
		first := c.Kind == history.Create && c.Answer != nil && !c.Answer.Replayed && c.Answer.Digest == digest
		if first || c.Sent == digest {
			made = min(made, c.Begin)
		}
	}
	for _, e := range k.effects {
		if e.Digest == digest {
			made = min(made, e.Begin)
		}
	}
	if made == history.Never { // by a call that was not answered
		made = k.calls[0].Begin
	}
	return made
}

// forgotten reports whether an operator may have removed the record, or let
// another run, between two moments.
func forgotten(k *keyed, from, to history.Nano) bool {
	return slices.ContainsFunc(k.calls, func(c *history.Call) bool {
		return c.Kind == history.Forget && (c.OK() || c.Ambiguous()) && c.Begin <= to && c.End >= from
	})
}

// sameBytes applies ruleSameBytes: two responses of one key are apart by the
// retention, or by an operator.
func (j *judgement) sameBytes(k *keyed) {
	all, ttl := sightings(k), ttlOf(k)
	j.examined[ruleSameBytes] += len(all)
	first := map[string]sighting{}
	for _, s := range all {
		if f, ok := first[s.digest]; !ok || s.call.Begin < f.call.Begin {
			first[s.digest] = s
		}
	}
	for _, s := range all {
		for digest, f := range first {
			if digest == s.digest || f.call.Begin > s.call.Begin {
				continue
			}
			made := madeAt(k, digest)
			if made > s.call.End || s.call.End+j.Margin >= ended(made, ttl) || forgotten(k, made, s.call.End) {
				continue // of the later of two answers the call may have begun first
			}
			if s.call.Kind == history.GetLocal && !s.call.Final && madeAt(k, s.digest) < made {
				continue // its node has not come so far
			}
			j.find(ruleSameBytes, k.key, "two answers differ within the retention", []*history.Call{f.call, s.call}, nil)
			return
		}
	}
}

// notEarly applies ruleNotEarly.
func (j *judgement) notEarly(k *keyed) {
	for i, c := range k.calls {
		freed := c.Is("key-unknown") || c.Answer != nil && !c.Answer.Repeated && !c.Answer.Replayed && c.Answer.Problem == "" &&
			(c.Kind == history.Create || c.Kind == history.Claim && c.Answer.Status == 201)
		if !freed || c.Kind == history.GetLocal {
			continue
		}
		j.examined[ruleNotEarly]++
		for _, before := range k.calls[:i] {
			if before.End < c.Begin && j.standsAt(k, before, c) {
				break
			}
		}
	}
}

// standsAt reports, as a finding, that what before was answered must still have
// stood when c was answered as if it had not.
func (j *judgement) standsAt(k *keyed, before, c *history.Call) bool {
	if before.Answer == nil || before.Answer.Problem != "" && before.Answer.Problem != "duplicate-resource" {
		return false
	}
	a, ttl := before.Answer, ttlOf(k)
	completed := a.Digest != "" && before.Kind != history.Resource && (before.Kind != history.Gateway || before.Answer.Replayed)
	made := madeAt(k, a.Digest)
	switch {
	case completed && c.End+j.Margin < ended(made, ttl) && !forgotten(k, made, c.End):
		j.find(ruleNotEarly, k.key, fmt.Sprintf("a record ended within %v of a retention of %v", c.End-made, ttl), []*history.Call{before, c}, nil)
		return true
	case before.Kind == history.Claim && a.Status == 201 && !a.Repeated && !c.Is("key-unknown") &&
		c.End+j.Margin < before.Begin+before.Lease && !givenBack(k, before, c):
		j.find(ruleNotEarly, k.key, fmt.Sprintf("a lease of %v ended within %v", before.Lease, c.End-before.Begin), []*history.Call{before, c}, nil)
		return true
	}
	return false
}

// givenBack reports whether anything may have ended the claim that granted was
// given, before c.
func givenBack(k *keyed, granted, c *history.Call) bool {
	return slices.ContainsFunc(k.calls, func(x *history.Call) bool {
		switch x.Kind {
		case history.Release, history.Fail, history.Complete, history.Resolve, history.Forget:
			return (x.OK() || x.Ambiguous()) && x.Begin <= c.End && x.End >= granted.Begin
		}
		return false
	})
}

// notLost applies ruleNotLost: of what was acknowledged, all that cannot have
// ended is read back from every node.
func (j *judgement) notLost(k *keyed) {
	last, ttl := sighting{}, ttlOf(k)
	for _, s := range sightings(k) {
		if !s.call.Final && (last.call == nil || s.call.End > last.call.End) {
			last = s
		}
	}
	if last.call == nil {
		return
	}
	made := madeAt(k, last.digest)
	for _, c := range k.calls {
		if !c.Final || c.Answer == nil || c.Kind == history.Resource || c.Ambiguous() || c.Is("key-reused") || c.End+j.Margin >= ended(made, ttl) || forgotten(k, made, c.End) {
			continue
		}
		j.examined[ruleNotLost]++
		if c.Answer.Digest != last.digest {
			j.find(ruleNotLost, k.key, "an acknowledged response is gone from "+c.Node, []*history.Call{last.call, c}, nil)
			return
		}
	}
}

// localReads applies ruleLocalReads: a node's own state may be old, but not one
// that never was.
func (j *judgement) localReads(k *keyed) {
	responses := map[string]bool{}
	unseen := false // a response that no client has seen may have been recorded
	for _, c := range k.calls {
		if c.Answer != nil && c.Kind != history.GetLocal {
			responses[c.Answer.Digest] = true
		}
		responses[c.Sent] = true
		unseen = unseen || c.Kind == history.Create && c.Ambiguous()
	}
	for _, e := range k.effects {
		responses[e.Digest] = true
	}
	for _, c := range k.calls {
		if c.Kind != history.GetLocal || c.Answer == nil {
			continue
		}
		j.examined[ruleLocalReads]++
		if c.Answer.State == "completed" && !responses[c.Answer.Digest] && !unseen {
			j.find(ruleLocalReads, k.key, c.Node+" holds a response that nobody sent", []*history.Call{c}, nil)
		}
	}
}

// granting is a claim that was granted, and when that may have been.
type granting struct {
	call       *history.Call
	effect     *history.Effect
	fence      uint64
	begin, end history.Nano
}

// fences applies ruleFences.
func (j *judgement) fences() {
	var all []granting
	for _, c := range j.h.Calls {
		if c.Kind == history.Claim && c.OK() && c.Answer.Status == 201 && !c.Answer.Repeated {
			all = append(all, granting{c, nil, c.Answer.Fence, c.Begin, c.End})
		}
	}
	seen := map[uint64]bool{}
	for _, e := range j.h.Effects {
		if c := j.byID[e.Call]; c != nil && e.Where == upstream && !seen[e.Call] {
			seen[e.Call] = true
			all = append(all, granting{c, e, e.Fence, c.Begin, max(c.Begin, e.Begin)})
		}
	}
	j.examined[ruleFences] += len(all)
	j.fencesOnce(all)
	ended := slices.Clone(all)
	slices.SortFunc(ended, func(a, b granting) int { return cmp.Compare(a.end, b.end) })
	slices.SortFunc(all, func(a, b granting) int { return cmp.Compare(a.begin, b.begin) })
	next := 0
	var highest granting // of those that had ended
	for _, g := range all {
		for ; next < len(ended) && ended[next].end < g.begin; next++ {
			if ended[next].fence > highest.fence {
				highest = ended[next]
			}
		}
		if highest.call != nil && g.fence < highest.fence {
			j.findFences(fmt.Sprintf("fence %d was granted after %d had been", g.fence, highest.fence), highest, g)
		}
	}
}

// fencesOnce finds fences that were granted to two claims.
func (j *judgement) fencesOnce(all []granting) {
	byFence := map[uint64]granting{}
	for _, g := range all {
		if other, taken := byFence[g.fence]; taken {
			j.findFences(fmt.Sprintf("fence %d was granted to two claims", g.fence), other, g)
		}
		byFence[g.fence] = g
	}
}

func (j *judgement) findFences(what string, a, b granting) {
	var effects []*history.Effect
	for _, g := range []granting{a, b} {
		if g.effect != nil {
			effects = append(effects, g.effect)
		}
	}
	j.find(ruleFences, b.call.Of(), what, []*history.Call{a.call, b.call}, effects)
}

// namespaces applies ruleNamespaces.
func (j *judgement) namespaces() {
	made := map[string]*history.Call{}
	for _, c := range j.h.Calls {
		if c.Sent != "" {
			made[c.Sent] = c
		}
	}
	for _, e := range j.h.Effects {
		if c := j.byID[e.Call]; c != nil && e.Digest != "" {
			made[e.Digest] = c
		}
	}
	for _, c := range j.h.Calls {
		if c.Answer == nil || c.Answer.Digest == "" && c.Answer.Owner == "" {
			continue
		}
		j.examined[ruleNamespaces]++
		switch m := made[c.Answer.Digest]; {
		case c.Answer.Owner != "" && c.Answer.Owner != c.Of().String():
			j.find(ruleNamespaces, c.Of(), "it was answered with the response of "+c.Answer.Owner, []*history.Call{c}, nil)
		case m != nil && m.Of() != c.Of():
			j.find(ruleNamespaces, c.Of(), "it was answered with the response of "+m.Of().String(), []*history.Call{m, c}, nil)
		}
	}
}

// resources applies ruleResources and ruleUnique.
func (j *judgement) resources() {
	made := map[string]*history.Call{}
	unique := map[history.Key]*history.Call{} // namespace and value
	for _, c := range j.h.Calls {
		if c.Kind != history.Create || c.Answer == nil || c.Answer.Status != 201 {
			continue
		}
		j.examined[ruleUnique]++
		made[c.Answer.Resource] = c
		if c.Unique == "" {
			continue
		}
		at := history.Key{Namespace: c.Namespace, Key: c.Unique}
		if other := unique[at]; other != nil && other.Answer.Resource != c.Answer.Resource {
			j.find(ruleUnique, c.Of(), "two resources have the same unique value", []*history.Call{other, c}, nil)
		}
		unique[at] = c
	}
	for _, c := range j.h.Calls {
		m := made[c.Resource]
		if c.Kind != history.Resource || c.Answer == nil || c.Ambiguous() || m == nil || m.End > c.Begin {
			continue
		}
		j.examined[ruleResources]++
		if c.Answer.Status != 200 || c.Answer.Digest != m.Answer.Digest {
			j.find(ruleResources, c.Of(), "a created resource is gone, or changed, at "+c.Node, []*history.Call{m, c}, nil)
		}
	}
}

// hashes applies ruleHashes.
func (j *judgement) hashes() {
	at := map[uint64]*history.State{}
	for _, s := range j.h.States {
		j.examined[ruleHashes]++
		if other := at[s.Index]; other != nil && other.Hash != s.Hash {
			j.find(ruleHashes, history.Key{}, fmt.Sprintf("%s and %s have applied %d entries and hold different state", other.Node, s.Node, s.Index), nil, nil)
		}
		at[s.Index] = s
	}
}

// comparable reports whether all nodes were seen at one applied index.
func (j *judgement) comparable() bool {
	at := map[uint64]map[string]bool{}
	for _, s := range j.h.States {
		if at[s.Index] == nil {
			at[s.Index] = map[string]bool{}
		}
		at[s.Index][s.Node] = true
		if len(at[s.Index]) == len(j.h.Run.Nodes) {
			return true
		}
	}
	return len(j.h.Run.Nodes) == 1
}
