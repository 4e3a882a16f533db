package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// start is the cluster time at which a rig's clock begins.
const start = int64(1_700_000_000_000)

// rig drives one machine, one command an entry.
type rig struct {
	testing.TB
	*Machine
	store Store
	index uint64
	now   int64
	last  Applied
}

// newRig returns a rig whose cluster is bound.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := newUnboundRig(t)
	r.do(bindCommand())
	return r
}

func newUnboundRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{TB: t, store: NewMem(), now: start}
	r.open()
	return r
}

// open opens the machine anew from its store.
func (r *rig) open() {
	r.Helper()
	m, err := Open(r.store)
	if err != nil {
		r.Fatal(err)
	}
	r.Machine = m
}

// at sets the clock to ms after the start.
func (r *rig) at(ms int64) *rig { r.now = start + ms; return r }

// do applies c in an entry of its own.
func (r *rig) do(c *Command) *Outcome {
	r.Helper()
	outcomes := r.apply(c)
	return outcomes[0]
}

// apply applies commands in one entry.
func (r *rig) apply(commands ...*Command) []*Outcome {
	r.Helper()
	r.index++
	applied, err := r.Apply([]LogEntry{{Index: r.index, Term: 1, Data: entry(r.TB, r.now, commands...)}})
	if err != nil {
		r.Fatalf("apply %v: %v", commands[0].Kind, err)
	}
	r.last = applied
	return applied.Outcomes[0]
}

func entry(t testing.TB, now int64, commands ...*Command) []byte {
	t.Helper()
	return EncodeEntry(now, encodeAll(t, commands))
}

func encodeAll(t testing.TB, commands []*Command) (encoded [][]byte) {
	t.Helper()
	for _, c := range commands {
		encoded = append(encoded, encode(t, c))
	}
	return encoded
}

func encode(t testing.TB, m interface{ MarshalVT() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *rig) hash() [32]byte {
	r.Helper()
	h, err := r.Hash()
	if err != nil {
		r.Fatal(err)
	}
	return h
}

func (r *rig) lookup(key string) *Record {
	r.Helper()
	rec, err := r.Lookup("ns", key)
	if err != nil {
		r.Fatal(err)
	}
	return rec
}

// The commands below are about key "k" in namespace "ns", with a lease of 1 s
// and a ttl of 10 s, unless a change says otherwise.

type change func(*Command)

func command(kind Kind, request string, changes []change) *Command {
	c := &Command{Kind: kind, RequestId: requestID(request), Namespace: "ns", Key: "k"}
	for _, change := range changes {
		change(c)
	}
	return c
}

func requestID(name string) []byte {
	return append([]byte(name), make([]byte, requestIDSize)...)[:requestIDSize]
}

func claim(request string, changes ...change) *Command {
	return command(Kind_CLAIM, request, append([]change{func(c *Command) {
		c.Surface, c.Lease, c.Ttl, c.Fingerprint = Surface_SURFACE_KEYS, 1000, 10_000, []byte("fp")
	}}, changes...))
}

func create(request, id string, changes ...change) *Command {
	return command(Kind_CREATE, request, append([]change{func(c *Command) {
		c.Surface, c.Ttl, c.Fingerprint = Surface_SURFACE_CREATE, 10_000, []byte("fp")
		c.ResourceId, c.Response = id, response(201, `{"id":"`+id+`"}`)
	}}, changes...))
}

func renew(fence uint64, lease int64) *Command {
	return command(Kind_RENEW, "renew", []change{fenced(fence), leased(lease)})
}

func complete(fence uint64, body string) *Command {
	return command(Kind_COMPLETE, "complete", []change{fenced(fence), answering(body)})
}

func release(fence uint64, changes ...change) *Command {
	return command(Kind_RELEASE, "release", append([]change{fenced(fence)}, changes...))
}

func fail(fence uint64) *Command { return command(Kind_FAIL, "fail", []change{fenced(fence)}) }

func resolve(request string, fence uint64, changes ...change) *Command {
	return command(Kind_RESOLVE, request, append([]change{fenced(fence)}, changes...))
}

func forget(request string, fence uint64, changes ...change) *Command {
	return command(Kind_FORGET, request, append([]change{fenced(fence)}, changes...))
}

func read() *Command { return command(Kind_READ, "read", nil) }

func expire(limit uint32) *Command { return &Command{Kind: Kind_EXPIRE, Limit: limit} }

func bindCommand() *Command {
	return &Command{Kind: Kind_BIND, ClusterId: []byte("cluster"), Members: []*Member{node("n1", "a", 'A'), node("n2", "b", 'B')}}
}

func node(id, addr string, incarnation byte) *Member {
	return &Member{Id: id, RaftAddr: addr, Incarnation: slices.Repeat([]byte{incarnation}, incarnationSize)}
}

func key(k string) change          { return func(c *Command) { c.Key = k } }
func namespace(ns string) change   { return func(c *Command) { c.Namespace = ns } }
func fingerprint(f string) change  { return func(c *Command) { c.Fingerprint = []byte(f) } }
func surface(s Surface) change     { return func(c *Command) { c.Surface = s } }
func attempt(id string) change     { return func(c *Command) { c.AttemptId = id } }
func inTerm(term uint64) change    { return func(c *Command) { c.Term = term } }
func leased(ms int64) change       { return func(c *Command) { c.Lease = ms } }
func ttl(ms int64) change          { return func(c *Command) { c.Ttl = ms } }
func fenced(fence uint64) change   { return func(c *Command) { c.Fence = fence } }
func answering(body string) change { return func(c *Command) { c.Response = response(200, body) } }
func notAfter(ms int64) change     { return func(c *Command) { c.NotAfter = start + ms } }
func block(c *Command)             { c.OnLapse = OnLapse_BLOCK }
func retrying(c *Command)          { c.Retry = true }
func forced(c *Command)            { c.Force = true }
func ifUnanswered(c *Command)      { c.Unanswered = true }

func unique(field, value string) change {
	return func(c *Command) {
		c.Uniques = append(c.Uniques, &Unique{Field: field, Value: []byte(fmt.Sprintf("%-32s", value))})
	}
}

func response(status int, body string) *Response {
	return NewResponse(status, []*Header{{Name: "Content-Type", Value: "text/plain"}}, []byte(body))
}

// step is a command at a time after the start, and what comes of it as brief
// writes it.
type step struct {
	at   int64
	c    *Command
	want string
}

type script struct {
	name  string
	steps []step
}

func (s script) run(t *testing.T) {
	t.Run(s.name, func(t *testing.T) {
		r := newRig(t)
		for i, step := range s.steps {
			got := brief(r.at(step.at).do(step.c))
			if got != step.want {
				t.Errorf("step %d, %v at %d:\n got %s\nwant %s", i+1, step.c.Kind, step.at, got, step.want)
			}
		}
		r.recount()
	})
}

// brief writes an outcome in one line: code, state, fence, attempt, when lease
// and record end after the start, response.
func brief(o *Outcome) string {
	words := []string{o.Code.String()}
	if o.Repeated {
		words = append(words, "repeated")
	}
	if o.Count != 0 {
		words = append(words, fmt.Sprint(o.Count))
	}
	if o.Reason != "" {
		words = append(words, o.Reason)
	}
	return strings.Join(append(words, briefRecord(o.Record)...), " ")
}

func briefRecord(rec *Record) []string {
	if rec == nil {
		return nil
	}
	words := []string{strings.ToLower(rec.State.String()), fmt.Sprintf("fence=%d attempt=%d", rec.Fence, rec.Attempt)}
	if rec.LeaseExpiresAt != 0 {
		words = append(words, fmt.Sprintf("lease@%d", rec.LeaseExpiresAt-start))
	}
	if rec.ExpiresAt != 0 {
		words = append(words, fmt.Sprintf("ends@%d", rec.ExpiresAt-start))
	}
	if rec.Response != nil {
		body, err := rec.Response.Plain()
		words = append(words, fmt.Sprintf("%d:%s", rec.Response.Status, body))
		if err != nil {
			words = append(words, err.Error())
		}
	}
	return words
}

// recount checks counters and due index against everything that is stored.
func (r *rig) recount() {
	r.Helper()
	var claimed, completed, unknown, resources int64
	due, indexed := map[string]bool{}, map[string]bool{}
	err := r.store.Scan(nil, nil, func(key, value []byte) bool {
		switch key[0] {
		case tableRecord:
			rec, err := openRecord(key, value)
			if err != nil {
				r.Error(err)
				return false
			}
			due[string(appendDueKey(nil, rec.dueAt(), key))] = true
			switch rec.State {
			case State_CLAIMED:
				claimed++
			case State_COMPLETED:
				completed++
			case State_UNKNOWN:
				unknown++
			}
		case tableDone:
			d, err := openDone(key, value)
			if err != nil {
				r.Error(err)
				return false
			}
			due[string(appendDueKey(nil, d.ExpiresAt, key))] = true
		case tableResource:
			resources++
		case tableDue:
			indexed[string(key)] = true
		}
		return true
	})
	if err != nil {
		r.Error(err)
	}
	m := r.Meta()
	if m.Claimed != claimed || m.Completed != completed || m.Unknown != unknown || m.Resources != resources {
		r.Errorf("counters are %d claimed, %d completed, %d unknown, %d resources; stored are %d, %d, %d, %d",
			m.Claimed, m.Completed, m.Unknown, m.Resources, claimed, completed, unknown, resources)
	}
	for k := range due {
		if !indexed[k] {
			r.Errorf("the due index lacks %q", k)
		}
		delete(indexed, k)
	}
	for k := range indexed {
		r.Errorf("the due index has %q, which is due then no more", k)
	}
}
