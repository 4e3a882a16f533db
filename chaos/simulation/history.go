package simulation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
)

// keySteps bounds the search for an order of the calls on one key, by steps and
// comparisons of the model, since time tells nothing here. With many calls that were not answered
// it can take very long; the run's own rules, which need no search, judge those
// keys too.
const keySteps = 500_000

// Check holds the history of a run against the rules and the model of package
// check, which know nothing of the simulation. What it says follows from the
// history alone, however long it takes.
func Check(ctx context.Context, r *Report) {
	v := check.Judge(ctx, r.History, check.Options{
		Margin: history.Span(r.Margin), KeyTimeout: 24 * time.Hour, KeySteps: keySteps, MinCalls: 1,
	})
	r.Keys, r.Undecided = v.Keys, v.Undecided
	for _, f := range v.Findings {
		s := f.Rule + ": " + f.Key.String() + ": " + f.What
		for _, c := range f.Calls {
			s += "\n  " + c.Line()
		}
		r.Violations = append(r.Violations, s)
	}
	for _, rule := range v.Rules {
		r.Examined += rule.Examined
	}
}

// margin is how much sooner than its time anything may have ended in this run:
// more than usual if time may have stood still for a while.
func (w *world) margin() time.Duration {
	still := time.Duration(0)
	for _, slow := range w.slow {
		for _, absent := range w.absences {
			if slow.overlaps(absent) {
				still = max(still, max(slow.end, absent.end)-min(slow.begin, absent.begin))
			}
		}
	}
	return early + still
}

// history is the run as package history has it.
func (w *world) history() *history.History {
	h := &history.History{Run: history.Run{Format: history.Format, Seed: w.o.Seed, TTL: history.Span(longTTL)}}
	for i, c := range w.calls {
		h.Calls = append(h.Calls, c.history(uint64(i+1)))
		if c.worked != "" {
			h.Effects = append(h.Effects, c.effect(uint64(i+1)))
		}
	}
	return h
}

func (c *call) effect(id uint64) *history.Effect {
	e := &history.Effect{
		Call: id, Where: "worker", Key: c.key, Policy: c.policy(), Fence: c.record.Fence, Attempt: c.record.Attempt,
		Begin: history.Span(c.end), End: history.Never, Result: history.Broken,
	}
	switch c.worked {
	case "complete":
		e.Result = history.Answered
	case "release":
		e.Result = history.Declined
	}
	return e
}

func (c *call) policy() string {
	if c.block {
		return history.Block
	}
	return history.Retry
}

func digest(body string) string {
	if body == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:8])
}

var kinds = map[string]history.Kind{
	"create": history.Create, "claim": history.Claim, "renew": history.Renew, "complete": history.Complete,
	"release": history.Release, "fail": history.Fail, "get": history.Get, "local": history.GetLocal,
}

func (c *call) history(id uint64) *history.Call {
	h := &history.Call{
		ID: id, Client: c.client, Node: c.node, Kind: kinds[c.verb], Key: c.key, Fingerprint: c.variant, AttemptID: c.attempt,
		Lease: history.Span(c.lease), TTL: history.Span(c.ttl), Fence: c.fence, Sent: digest(c.sent),
		Begin: history.Span(c.begin), End: history.Span(c.end), Final: c.client == clients,
	}
	switch c.verb {
	case "claim":
		h.Policy = c.policy()
	case "create":
		h.TTL = history.Span(longTTL)
	}
	if c.answer == nil {
		h.End = history.Never
		return h
	}
	h.Answer = &history.Answer{
		Status: c.answer.status, Problem: c.answer.problem, Replayed: c.answer.replayed, Fence: c.record.Fence,
		Attempt: c.record.Attempt, State: c.record.State, Repeated: c.record.Repeated,
	}
	if c.record.Response != nil {
		h.Answer.Digest = digest(c.record.Response.Body)
	}
	if c.verb == "create" && (c.ok() || c.is("duplicate-resource")) {
		h.Answer.Digest = digest(fmt.Sprint(c.answer.status) + string(c.answer.body))
		var resource struct {
			ID    string `json:"id"`
			Other string `json:"resource_id"`
		}
		if json.Unmarshal(c.answer.body, &resource) == nil {
			h.Answer.Resource = resource.ID + resource.Other
		}
	}
	return h
}
