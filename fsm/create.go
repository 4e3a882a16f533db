package fsm

import (
	"bytes"
	"fmt"
)

// create claims, runs and completes in one step: the resource, its unique
// values and the record of the response are in one batch.
func (t *transaction) create(c *Command) (*Outcome, error) {
	s, err := t.slot(c)
	if err != nil {
		return nil, err
	}
	switch contest(s.rec, c, t.meta.Time) {
	case free:
		return t.createFresh(s, c)
	case reused:
		return &Outcome{Code: Code_KEY_REUSED}, nil
	}
	// A record of the resource API is always completed.
	o := &Outcome{Code: Code_REPLAY, Record: s.rec}
	if bytes.Equal(s.rec.RequestId, c.RequestId) {
		o.Code = Code_CREATED
	}
	return o, fillBody(t.batch, c.Namespace, s.rec)
}

func (t *transaction) createFresh(s slot, c *Command) (*Outcome, error) {
	owner, err := t.duplicateOf(c)
	if err != nil {
		return nil, err
	}
	answer, id := c.Response, c.ResourceId
	var kept *Response
	if owner != "" {
		answer, id = duplicate(owner), ""
		kept = answer
	} else {
		wrong, err := t.addResource(c)
		if err != nil {
			return nil, err
		}
		if wrong != "" {
			return refused(wrong), nil
		}
		kept = withoutBody(answer)
	}
	s.rec = &Record{
		Surface:     c.Surface,
		Fingerprint: c.Fingerprint,
		Fence:       t.nextFence(),
		Attempt:     1,
		RequestId:   c.RequestId,
		Ttl:         c.Ttl,
		CreatedAt:   t.meta.Time,
		ResourceId:  id,
	}
	s.rec.becomeCompleted(t.meta.Time, kept)
	if err := t.save(s); err != nil {
		return nil, err
	}
	s.rec.Response = answer
	return &Outcome{Code: Code_CREATED, Record: s.rec}, nil
}

// withoutBody returns r without the body, which is stored with the resource.
func withoutBody(r *Response) *Response {
	return &Response{Status: r.Status, Headers: r.Headers, Encoding: r.Encoding, Size: r.Size, Digest: r.Digest}
}

// duplicateOf returns the id of another resource that has a unique value of c,
// or "". One that a command made itself, under a record that has ended since,
// is no other.
func (t *transaction) duplicateOf(c *Command) (string, error) {
	for _, u := range c.Uniques {
		t.other = appendUniqueKey(t.other[:0], c.Namespace, u)
		value, err := t.batch.Get(t.other)
		if err != nil {
			return "", err
		}
		if value == nil {
			continue
		}
		id, err := openPayload(t.other, value)
		if err != nil {
			return "", err
		}
		if string(id) != c.ResourceId {
			return string(id), nil
		}
	}
	return "", nil
}

// addResource stores the resource and its unique values. It says what is wrong
// if the id is that of another resource.
func (t *transaction) addResource(c *Command) (wrong string, err error) {
	t.other = appendName(t.other[:0], tableResource, c.Namespace, c.ResourceId)
	old, err := readResource(t.batch, t.other)
	if err != nil {
		return "", err
	}
	if old != nil {
		if old.Key != c.Key || old.Encoding != c.Response.Encoding || !bytes.Equal(old.Body, c.Response.Body) {
			return "another resource has this id", nil
		}
		return "", nil
	}
	t.value, err = appendValue(t.value[:0], t.other, &Resource{
		Body:      c.Response.Body,
		Encoding:  c.Response.Encoding,
		Size:      c.Response.Size,
		CreatedAt: t.meta.Time,
		Key:       c.Key,
	})
	if err != nil {
		return "", err
	}
	if err := t.batch.Set(t.other, t.value); err != nil {
		return "", err
	}
	t.meta.Resources++
	for _, u := range c.Uniques {
		t.other = appendUniqueKey(t.other[:0], c.Namespace, u)
		t.value = appendText(t.value[:0], t.other, c.ResourceId)
		if err := t.batch.Set(t.other, t.value); err != nil {
			return "", err
		}
	}
	return "", nil
}

// duplicate is the response to a create that resource id got in the way of.
// Its bytes are frozen: every node, of every version, must make the same.
func duplicate(id string) *Response {
	body := fmt.Sprintf(`{"type":"urn:onced:duplicate-resource",`+
		`"title":"A resource with the same unique field exists","status":409,`+
		`"detail":"another resource has the same value of a unique field",`+
		`"retryable":false,"resource_id":"%s"}`, id)
	return NewResponse(409, []*Header{{Name: "Content-Type", Value: "application/problem+json"}}, []byte(body))
}
