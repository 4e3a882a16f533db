package fsm

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// history is a log, and what the model says to it.
type history struct {
	entries []LogEntry
	want    [][]string
	model   *model
}

// drawHistory makes up a log in which each command comes one to three times, at
// any distance.
func drawHistory(t *rapid.T) *history {
	h := &history{model: newModel()}
	h.model.now, h.model.term = start, 1
	h.entries = append(h.entries, LogEntry{Index: 1, Term: 1, Data: EncodeEntry(start, [][]byte{marshal(t, bindCommand())})})
	h.want = append(h.want, []string{"OK"})
	var sent []*Command
	var left []int
	for i := range rapid.IntRange(1, 30).Draw(t, "entries") {
		h.model.term += rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "elect")
		index := h.entries[len(h.entries)-1].Index + uint64(rapid.IntRange(1, 2).Draw(t, "gap"))
		if rapid.IntRange(0, 15).Draw(t, "configure") == 0 {
			h.entries = append(h.entries, LogEntry{Index: index, Term: h.model.term, Configuration: []byte{byte(i)}})
			h.want = append(h.want, nil)
			continue
		}
		now := h.model.now + rapid.SampledFrom([]int64{-100, 0, 0, 100, 100, 500, 1000, 300_000}).Draw(t, "pass")
		h.model.now = max(h.model.now, now)
		var encoded [][]byte
		want := []string{}
		for range rapid.IntRange(0, 6).Draw(t, "commands") {
			n := len(sent)
			if n > 0 && rapid.IntRange(0, 2).Draw(t, "resend") == 0 {
				n = rapid.IntRange(0, n-1).Draw(t, "which")
			}
			if n == len(sent) || left[n] == 0 {
				n = len(sent)
				sent = append(sent, drawCommand(t, h.model, n))
				left = append(left, 3)
			}
			left[n]--
			encoded = append(encoded, marshal(t, sent[n]))
			want = append(want, h.model.do(sent[n]))
		}
		h.entries = append(h.entries, LogEntry{Index: index, Term: h.model.term, Data: EncodeEntry(now, encoded)})
		h.want = append(h.want, want)
	}
	return h
}

func marshal(t *rapid.T, c *Command) []byte {
	b, err := c.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// drawCommand makes up the nth command: about few keys, at round times, so that
// commands meet and instants coincide.
func drawCommand(t *rapid.T, m *model, n int) *Command {
	kind := rapid.SampledFrom([]Kind{
		Kind_CLAIM, Kind_CLAIM, Kind_CLAIM, Kind_CREATE, Kind_CREATE, Kind_RENEW, Kind_COMPLETE, Kind_RELEASE,
		Kind_FAIL, Kind_RESOLVE, Kind_FORGET, Kind_EXPIRE, Kind_EXPIRE, Kind_READ,
	}).Draw(t, "kind")
	keys := []string{"a", "a", "b", "c"}
	if kind == Kind_CREATE {
		keys = []string{"a", "c", "c", "d", "d", "e"}
	}
	c := &Command{
		Kind: kind, Namespace: "ns", RequestId: requestID(fmt.Sprintf("%03d", n)),
		Key: rapid.SampledFrom(keys).Draw(t, "key"),
	}
	if rapid.IntRange(0, 7).Draw(t, "hurry") == 0 {
		c.NotAfter = m.now + rapid.SampledFrom([]int64{0, 100, 500}).Draw(t, "patience")
	}
	c.Lease = rapid.SampledFrom([]int64{100, 500, 1000}).Draw(t, "lease")
	c.Ttl = rapid.SampledFrom([]int64{1000, 1500, 2000}).Draw(t, "ttl")
	c.Term = rapid.SampledFrom([]uint64{0, m.term, m.term, m.term + 1}).Draw(t, "term")
	c.Fingerprint = []byte(rapid.SampledFrom([]string{"", "", "", "", "", "f"}).Draw(t, "fingerprint"))
	switch kind {
	case Kind_CLAIM:
		c.Surface = rapid.SampledFrom([]Surface{Surface_SURFACE_KEYS, Surface_SURFACE_KEYS, Surface_SURFACE_GATEWAY}).Draw(t, "surface")
		c.AttemptId = rapid.SampledFrom([]string{"", "me", "you"}).Draw(t, "attempt")
		c.OnLapse = rapid.SampledFrom([]OnLapse{OnLapse_RETRY, OnLapse_BLOCK}).Draw(t, "policy")
	case Kind_CREATE:
		c.Surface, c.ResourceId = Surface_SURFACE_CREATE, fmt.Sprint("id", n)
		c.Response = response(201, c.ResourceId)
		for range rapid.IntRange(0, 2).Draw(t, "uniques") {
			unique(rapid.SampledFrom([]string{"f", "g"}).Draw(t, "field"), rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "value"))(c)
		}
	case Kind_EXPIRE:
		c.Limit = uint32(rapid.IntRange(0, 3).Draw(t, "limit"))
	default:
		c.Fence = rapid.Uint64Range(0, m.fence+1).Draw(t, "fence")
		if x := m.records[c.Key]; x != nil && rapid.IntRange(0, 3).Draw(t, "current") > 0 {
			c.Fence = x.fence
		}
		c.Unanswered = kind == Kind_RELEASE && rapid.Bool().Draw(t, "unanswered")
		c.Retry, c.Force = kind == Kind_RESOLVE && rapid.Bool().Draw(t, "retry"), rapid.Bool().Draw(t, "force")
		if kind == Kind_COMPLETE || kind == Kind_RESOLVE && !c.Retry {
			c.Response = response(200, rapid.SampledFrom([]string{"x", "y"}).Draw(t, "body"))
		}
	}
	return c
}

// replay gives the history to a new machine in batches cut at random, some from
// an index that was applied before, with the machine opened anew in between.
func (h *history) replay(t *rapid.T, tb testing.TB) *rig {
	r := &rig{TB: tb, store: NewMem(), now: start}
	r.open()
	for next := 0; next < len(h.entries); {
		if rapid.IntRange(0, 3).Draw(t, "reopen") == 0 {
			r.open()
		}
		from := next - rapid.IntRange(0, next).Draw(t, "again")
		next = rapid.IntRange(next, len(h.entries)).Draw(t, "cut")
		applied := r.Meta().AppliedIndex
		got, err := r.Apply(h.entries[from:next])
		if err != nil {
			t.Fatal(err)
		}
		for i, outcomes := range got.Outcomes {
			e := h.entries[from+i]
			if e.Index <= applied || e.Configuration != nil {
				if outcomes != nil {
					t.Fatalf("entry %d has outcomes again", e.Index)
				}
				continue
			}
			h.compare(t, from+i, outcomes)
		}
	}
	return r
}

func (h *history) compare(t *rapid.T, n int, outcomes []*Outcome) {
	want := h.want[n]
	if len(outcomes) != len(want) {
		t.Fatalf("entry %d has %d outcomes, want %d", h.entries[n].Index, len(outcomes), len(want))
	}
	for i, o := range outcomes {
		if got := brief(o); got != want[i] {
			t.Fatalf("entry %d, command %d:\n got %s\nwant %s", h.entries[n].Index, i+1, got, want[i])
		}
	}
}

// TestReplicasAgreeWithTheModel is the contract: whatever comes, however often,
// in whatever batches, each replica gives the model's outcomes and ends in the
// same state.
func TestReplicasAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		first := h.replay(rt, t)
		first.recount()
		for range 2 {
			other := h.replay(rt, t)
			if other.hash() != first.hash() {
				rt.Fatal("two replicas differ")
			}
		}
		if got := first.Meta(); got.Fence != h.model.fence || int(got.Resources) != len(h.model.resources) ||
			int(got.Claimed+got.Completed+got.Unknown) != len(h.model.records) {
			rt.Fatalf("meta is %v; the model has fence %d, %d records, %d resources", got, h.model.fence, len(h.model.records), len(h.model.resources))
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
}

// TestOneFenceIsOneGrant: of all grants in a history no two carry one fence,
// unless they went to the same request or are marked as repeated, and a fence
// ends in one response.
func TestOneFenceIsOneGrant(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		r := &rig{TB: t, store: NewMem()}
		r.open()
		applied, err := r.Apply(h.entries)
		if err != nil {
			rt.Fatal(err)
		}
		holder, answer := map[uint64]string{}, map[uint64]string{}
		for i, outcomes := range applied.Outcomes {
			for j, o := range outcomes {
				if o.Record == nil {
					continue
				}
				fence, request := o.Record.Fence, string(o.Record.RequestId)
				if was, ok := holder[fence]; ok && was != request {
					rt.Fatalf("entry %d, command %d: fence %d is of requests %q and %q", i, j, fence, was, request)
				}
				holder[fence] = request
				if o.Record.Response == nil {
					continue
				}
				body := string(o.Record.Response.Body)
				if was, ok := answer[fence]; ok && was != body {
					rt.Fatalf("entry %d, command %d: fence %d has responses %q and %q", i, j, fence, was, body)
				}
				answer[fence] = body
			}
		}
	})
}
