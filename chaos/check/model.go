package check

import (
	"fmt"

	"github.com/onced/onced/chaos/history"
)

type phase uint8

const (
	free phase = iota
	claimed
	unknown
	completed
)

var phaseNames = map[string]phase{"claimed": claimed, "unknown": unknown, "completed": completed}

// state is what a key may be in: the record of the state machine, as far as
// clients can tell.
type state struct {
	phase       phase
	surface     history.Kind
	fingerprint string
	attemptID   string
	policy      string
	fence       uint64 // 0: granted, and no client has seen it
	attempt     int
	lease, ttl  history.Nano
	digest      string // "": completed, and no client has seen with what
	// holder is the call that was granted the claim.
	holder  uint64
	loose   loose
	pending string
	since   history.Nano // no sooner was it granted

	// until is the earliest moment at which the lease, or the record, may end.
	// at is no later than the moment of the last step: an end that no client
	// asked for has a time before which it does not come about.
	until, at history.Nano
	// floor is the highest fence that was granted.
	floor uint64
	// The response that was last forgotten: until a node that is cut off has
	// applied that, it may still replay it.
	ghost            bool
	ghostSurface     history.Kind
	ghostFingerprint string
	ghostDigest      string
}

// otherFence is none that is ever granted.
const otherFence = 1<<64 - 1

// absent is s without a record.
func (s state) absent() state {
	return state{
		at: s.at, floor: s.floor,
		ghost: s.ghost, ghostSurface: s.ghostSurface, ghostFingerprint: s.ghostFingerprint, ghostDigest: s.ghostDigest,
	}
}

func (s state) forgotten() state {
	gone := s.absent()
	if s.phase == completed {
		gone.ghost, gone.ghostSurface, gone.ghostFingerprint, gone.ghostDigest = true, s.surface, s.fingerprint, s.digest
	}
	return gone
}

// model says what may follow what. Its margin is how far the clocks of a
// majority may be apart: nothing ends earlier than its time by more.
type model struct{ margin history.Nano }

// bases returns s and what it may have become by o's end without any client:
// the lease ended, the retention ended, or the holder settled it.
func (m model) bases(s state, o *operation) []state {
	all := []state{s}
	add := func(b state) {
		if b.at <= o.end {
			all = append(all, b)
		}
	}
	if s.phase == claimed || s.phase == unknown {
		m.settleLoosely(s, add)
	}
	if s.phase == claimed {
		lapsed := s
		lapsed.phase = unknown
		lapsed.at = max(s.at, s.until-m.margin)
		lapsed.until = s.until + s.ttl
		add(lapsed)
		s = lapsed
	}
	if s.phase == unknown || s.phase == completed {
		ended := s.absent()
		ended.at = max(s.at, s.until-m.margin)
		add(ended)
	}
	return all
}

func (m model) settleLoosely(s state, add func(state)) {
	if s.loose&mayRelease != 0 {
		add(s.absent())
	}
	if s.loose&mayComplete != 0 {
		b := s.completedWith(s.pending, s.since)
		add(b)
		b = b.absent()
		b.at = max(s.at, s.since+s.ttl-m.margin)
		add(b)
	}
	if s.loose&mayFail != 0 && s.phase == claimed {
		b := s
		b.phase, b.loose, b.holder = unknown, s.loose&^mayFail, 0
		b.until = max(s.at, s.since) + s.ttl
		add(b)
		b = b.absent()
		b.at = max(s.at, s.since+s.ttl-m.margin)
		add(b)
	}
}

func (s state) completedWith(digest string, at history.Nano) state {
	s.phase, s.digest = completed, digest
	s.loose, s.pending, s.holder = 0, "", 0
	s.until = max(s.at, at) + s.ttl
	return s
}

// step returns every state that o may lead to from s; none if its answer
// cannot be.
func (m model) step(s state, o *operation) []state {
	if s.at > o.end {
		return nil
	}
	var next []state
	for _, b := range m.bases(s, o) {
		if o.result == unanswered {
			next = append(next, m.mayHave(b, o)...)
		} else if n, ok := m.answer(b, o); ok {
			next = append(next, n...)
		}
	}
	if o.result == unanswered {
		next = append(next, s)
	}
	return next
}

// answer returns what o leads to from b, and whether its answer is one that b
// gives.
func (m model) answer(b state, o *operation) ([]state, bool) {
	switch o.kind {
	case history.Claim:
		return m.claim(b, o)
	case history.Create:
		return m.create(b, o)
	case history.Get:
		return m.get(b, o)
	}
	n, r := m.write(b, o)
	if r == o.result {
		return []state{n}, true
	}
	if b.fence == 0 && b.phase != free && o.fence > b.floor {
		// Whether the fence is that of the record is not known: it may not be.
		other := b
		other.fence = otherFence
		if n, r := m.write(other, o); r == o.result {
			n.fence = 0
			return []state{n}, true
		}
	}
	return nil, false
}

// hasFence reports whether b's fence is f, which is then known.
func hasFence(b state, f uint64) (state, bool) {
	if b.fence == 0 && f > b.floor {
		b.fence, b.floor = f, f
	}
	return b, b.fence == f
}

func (b state) matches(o *operation) bool {
	return b.surface == o.surface && b.fingerprint == o.fingerprint
}

// claim follows the order of checks of the state machine: another request,
// completed, the same attempt, lapsed or unknown, in flight.
func (m model) claim(b state, o *operation) ([]state, bool) {
	switch o.result {
	case keyReused:
		return m.reused(b, o)
	case replayed:
		return m.replay(b, o)
	case inProgress:
		same := o.attemptID != "" && b.attemptID == o.attemptID
		return []state{b}, b.phase == claimed && b.matches(o) && !same
	case outcomeUnknown:
		return []state{b}, b.phase == unknown && b.matches(o) && b.policy == history.Block
	case granted:
		return m.grant(b, o)
	}
	return nil, false
}

func (m model) reused(b state, o *operation) ([]state, bool) {
	if b.ghost && (b.ghostSurface != o.surface || b.ghostFingerprint != o.fingerprint) {
		return []state{b}, true
	}
	return []state{b}, b.phase != free && !b.matches(o)
}

func (m model) replay(b state, o *operation) ([]state, bool) {
	if b.phase == completed && b.matches(o) {
		n, ok := b, true
		if o.fence2 != 0 {
			n, ok = hasFence(b, o.fence2)
		}
		if n.digest == "" {
			n.digest = o.digest
		}
		if ok && n.digest == o.digest {
			return []state{n}, true
		}
	}
	ghost := b.ghost && b.ghostSurface == o.surface && b.ghostFingerprint == o.fingerprint && (b.ghostDigest == o.digest || b.ghostDigest == "")
	return []state{b}, ghost
}

func (m model) grant(b state, o *operation) ([]state, bool) {
	switch {
	case b.phase == claimed && b.matches(o):
		// The same attempt, or the same call: the grant that it has.
		if o.repeated != (b.holder != o.call.ID) || o.repeated && (o.attemptID == "" || o.attemptID != b.attemptID) {
			return nil, false
		}
		n, ok := hasFence(b, o.fence2)
		n.loose, n.pending = o.loose, o.pending
		return []state{n}, ok && o.attempt == b.attempt
	case !m.grantable(b, o) || o.repeated || o.fence2 <= b.floor || o.attempt != nextAttempt(b):
		return nil, false
	}
	n := m.granted(b, o)
	n.fence, n.floor = o.fence2, o.fence2
	return []state{n}, true
}

func (m model) grantable(b state, o *operation) bool {
	return b.phase == free || b.phase == unknown && b.matches(o) && (b.policy == history.Retry || b.holder == o.call.ID)
}

func nextAttempt(b state) int {
	if b.phase == free {
		return 1
	}
	return b.attempt + 1
}

// granted is b after a grant whose fence nobody knows.
func (m model) granted(b state, o *operation) state {
	n := b.absent()
	n.phase, n.surface, n.fingerprint, n.attemptID, n.policy = claimed, o.surface, o.fingerprint, o.attemptID, o.policy
	n.attempt, n.lease, n.ttl = nextAttempt(b), o.lease, o.ttl
	n.holder, n.loose, n.pending = o.call.ID, o.loose, o.pending
	n.since = max(o.begin, b.at)
	n.until = n.since + o.lease
	return n
}

func (m model) create(b state, o *operation) ([]state, bool) {
	switch o.result {
	case keyReused:
		return m.reused(b, o)
	case replayed:
		return m.replay(b, o)
	case created:
		if b.phase == completed && b.holder == o.call.ID && b.matches(o) && (b.digest == "" || b.digest == o.digest) {
			b.digest = o.digest
			return []state{b}, true
		}
		n := m.created(b, o)
		n.digest = o.digest
		return []state{n}, b.phase == free
	}
	return nil, false
}

func (m model) created(b state, o *operation) state {
	n := m.granted(b, o).completedWith("", o.begin)
	n.holder = o.call.ID
	return n
}

func (m model) get(b state, o *operation) ([]state, bool) {
	if o.result == absent {
		return []state{b}, b.phase == free
	}
	n, ok := hasFence(b, o.fence2)
	if o.result != found || !ok || b.phase == free || b.phase != phaseNames[o.state] || b.attempt != o.attempt {
		return nil, false
	}
	if n.phase == completed {
		if n.digest == "" {
			n.digest = o.digest
		}
		return []state{n}, n.digest == o.digest
	}
	return []state{n}, true
}

// write returns what a write on the record leads to from b, and its result.
func (m model) write(b state, o *operation) (state, result) {
	n, current := hasFence(b, o.fence)
	current = current && b.phase != free
	now := max(o.begin, b.at)
	switch o.kind {
	case history.Renew:
		if !current || b.phase != claimed {
			return b, stale
		}
		n.until = max(n.until, now+o.lease)
		n.loose &^= mayRelease // the grant came through
		return n, done
	case history.Complete:
		return m.complete(b, n, current, o)
	case history.Release:
		switch {
		case !current:
			return b, done
		case b.phase == completed:
			return b, stale
		}
		return n.absent(), done
	case history.Fail:
		if !current || b.phase == completed {
			return b, stale
		}
		if b.phase == claimed {
			n.phase, n.until = unknown, now+b.ttl
		}
		n.holder, n.loose, n.pending = 0, 0, ""
		return n, done
	case history.Resolve:
		return m.resolve(b, n, current, o)
	case history.Forget:
		switch {
		case b.phase == free:
			return b, absent
		case !current:
			return b, stale
		case b.phase == claimed && !o.force:
			return n, inProgress
		}
		return n.forgotten(), done
	}
	panic(fmt.Sprintf("the model knows no %s", o.kind))
}

// complete is accepted as long as the fence is current, also after the lease.
func (m model) complete(b, n state, current bool, o *operation) (state, result) {
	switch {
	case !current, o.result == done && o.digest != o.sent:
		return b, stale
	case b.phase != completed:
		return n.completedWith(o.sent, o.begin), done
	case b.digest == "" || b.digest == o.sent:
		n.digest = o.sent
		return n, done
	}
	return b, stale
}

func (m model) resolve(b, n state, current bool, o *operation) (state, result) {
	switch {
	case b.phase == free:
		return b, absent
	case !current:
		return b, stale
	case b.phase == claimed:
		return n, inProgress
	case !o.retry:
		return m.complete(b, n, current, o)
	case b.phase == completed:
		return b, stale
	}
	return n.absent(), done
}

// mayHave returns what an operation that was not answered may lead to from b,
// beside nothing.
func (m model) mayHave(b state, o *operation) []state {
	switch o.kind {
	case history.Claim:
		if m.grantable(b, o) {
			return []state{m.granted(b, o)}
		}
		return nil
	case history.Create:
		if b.phase == free {
			return []state{m.created(b, o)}
		}
		return nil
	}
	definite := *o
	definite.result, definite.digest = done, o.sent
	if n, r := m.write(b, &definite); r == done && n != b {
		return []state{n}
	}
	return nil
}
