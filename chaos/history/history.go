// Package history is the record of a run: every call of every client with its
// answer, what the upstream and the workers did, the faults, who led, and what
// the nodes held at the end. It is what is judged; nothing else is believed.
//
// On disk it is one JSON object a line, written as things happen, so that what
// is there after a crash of the tool is still a history, though an unfinished
// one.
package history

import (
	"strconv"
	"time"
)

// Nano is a span in nanoseconds, or a moment as one since the run began, on the
// one monotonic clock of the process that recorded it.
type Nano int64

// Never is when a call returns that was not answered.
const Never Nano = 1<<63 - 1

// Span returns d as a Nano.
func Span(d time.Duration) Nano { return Nano(d) }

// String shows it as a duration, to the millisecond.
func (n Nano) String() string {
	if n == Never {
		return "never"
	}
	return time.Duration(n).Round(time.Millisecond).String()
}

// Key is a key in its namespace.
type Key struct{ Namespace, Key string }

// String names it in a report.
func (k Key) String() string { return k.Namespace + "/" + k.Key }

// Kind is what a call asks for.
type Kind string

// The kinds of calls. Resource is GET /resources/{id}; Gateway is a keyed
// request to a service behind the gateway.
const (
	Create   Kind = "create"
	Claim    Kind = "claim"
	Renew    Kind = "renew"
	Complete Kind = "complete"
	Release  Kind = "release"
	Fail     Kind = "fail"
	Resolve  Kind = "resolve"
	Forget   Kind = "forget"
	Get      Kind = "get"
	GetLocal Kind = "get-local"
	Resource Kind = "resource"
	Gateway  Kind = "gateway"
)

var kinds = map[Kind]bool{
	Create: true, Claim: true, Renew: true, Complete: true, Release: true, Fail: true, Resolve: true,
	Forget: true, Get: true, GetLocal: true, Resource: true, Gateway: true,
}

// The policies of a claim.
const (
	Retry = "retry"
	Block = "block"
)

// Call is one call of a client and its answer. Members that its kind does not
// have are zero.
type Call struct {
	ID        uint64 `json:"id"` // from 1, in no order
	Client    int    `json:"client"`
	Node      string `json:"node"`
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace"`
	Key       string `json:"key"`

	// Fingerprint is what makes two requests of one kind the same.
	Fingerprint string `json:"fingerprint,omitempty"`
	AttemptID   string `json:"attempt_id,omitempty"`
	Policy      string `json:"policy,omitempty"`
	Lease       Nano   `json:"lease_ns,omitzero"`
	TTL         Nano   `json:"ttl_ns,omitzero"`
	// Fence is the one sent.
	Fence uint64 `json:"fence,omitzero"`
	// Sent is the digest of the response sent, to complete or to resolve.
	Sent   string `json:"sent,omitempty"`
	Retry  bool   `json:"retry,omitzero"` // resolve
	Force  bool   `json:"force,omitzero"` // forget
	Wait   Nano   `json:"wait_ns,omitzero"`
	Unique string `json:"unique,omitempty"` // the value of the unique field that is created
	// Resource is the id that is asked for.
	Resource string `json:"resource,omitempty"`
	// Final: it is part of the read-back after the load and all faults ended.
	Final bool `json:"final,omitzero"`

	Begin Nano `json:"begin_ns"`
	// End is Never, and Answer nil, where no answer came. What the call asked
	// for may then have been done, or may yet be.
	End    Nano    `json:"end_ns"`
	Answer *Answer `json:"answer,omitempty"`
	// Failure says what kept the answer from coming.
	Failure string `json:"failure,omitempty"`
}

// Answer is what a client saw.
type Answer struct {
	Status  int    `json:"status"`
	Problem string `json:"problem,omitempty"` // the slug of its type
	Fence   uint64 `json:"fence,omitzero"`
	Attempt int    `json:"attempt,omitzero"` // 1, and one more for each takeover
	State   string `json:"state,omitempty"`
	// Digest is that of the response: status, kept headers and body.
	Digest   string `json:"digest,omitempty"`
	Replayed bool   `json:"replayed,omitzero"`
	Repeated bool   `json:"repeated,omitzero"`
	// Owner is the key, in its namespace, that the bytes of the response say
	// that it was made for.
	Owner string `json:"owner,omitempty"`
	// Resource is the id of what was created, or of what got in the way.
	Resource string `json:"resource,omitempty"`
}

// Of returns the key that the call is about.
func (c *Call) Of() Key { return Key{c.Namespace, c.Key} }

// Is reports whether the answer is a problem of that slug.
func (c *Call) Is(slug string) bool { return c.Answer != nil && c.Answer.Problem == slug }

// Ambiguous reports whether what the call asked for may or may not have been
// done: there is no answer, or one that says so.
func (c *Call) Ambiguous() bool {
	return c.Answer == nil || c.Is("unavailable") || c.Is("internal") || c.Answer.Status >= 500 && c.Answer.Problem == "" && c.Kind != Gateway
}

// OK reports whether the call was answered with success.
func (c *Call) OK() bool { return c.Answer != nil && c.Answer.Status/100 == 2 }

// Effect is work that was done under a claim: a request that reached the
// upstream, or what a worker did that was granted a claim.
type Effect struct {
	// Call is the one that it was done for: the gateway's, or the claim.
	Call      uint64 `json:"call"`
	Where     string `json:"where"` // "upstream" or "worker"
	Namespace string `json:"namespace"`
	Key       string `json:"key"`
	Policy    string `json:"policy,omitempty"`
	Fence     uint64 `json:"fence"`
	Attempt   int    `json:"attempt"`
	Begin     Nano   `json:"begin_ns"`
	End       Nano   `json:"end_ns"` // when the answer was about to be sent, or never
	// Result is how it ended: "answered" with the response of Digest,
	// "declined" (nothing was done: the claim is given back), or "broken".
	Result string `json:"result"`
	Digest string `json:"digest,omitempty"`
}

// Results of an effect.
const (
	Answered = "answered"
	Declined = "declined"
	Broken   = "broken"
)

// Of returns the key that the effect is of.
func (e *Effect) Of() Key { return Key{e.Namespace, e.Key} }

// Fault is one fault, from when it began to bite to when it was healed.
type Fault struct {
	Kind  string   `json:"kind"`
	Nodes []string `json:"nodes,omitempty"`
	Begin Nano     `json:"begin_ns"`
	End   Nano     `json:"end_ns"`
	// Evidence is what shows that it bit; empty if nothing did.
	Evidence string `json:"evidence,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Leader is who led, by the word of a node, from a moment on.
type Leader struct {
	At   Nano   `json:"at_ns"`
	Node string `json:"node"` // empty: nobody
	Term uint64 `json:"term"`
}

// State is what a node held at the end.
type State struct {
	Node  string `json:"node"`
	Index uint64 `json:"applied_index"`
	Hash  string `json:"state_hash"`
}

// Run says how a run was made.
type Run struct {
	Format  int       `json:"format"` // Format
	Seed    uint64    `json:"seed"`
	Started time.Time `json:"started"`
	Nodes   []string  `json:"nodes"`
	Faults  []string  `json:"faults,omitempty"` // the kinds that were asked for
	// TTL is the retention of records that do not say it themselves.
	TTL  Nano   `json:"ttl_ns"`
	Load Nano   `json:"load_ns"` // how long the load was to last
	Host string `json:"host,omitempty"`
}

// Format is the version of the file format.
const Format = 1

// End is the last line of a finished history.
type End struct {
	At    Nano `json:"at_ns"`
	Calls int  `json:"calls"`
	// LoadEnded is when the load stopped and the read-back began.
	LoadEnded Nano `json:"load_ended_ns"`
	// Failures are what kept the run from being whole.
	Failures []string `json:"failures,omitempty"`
}

// History is a whole history in memory.
type History struct {
	Run     Run
	Calls   []*Call
	Effects []*Effect
	Faults  []*Fault
	Leaders []*Leader
	States  []*State
	End     *End // nil: it is unfinished
}

// Line returns one line of it as the file has them, for reports.
func (c *Call) Line() string {
	s := strconv.FormatUint(c.ID, 10) + " " + c.Begin.String() + "–" + c.End.String() + " " + string(c.Kind) + " at " + c.Node
	add := func(name, value string) {
		if value != "" && value != "0" {
			s += " " + name + "=" + value
		}
	}
	add("fingerprint", c.Fingerprint)
	add("attempt", c.AttemptID)
	add("policy", c.Policy)
	if c.Lease != 0 {
		add("lease", c.Lease.String())
	}
	if c.TTL != 0 {
		add("ttl", c.TTL.String())
	}
	add("fence", strconv.FormatUint(c.Fence, 10))
	add("sent", c.Sent)
	add("resource", c.Resource)
	if c.Retry {
		s += " retry"
	}
	if c.Force {
		s += " force"
	}
	if c.Answer == nil {
		return s + " → no answer"
	}
	a := c.Answer
	s += " → " + strconv.Itoa(a.Status)
	add("problem", a.Problem)
	add("state", a.State)
	add("fence", strconv.FormatUint(a.Fence, 10))
	add("attempt", strconv.Itoa(a.Attempt))
	add("digest", a.Digest)
	add("owner", a.Owner)
	add("resource", a.Resource)
	if a.Replayed {
		s += " replayed"
	}
	if a.Repeated {
		s += " repeated"
	}
	return s
}

// Line returns the effect for reports.
func (e *Effect) Line() string {
	return "effect " + e.Begin.String() + "–" + e.End.String() + " at the " + e.Where + " for call " + strconv.FormatUint(e.Call, 10) +
		" fence=" + strconv.FormatUint(e.Fence, 10) + " attempt=" + strconv.Itoa(e.Attempt) + " " + e.Result + " " + e.Digest
}
