package check

import (
	"cmp"
	"slices"

	"github.com/onced/onced/chaos/history"
)

// result is what an operation came to, as the model knows it.
type result uint8

const (
	unanswered     result = iota // it may have been done, or may yet be
	granted                      // claim
	replayed                     // claim, create
	inProgress                   // claim, resolve, forget
	keyReused                    // claim, create
	outcomeUnknown               // claim
	created                      // create
	done                         // every write
	stale                        // every write
	absent                       // get, resolve, forget
	found                        // get
)

// operation is one step on a key that takes effect at one moment between begin
// and end, or, if it is unanswered, perhaps never. Most are a call; a request
// to the gateway is two, the claim and the end of it, which its effect tells
// apart.
type operation struct {
	call  *history.Call
	kind  history.Kind
	begin history.Nano
	end   history.Nano // Never if it may be done at any time

	surface     history.Kind // Create, Claim or Gateway
	fingerprint string
	attemptID   string
	policy      string
	lease, ttl  history.Nano
	fence       uint64 // sent
	sent        string // digest
	retry       bool
	force       bool

	result   result
	fence2   uint64 // answered; 0: it does not say
	attempt  int
	digest   string
	state    string
	repeated bool
	// loose says what may still become of the claim that was granted, without
	// any client seeing it happen; pending is the digest it may complete with.
	loose   loose
	pending string
	// dropped: the answer is of a kind that has no effect and says nothing.
	dropped bool
}

// loose is a set of what the node that holds a claim may do by itself.
type loose uint8

const (
	mayRelease loose = 1 << iota
	mayFail
	mayComplete
)

// readOnly reports whether the operation, as answered, changes nothing: a
// history without it is legal if the history with it is.
func (o *operation) readOnly() bool {
	switch o.result {
	case replayed, inProgress, keyReused, outcomeUnknown, stale, absent, found:
		return true
	}
	return false
}

// operations returns the operations of one key, in the order of their begin.
// calls and effects are all of that key.
func operations(calls []*history.Call, effects []*history.Effect, o Options) []*operation {
	byCall := map[uint64]*history.Effect{}
	settled := false // by an operator
	retaken := 0     // how many attempts there were after the first, at most maxRetaken
	for _, e := range effects {
		if e.Where == upstream && byCall[e.Call] == nil {
			byCall[e.Call] = e
		}
	}
	for _, c := range calls {
		settled = settled || c.Kind == history.Forget || c.Kind == history.Resolve
		if c.Answer != nil {
			retaken = max(retaken, min(c.Answer.Attempt-1, maxRetaken))
		}
	}
	var all []*operation
	for _, c := range calls {
		switch c.Kind {
		case history.GetLocal, history.Resource:
			continue // they promise less, and are judged by rules of their own
		case history.Gateway:
			all = append(all, gatewayOperations(c, byCall[c.ID])...)
		default:
			all = append(all, operationOf(c))
		}
	}
	for _, op := range all {
		all = append(all, op.regrants(o, settled, retaken)...)
	}
	all = slices.DeleteFunc(all, func(op *operation) bool { return op.dropped })
	slices.SortStableFunc(all, func(a, b *operation) int { return cmp.Compare(a.begin, b.begin) })
	return all
}

const upstream = "upstream"

func surfaceOf(k history.Kind) history.Kind {
	switch k {
	case history.Create, history.Gateway:
		return k
	}
	return history.Claim
}

func operationOf(c *history.Call) *operation {
	op := &operation{
		call: c, kind: c.Kind, begin: c.Begin, end: c.End, surface: surfaceOf(c.Kind), fingerprint: c.Fingerprint,
		attemptID: c.AttemptID, policy: c.Policy, lease: c.Lease, ttl: c.TTL, fence: c.Fence, sent: c.Sent, retry: c.Retry, force: c.Force,
	}
	if c.Ambiguous() {
		op.end = history.Never
		op.dropped = c.Kind == history.Get || c.Kind == history.Renew || c.Failure == Unsent
		if c.Kind == history.Claim {
			op.loose = mayRelease
		}
		return op
	}
	a := c.Answer
	op.fence2, op.attempt, op.digest, op.state, op.repeated = a.Fence, a.Attempt, a.Digest, a.State, a.Repeated
	op.result, op.dropped = resultOf(c)
	return op
}

// Unsent is the Failure of a call of which nothing was sent.
const Unsent = "unsent"

// resultOf reads a definite answer. Those of other kinds have no effect.
func resultOf(c *history.Call) (r result, dropped bool) {
	switch c.Answer.Problem {
	case "in-progress":
		return inProgress, false
	case "key-reused":
		return keyReused, false
	case "outcome-unknown":
		return outcomeUnknown, false
	case "stale-fence":
		return stale, false
	case "key-unknown":
		return absent, false
	case "", "duplicate-resource":
	default:
		return 0, true
	}
	switch c.Kind {
	case history.Create, history.Gateway:
		if c.Answer.Replayed {
			return replayed, false
		}
		return created, c.Kind == history.Gateway
	case history.Claim:
		if c.Answer.Status == 201 {
			return granted, false
		}
		return replayed, false
	case history.Get:
		return found, false
	}
	return done, false
}

// gatewayOperations takes a request to the gateway apart. What reached the
// upstream says which claim was granted, and with what it was to end.
func gatewayOperations(c *history.Call, e *history.Effect) []*operation {
	claim := operationOf(c)
	claim.kind = history.Claim
	if e == nil {
		if c.Failure == Unsent {
			return nil
		}
		if c.Answer != nil && !c.Ambiguous() && !runEnded(c) {
			return []*operation{claim}
		}
		// Nothing was run, or nothing that arrived: the node gives the claim
		// back, or calls the outcome unknown.
		claim.result, claim.end, claim.dropped = unanswered, history.Never, false
		claim.loose = mayRelease | mayFail
		return []*operation{claim}
	}
	claim.result, claim.dropped = granted, false
	claim.begin = min(c.Begin, e.Begin)
	claim.end, claim.fence2, claim.attempt = e.Begin, e.Fence, e.Attempt
	claim.digest, claim.repeated = "", false
	end := &operation{
		call: c, begin: e.Begin, end: max(e.Begin, c.End), surface: history.Gateway, fence: e.Fence, result: done,
	}
	switch {
	case c.Answer != nil && e.Result == history.Answered && c.Answer.Problem == "" && !c.Answer.Replayed:
		end.kind, end.sent, end.digest, end.state = history.Complete, e.Digest, c.Answer.Digest, "completed"
		return []*operation{claim, end}
	case c.Answer != nil && e.Result == history.Declined && c.Answer.Problem == "":
		end.kind = history.Release
		return []*operation{claim, end}
	}
	switch e.Result {
	case history.Answered:
		// Whole as it left the upstream, and perhaps not as it arrived.
		claim.loose, claim.pending = mayComplete|mayFail, e.Digest
	case history.Declined:
		claim.loose = mayRelease | mayFail
	default:
		claim.loose = mayFail
	}
	return []*operation{claim}
}

// runEnded reports whether an answer of the gateway says that the request held
// the claim, though nothing of it reached the upstream.
func runEnded(c *history.Call) bool {
	return c.Answer.Status == 504 || c.Is("upstream-unreachable") || c.Is("upstream-failed") || c.Answer.Problem == "" && !c.Answer.Replayed
}

// maxRetaken bounds the search: so many times, and no more, one call may have
// been granted the claim after the first.
const maxRetaken = 3

// regrants returns what a call may have been granted beside what it was
// answered: the node sends it again by itself, and if its own grant has lapsed
// meanwhile, or an operator took it away, it is granted afresh. It may be several
// times, if several leases have ended; that is looked into only as far as the
// attempts that were seen ask for it, since it costs the search a lot.
func (o *operation) regrants(opt Options, settled bool, retaken int) (all []*operation) {
	if o.kind != history.Claim && o.kind != history.Create {
		return nil
	}
	if o.result == unanswered {
		for range retaken {
			if o.kind == history.Claim {
				again := *o
				all = append(all, &again)
			}
		}
		return all
	}
	if !settled && (o.kind == history.Create || o.end-o.begin < o.lease-opt.Margin) {
		return nil
	}
	again := *o
	again.result, again.loose, again.dropped = unanswered, 0, false
	again.fence2, again.attempt, again.digest = 0, 0, ""
	all = append(all, &again)
	for n := 2; n <= retaken && o.kind == history.Claim && history.Nano(n)*(o.lease-opt.Margin) <= o.end-o.begin; n++ {
		more := again
		all = append(all, &more)
	}
	return all
}
