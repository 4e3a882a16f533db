package plant

import (
	"slices"
	"strings"

	"github.com/onced/onced/chaos/history"
)

// Faults are all that can be planted.
func Faults() []Fault {
	return []Fault{
		{"a claim runs twice", "one-run-per-claim", runTwice},
		{"one request is sent to the upstream twice", "one-run-per-claim", sendTwice},
		{"work is done without a claim", "one-run-per-claim", runUnclaimed},
		{"a request is answered that was not run", "one-run-per-claim", answerUnrun},
		{"a blocked key runs again", "block-runs-once", runBlocked},
		{"a byte of a replay changes", "same-bytes", changeReplay},
		{"a byte of a first answer changes", "linearizable", changeFirst},
		{"a byte of what is recorded changes", "linearizable", changeRecord},
		{"an acknowledged response is lost on all nodes", "nothing-lost", loseAnswer},
		{"an acknowledged response is lost on one node", "nothing-lost", loseOnNode},
		{"a record ends early", "nothing-ends-early", endEarly},
		{"a lease ends early", "nothing-ends-early", lapseEarly},
		{"a fence goes back", "fences-grow", fenceBack},
		{"a fence is granted twice", "fences-grow", fenceTwice},
		{"an answer is given in another namespace", "namespaces", crossNamespaces},
		{"an answer is given for another key", "namespaces", crossKeys},
		{"a resource is lost", "resources", loseResource},
		{"a unique value is given twice", "unique-fields", uniqueTwice},
		{"state differs between nodes", "equal-state", diverge},
		{"a node makes a response up", "local-reads", inventLocally},
		{"a stale fence is accepted", "linearizable", acceptStale},
		{"another request gets the response", "linearizable", ignoreFingerprint},
		{"a read goes back in time", "linearizable", readBack},
		{"a key in flight is granted again", "linearizable", grantInFlight},
		{"the outcome of a lapsed claim is forgotten", "linearizable", forgetUnknown},
	}
}

func runTwice(p *planter) bool {
	if len(p.Effects) == 0 {
		return false
	}
	again := *p.Effects[0]
	p.Effects = append(p.Effects, &again)
	return true
}

func sendTwice(p *planter) bool {
	i := slices.IndexFunc(p.Effects, func(e *history.Effect) bool { return e.Where == "upstream" })
	if i < 0 {
		return false
	}
	again := *p.Effects[i]
	again.Fence = p.highestFence() + 1
	p.Effects = append(p.Effects, &again)
	return true
}

func runUnclaimed(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool { return c.Kind == history.Claim && c.Is("in-progress") },
		func(_ *key, c *history.Call) {
			p.Effects = append(p.Effects, &history.Effect{
				Call: c.ID, Where: "worker", Namespace: c.Namespace, Key: c.Key, Policy: c.Policy, Fence: 1 << 40, Attempt: 1,
				Begin: c.End, End: c.End, Result: history.Answered,
			})
		})
}

func answerUnrun(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool { return firstRun(c) && p.effectOf(c) != nil },
		func(_ *key, c *history.Call) {
			p.Effects = slices.DeleteFunc(p.Effects, func(e *history.Effect) bool { return e.Call == c.ID })
		})
}

func firstRun(c *history.Call) bool {
	return c.Kind == history.Gateway && c.Answer.Problem == "" && !c.Answer.Replayed && c.Answer.Digest != ""
}

// runBlocked has a replay run instead, under a claim of its own.
func runBlocked(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool {
			return c.Kind == history.Claim && c.Policy == history.Block && c.Answer.Status == 200 && len(k.effects) > 0 && standing(k, c)
		},
		func(k *key, c *history.Call) {
			c.Answer = &history.Answer{Status: 201, Fence: p.highestFence() + 1, Attempt: 1, State: "claimed"}
			p.Effects = append(p.Effects, &history.Effect{
				Call: c.ID, Where: "worker", Namespace: c.Namespace, Key: c.Key, Policy: c.Policy, Fence: c.Answer.Fence, Attempt: 1,
				Begin: c.End, End: c.End, Result: history.Answered,
			})
		})
}

// changed is digest with another first digit.
func changed(digest string) string {
	if strings.HasPrefix(digest, "0") {
		return "1" + digest[1:]
	}
	return "0" + digest[1:]
}

func changeReplay(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool { return c.Answer.Replayed && standing(k, c) },
		func(_ *key, c *history.Call) { c.Answer.Digest = changed(c.Answer.Digest) })
}

func changeFirst(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool { return firstRun(c) },
		func(_ *key, c *history.Call) { c.Answer.Digest = changed(c.Answer.Digest) })
}

func changeRecord(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool { return c.Kind == history.Complete && c.OK() },
		func(_ *key, c *history.Call) { c.Answer.Digest = changed(c.Answer.Digest) })
}

func gone() *history.Answer { return &history.Answer{Status: 404, Problem: "key-unknown"} }

func loseAnswer(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool { return c.Final && c.Kind == history.Get && standing(k, c) },
		func(k *key, _ *history.Call) {
			for _, c := range k.calls {
				if c.Final {
					c.Answer = gone()
				}
			}
		})
}

func loseOnNode(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool { return c.Final && c.Kind == history.GetLocal && standing(k, c) },
		func(_ *key, c *history.Call) { c.Answer = gone() })
}

func endEarly(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool { return !c.Final && c.Kind == history.Get && standing(k, c) },
		func(_ *key, c *history.Call) { c.Answer = gone() })
}

// lapseEarly grants a claim in the lease of another.
func lapseEarly(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool {
			return c.Kind == history.Claim && c.Is("in-progress") && holds(k, c)
		},
		func(_ *key, c *history.Call) {
			c.Answer = &history.Answer{Status: 201, State: "claimed", Fence: p.highestFence() + 1, Attempt: 2}
		})
}

// holds reports whether the lease of another claim stands throughout c, which
// nobody ends.
func holds(k *key, c *history.Call) bool {
	stands := false
	for _, x := range k.calls {
		switch x.Kind {
		case history.Claim:
			stands = stands || x.OK() && x.Answer.Status == 201 && !x.Answer.Repeated && x.End < c.Begin && c.End+margin < x.Begin+x.Lease
		case history.Complete, history.Release, history.Fail:
			if x.OK() && x.Begin <= c.End {
				return false
			}
		}
	}
	return stands
}

func grantOf(c *history.Call) bool {
	return c.Kind == history.Claim && c.Answer.Status == 201 && !c.Answer.Repeated
}

func fenceBack(p *planter) bool {
	var all []*history.Call
	p.first(func(_ *key, c *history.Call) bool {
		if grantOf(c) {
			all = append(all, c)
		}
		return false
	}, nil)
	for _, later := range all {
		for _, earlier := range all {
			if earlier.End < later.Begin && earlier.Answer.Fence > 1 {
				later.Answer.Fence = earlier.Answer.Fence - 1
				return true
			}
		}
	}
	return false
}

func fenceTwice(p *planter) bool {
	var first *history.Call
	return p.first(func(_ *key, c *history.Call) bool {
		if grantOf(c) && first == nil {
			first = c
		}
		return grantOf(c) && first.Of() != c.Of()
	}, func(_ *key, c *history.Call) { c.Answer.Fence = first.Answer.Fence })
}

// crossNamespaces gives a replay the response of another tenant's key of the
// same name.
func crossNamespaces(p *planter) bool { return cross(p, true) }

// crossKeys gives it that of another key, which does not say whose it is.
func crossKeys(p *planter) bool { return cross(p, false) }

func cross(p *planter, sameName bool) bool {
	for _, from := range p.Calls {
		if from.Answer == nil || !firstRun(from) {
			continue
		}
		found := p.first(
			func(_ *key, c *history.Call) bool {
				return c.Kind == history.Gateway && c.Answer.Replayed && c.Of() != from.Of() && (c.Key == from.Key) == sameName
			},
			func(_ *key, c *history.Call) {
				c.Answer.Digest, c.Answer.Owner = from.Answer.Digest, from.Answer.Owner
				if !sameName {
					c.Answer.Owner = ""
				}
			})
		if found {
			return true
		}
	}
	return false
}

func loseResource(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool { return c.Kind == history.Resource && c.OK() },
		func(_ *key, c *history.Call) { c.Answer = &history.Answer{Status: 404, Problem: "not-found"} })
}

func uniqueTwice(p *planter) bool {
	var first *history.Call
	made := func(c *history.Call) bool {
		return c.Kind == history.Create && c.Answer.Status == 201 && c.Unique != ""
	}
	return p.first(func(_ *key, c *history.Call) bool {
		if made(c) && first == nil {
			first = c
		}
		return made(c) && c.Answer.Resource != first.Answer.Resource
	}, func(_ *key, c *history.Call) { c.Unique = first.Unique })
}

func diverge(p *planter) bool {
	if len(p.States) == 0 {
		return false
	}
	other := *p.States[0]
	other.Node, other.Hash = "another", changed(other.Hash)
	p.States = append(p.States, &other)
	return true
}

func inventLocally(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool {
			return c.Kind == history.GetLocal && c.Answer.State == "completed" && !c.Final
		},
		func(_ *key, c *history.Call) { c.Answer.Digest = changed(c.Answer.Digest) })
}

func acceptStale(p *planter) bool {
	return p.first(
		func(_ *key, c *history.Call) bool { return c.Kind == history.Complete && c.Is("stale-fence") },
		func(_ *key, c *history.Call) {
			c.Answer = &history.Answer{Status: 200, State: "completed", Fence: c.Fence, Attempt: 1, Digest: c.Sent}
		})
}

func ignoreFingerprint(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool { return c.Is("key-reused") && answerBefore(k, c) != nil },
		func(k *key, c *history.Call) {
			a := *answerBefore(k, c).Answer
			a.Replayed = true
			c.Answer = &a
		})
}

// answerBefore is a call of c's kind, and another request, that had its
// response before c began.
func answerBefore(k *key, c *history.Call) *history.Call {
	for _, x := range k.calls {
		if x.Kind == c.Kind && x.Answer != nil && x.Answer.Digest != "" && x.Fingerprint != c.Fingerprint && x.End < c.Begin {
			return x
		}
	}
	return nil
}

// readBack has a read see the claim that had been completed before.
func readBack(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool {
			return c.Kind == history.Get && c.Answer.State == "completed" && standing(k, c)
		},
		func(_ *key, c *history.Call) { c.Answer.State, c.Answer.Digest, c.Answer.Owner = "claimed", "", "" })
}

func grantInFlight(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool {
			return c.Kind == history.Claim && c.Is("in-progress") && holds(k, c)
		},
		func(_ *key, c *history.Call) {
			c.Answer = &history.Answer{Status: 201, State: "claimed", Fence: p.highestFence() + 1, Attempt: 1}
		})
}

// forgetUnknown grants what had been answered to be unknown.
func forgetUnknown(p *planter) bool {
	return p.first(
		func(k *key, c *history.Call) bool {
			return c.Is("outcome-unknown") && c.Kind == history.Claim && c.End+margin < k.calls[0].Begin+c.TTL
		},
		func(_ *key, c *history.Call) {
			c.Answer = &history.Answer{Status: 201, State: "claimed", Fence: p.highestFence() + 1, Attempt: 1}
		})
}
