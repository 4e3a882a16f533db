package api

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/gorilla/mux"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// keyOf returns the key that the path names. The header Idempotency-Key means
// nothing in the Key API.
func (x *exchange) keyOf() (err error) {
	x.key, err = pathKey(mux.Vars(x.r)["key"])
	return err
}

// keyCommand begins a command on the key of the path, and gives it the members
// of the body.
func (s *server) keyCommand(x *exchange, kind fsm.Kind, members ...member) (*fsm.Command, error) {
	if err := x.keyOf(); err != nil {
		return nil, err
	}
	body, done, err := s.body(x, false)
	if err != nil {
		return nil, err
	}
	defer done()
	c := &fsm.Command{
		Kind: kind, Namespace: x.namespace, Key: x.key, Surface: fsm.Surface_SURFACE_KEYS,
		Lease: s.cfg.Lease.Milliseconds(), Ttl: s.cfg.TTL.Milliseconds(),
	}
	sent := make(map[string]bool, len(members))
	err = eachMember(body, "the body", func(name string, v jsontext.Value) error {
		for _, m := range members {
			if m.name == name {
				sent[name] = true
				return m.set(c, v)
			}
		}
		return unknownMember("the body")
	})
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.required && !sent[m.name] {
			return nil, wrong(m.name, "send it")
		}
	}
	return c, nil
}

// member is one member of a body, and what it does to the command.
type member struct {
	name     string
	required bool
	set      func(*fsm.Command, jsontext.Value) error
}

var (
	fingerprintMember = member{"fingerprint", false, func(c *fsm.Command, v jsontext.Value) error {
		s, err := asString("fingerprint", v, wire.MaxKey)
		c.Fingerprint = []byte(s)
		return err
	}}
	attemptMember = member{"attempt_id", false, func(c *fsm.Command, v jsontext.Value) (err error) {
		c.AttemptId, err = asString("attempt_id", v, wire.MaxKey)
		return err
	}}
	leaseMember = member{"lease", false, func(c *fsm.Command, v jsontext.Value) (err error) {
		c.Lease, err = asDuration("lease", v, minLease, maxLease)
		return err
	}}
	ttlMember = member{"ttl", false, func(c *fsm.Command, v jsontext.Value) (err error) {
		c.Ttl, err = asDuration("ttl", v, minTTL, maxTTL)
		return err
	}}
	onLapseMember = member{"on_lapse", false, func(c *fsm.Command, v jsontext.Value) error {
		switch s, _ := asString("on_lapse", v, wire.MaxKey); s {
		case "retry":
			c.OnLapse = fsm.OnLapse_RETRY
		case "block":
			c.OnLapse = fsm.OnLapse_BLOCK
		default:
			return wrong("on_lapse", `use "retry" or "block"`)
		}
		return nil
	}}
	fenceMember = member{"fence", true, func(c *fsm.Command, v jsontext.Value) (err error) {
		c.Fence, err = asNumber("fence", v, 1, maxFence)
		return err
	}}
	responseMember = member{"response", true, func(c *fsm.Command, v jsontext.Value) (err error) {
		c.Response, err = parseResponse(v)
		return err
	}}
	retryMember = member{"retry", false, func(c *fsm.Command, v jsontext.Value) (err error) {
		c.Retry, err = asBool("retry", v)
		return err
	}}
)

func optional(m member) member {
	m.required = false
	return m
}

// claim is POST /v1/keys/{key}/claim.
func (s *server) claim(x *exchange) error {
	c, err := s.keyCommand(x, fsm.Kind_CLAIM, fingerprintMember, attemptMember, leaseMember, ttlMember, onLapseMember)
	if err != nil {
		return err
	}
	o, err := s.begin(x, c)
	if err != nil {
		return err
	}
	switch o.Code {
	case fsm.Code_GRANTED:
		return x.sendJSON(http.StatusCreated, appendGrant(nil, o))
	case fsm.Code_REPLAY:
		wire.MarkRecorded(x.Header(), o)
		return x.sendRecord(o.Record)
	}
	return wire.ProblemOfOutcome(o)
}

func appendGrant(b []byte, o *fsm.Outcome) []byte {
	b = append(b, `{"state":"claimed","fence":`...)
	b = strconv.AppendUint(b, o.Record.GetFence(), 10)
	b = append(b, `,"attempt":`...)
	b = strconv.AppendUint(b, uint64(o.Record.GetAttempt()), 10)
	b = append(b, `,"lease_expires_at":`...)
	b = appendTime(b, o.Record.GetLeaseExpiresAt())
	b = append(b, `,"repeated":`...)
	b = strconv.AppendBool(b, o.Repeated)
	return append(b, '}')
}

// write proposes a command that carries a fence, and returns the record that
// it left.
func (s *server) write(x *exchange, c *fsm.Command) (*fsm.Record, error) {
	o, err := s.cluster.Propose(x.r.Context(), c)
	if err != nil {
		return nil, fmt.Errorf("write record: %w", err)
	}
	if o.Code != fsm.Code_OK {
		return nil, wire.ProblemOfOutcome(o)
	}
	return o.Record, nil
}

// complete is POST /v1/keys/{key}/complete.
func (s *server) complete(x *exchange) error {
	c, err := s.keyCommand(x, fsm.Kind_COMPLETE, fenceMember, responseMember)
	if err != nil {
		return err
	}
	record, err := s.write(x, c)
	if err != nil {
		return err
	}
	return x.sendRecord(record)
}

// renew is POST /v1/keys/{key}/renew.
func (s *server) renew(x *exchange) error {
	c, err := s.keyCommand(x, fsm.Kind_RENEW, fenceMember, leaseMember)
	if err != nil {
		return err
	}
	record, err := s.write(x, c)
	if err != nil {
		return err
	}
	b := appendTime([]byte(`{"lease_expires_at":`), record.GetLeaseExpiresAt())
	return x.sendJSON(http.StatusOK, append(b, '}'))
}

// release is POST /v1/keys/{key}/release.
func (s *server) release(x *exchange) error {
	c, err := s.keyCommand(x, fsm.Kind_RELEASE, fenceMember)
	if err != nil {
		return err
	}
	if _, err := s.write(x, c); err != nil {
		return err
	}
	return x.sendNothing()
}

// fail is POST /v1/keys/{key}/fail.
func (s *server) fail(x *exchange) error {
	c, err := s.keyCommand(x, fsm.Kind_FAIL, fenceMember)
	if err != nil {
		return err
	}
	record, err := s.write(x, c)
	if err != nil {
		return err
	}
	return x.sendRecord(record)
}

// resolve is POST /v1/keys/{key}/resolve.
func (s *server) resolve(x *exchange) error {
	c, err := s.keyCommand(x, fsm.Kind_RESOLVE, optional(fenceMember), optional(responseMember), retryMember)
	if err != nil {
		return err
	}
	if c.Retry == (c.Response != nil) {
		return wire.BadRequest.With(`the body says neither or both of "response" and "retry": true: send one`)
	}
	if err := s.fillFence(x, c); err != nil {
		return err
	}
	record, err := s.write(x, c)
	if err != nil {
		return err
	}
	if c.Retry {
		return x.sendNothing()
	}
	return x.sendRecord(record)
}

// fillFence gives c the fence of the record as it is now, unless it has one:
// then only what the operator could see is changed.
func (s *server) fillFence(x *exchange, c *fsm.Command) error {
	if c.Fence != 0 {
		return nil
	}
	record, err := s.readRecord(x)
	if err != nil {
		return err
	}
	c.Fence = record.GetFence()
	return nil
}

// readRecord reads the record through the log.
func (s *server) readRecord(x *exchange) (*fsm.Record, error) {
	return s.write(x, &fsm.Command{Kind: fsm.Kind_READ, Namespace: x.namespace, Key: x.key})
}

// getKey is GET /v1/keys/{key}.
func (s *server) getKey(x *exchange) error {
	if err := x.keyOf(); err != nil {
		return err
	}
	var (
		record *fsm.Record
		err    error
	)
	switch x.query.Get("consistency") {
	case "", "linearizable":
		record, err = s.readRecord(x)
	case "local":
		record, err = s.readLocal(x)
	default:
		err = wrong("consistency", "use linearizable or local")
	}
	if err != nil {
		return err
	}
	return x.sendRecord(record)
}

// readLocal returns the record that this node has, as it is by this node's
// estimate of cluster time: no entry may have noticed yet that a lease lapsed.
func (s *server) readLocal(x *exchange) (*fsm.Record, error) {
	record, err := s.cluster.Lookup(x.namespace, x.key)
	if err != nil {
		return nil, fmt.Errorf("look up key: %w", err)
	}
	now := s.cluster.Now()
	switch {
	case record == nil, record.ExpiresAt != 0 && record.ExpiresAt <= now:
		return nil, wire.KeyUnknown
	case record.State == fsm.State_CLAIMED && record.LeaseExpiresAt <= now:
		record.State = fsm.State_UNKNOWN
	}
	return record, nil
}

// listKeys is GET /v1/keys.
func (s *server) listKeys(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	q := fsm.ListQuery{Prefix: x.query.Get("prefix"), After: x.query.Get("after"), Limit: limit}
	if name := x.query.Get("state"); name != "" {
		for state, known := range stateNames {
			if name == known {
				q.State = state
			}
		}
		if q.State == fsm.State_ABSENT {
			return wrong("state", "use claimed, completed or unknown")
		}
	}
	if err := s.cluster.Barrier(x.r.Context()); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	listed, more, err := s.cluster.List(x.namespace, q)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	page := newPage("keys")
	for _, l := range listed {
		record, err := appendRecord(nil, x.namespace, l.Key, l.Record)
		if err != nil {
			return fmt.Errorf("show record: %w", err)
		}
		page.add(l.Key, record)
	}
	return x.sendJSON(http.StatusOK, page.end(more))
}

// forgetKey is DELETE /v1/keys/{key}.
func (s *server) forgetKey(x *exchange) error {
	if err := x.keyOf(); err != nil {
		return err
	}
	c := &fsm.Command{Kind: fsm.Kind_FORGET, Namespace: x.namespace, Key: x.key}
	var err error
	if fence := x.query.Get("fence"); fence != "" {
		if c.Fence, err = asNumber("fence", fence, 1, maxFence); err != nil {
			return err
		}
	}
	switch x.query.Get("force") {
	case "", "false":
	case "true":
		c.Force = true
	default:
		return wrong("force", "use true or false")
	}
	if err := s.fillFence(x, c); err != nil {
		return err
	}
	if _, err := s.write(x, c); err != nil {
		return err
	}
	return x.sendNothing()
}
