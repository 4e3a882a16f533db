package fsm

import (
	"fmt"
	"maps"
	"slices"
)

// model is the contract once more, without store, index, counters or bytes: the
// machine must give the same outcomes. It knows one namespace.
type model struct {
	now       int64
	fence     uint64
	records   map[string]*modelRecord
	term      uint64            // of the entry
	memories  map[string]int64  // request that removed something: remembered until
	uniques   map[string]string // field and value: resource
	resources map[string]string // id: key and body
}

type modelRecord struct {
	state, request, attemptID, what, answer string
	fence                                   uint64
	attempt                                 int
	ttl, lease, ends                        int64
	block, failed, answered                 bool
}

func newModel() *model {
	return &model{records: map[string]*modelRecord{}, memories: map[string]int64{}, uniques: map[string]string{}, resources: map[string]string{}}
}

func (x *modelRecord) String() string {
	s := fmt.Sprintf(" %s fence=%d attempt=%d", x.state, x.fence, x.attempt)
	if x.state == "claimed" {
		return s + fmt.Sprintf(" lease@%d", x.lease-start)
	}
	return s + fmt.Sprintf(" ends@%d", x.ends-start) + x.answer
}

func (x *modelRecord) finish(now int64, r *Response) string {
	x.state, x.failed, x.ends, x.answer = "completed", false, now+x.ttl, fmt.Sprintf(" %d:%s", r.Status, r.Body)
	return "OK" + x.String()
}

// do returns the outcome of c as brief writes it.
func (m *model) do(c *Command) string {
	if c.NotAfter != 0 && c.NotAfter < m.now || c.Term != 0 && c.Term != m.term {
		return "TOO_LATE"
	}
	x := m.records[c.Key]
	if x != nil && x.state != "claimed" && x.ends <= m.now {
		x = nil
	}
	switch c.Kind {
	case Kind_EXPIRE:
		return m.expire(int(c.Limit))
	case Kind_CLAIM, Kind_CREATE:
		return m.begin(c, x)
	case Kind_READ:
		if x == nil {
			return "NOT_FOUND"
		}
		seen := *x
		if x.lapsed(m.now) {
			seen.state, seen.ends = "unknown", m.now+x.ttl
		}
		return "OK" + seen.String()
	case Kind_RELEASE:
		if c.Fence == 0 || c.Fence > m.fence || x != nil && x.fence == c.Fence && (x.state == "completed" || c.Unanswered && (x.answered || x.failed)) {
			return "STALE_FENCE"
		}
		if x != nil && x.fence == c.Fence {
			delete(m.records, c.Key)
		}
		return "OK"
	case Kind_RESOLVE, Kind_FORGET:
		if (c.Kind == Kind_FORGET || c.Retry) && m.memories[string(c.RequestId)] > m.now {
			return "OK"
		}
		if x == nil {
			return "NOT_FOUND"
		}
	}
	if x == nil || x.fence != c.Fence {
		return "STALE_FENCE"
	}
	return m.write(c, x)
}

func (x *modelRecord) lapsed(now int64) bool { return x.state == "claimed" && x.lease <= now }

// write is a command with the current fence of x.
func (m *model) write(c *Command, x *modelRecord) string {
	stands := x.state == "claimed" && !x.lapsed(m.now)
	body := ""
	if c.Response != nil {
		body = fmt.Sprintf(" %d:%s", c.Response.Status, c.Response.Body)
	}
	switch {
	case c.Kind == Kind_RENEW && stands:
		x.lease, x.answered = max(x.lease, m.now+c.Lease), true
		return "OK" + x.String()
	case c.Kind == Kind_RENEW:
		return "STALE_FENCE"
	case c.Kind == Kind_FORGET && (c.Force || !stands), c.Kind == Kind_RESOLVE && c.Retry && !stands && x.state != "completed":
		delete(m.records, c.Key)
		m.memories[string(c.RequestId)] = m.now + 300_000
		return "OK"
	case c.Kind == Kind_FORGET, c.Kind == Kind_RESOLVE && stands:
		return "IN_FLIGHT" + x.String()
	case x.state == "completed" && body == x.answer && c.Kind != Kind_FAIL:
		return "OK" + x.String()
	case x.state == "completed":
		return "STALE_FENCE"
	case c.Kind == Kind_FAIL && x.state == "claimed":
		x.state, x.ends = "unknown", m.now+x.ttl
		fallthrough
	case c.Kind == Kind_FAIL:
		x.failed = true
		return "OK" + x.String()
	}
	return x.finish(m.now, c.Response)
}

// begin is a CLAIM or CREATE that finds x.
func (m *model) begin(c *Command, x *modelRecord) string {
	request, what := string(c.RequestId), c.Surface.String()+string(c.Fingerprint)
	fresh := &modelRecord{
		state: "claimed", request: request, attemptID: c.AttemptId, what: what, attempt: 1,
		ttl: c.Ttl, lease: m.now + c.Lease, block: c.OnLapse == OnLapse_BLOCK,
	}
	if x != nil {
		own := x.request == request
		switch {
		case x.what != what:
			return "KEY_REUSED"
		case x.state == "completed" && own && c.Kind == Kind_CREATE:
			return "CREATED" + x.String()
		case x.state == "completed":
			return "REPLAY" + x.String()
		case x.state == "claimed" && m.now < x.lease && own:
			return "GRANTED" + x.String()
		case x.state == "claimed" && m.now < x.lease && x.attemptID == c.AttemptId && c.AttemptId != "":
			x.answered = true
			return "GRANTED repeated" + x.String()
		case x.state == "claimed" && m.now < x.lease:
			return "IN_FLIGHT" + x.String()
		case x.block && (!own || x.failed || x.answered):
			if x.state == "claimed" {
				x.state, x.ends = "unknown", m.now+x.ttl
			}
			return "OUTCOME_UNKNOWN" + x.String()
		}
		fresh.attempt = x.attempt + 1
	}
	answer := c.Response
	if c.Kind == Kind_CREATE {
		for _, u := range c.Uniques {
			if id := m.uniques[u.Field+string(u.Value)]; id != "" && id != c.ResourceId {
				answer = &Response{Status: 409, Body: []byte(duplicateBody(id))}
				break
			}
		}
		if answer == c.Response {
			m.resources[c.ResourceId] = c.Key
			for _, u := range c.Uniques {
				m.uniques[u.Field+string(u.Value)] = c.ResourceId
			}
		}
	}
	m.fence++
	fresh.fence = m.fence
	m.records[c.Key] = fresh
	if c.Kind == Kind_CREATE {
		fresh.finish(m.now, answer)
		return "CREATED" + fresh.String()
	}
	return "GRANTED" + fresh.String()
}

func (m *model) expire(limit int) string {
	due := map[string]func(){}
	for k, x := range m.records {
		switch {
		case x.lapsed(m.now):
			due[fmt.Sprint(x.lease, "r", k)] = func() { x.state, x.ends = "unknown", m.now+x.ttl }
		case x.state != "claimed" && x.ends <= m.now:
			due[fmt.Sprint(x.ends, "r", k)] = func() { delete(m.records, k) }
		}
	}
	for request, ends := range m.memories {
		if ends <= m.now {
			due[fmt.Sprint(ends, "t", request)] = func() { delete(m.memories, request) }
		}
	}
	order := slices.Sorted(maps.Keys(due))
	order = order[:min(limit, len(order))]
	for _, k := range order {
		due[k]()
	}
	if len(order) == 0 {
		return "OK"
	}
	return fmt.Sprint("OK ", len(order))
}
