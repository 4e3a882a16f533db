package api

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// create is POST /create: key, resource and response are one log entry.
func (s *server) create(x *exchange) error {
	c, echo, err := s.readCreate(x)
	if err != nil {
		return err
	}
	o, err := s.begin(x, c)
	if err != nil {
		return err
	}
	if o.Code != fsm.Code_CREATED && o.Code != fsm.Code_REPLAY {
		return wire.ProblemOfOutcome(o)
	}
	return wire.SendRecorded(x, echo, o)
}

// readCreate returns the command, and the header that echoes its key.
func (s *server) readCreate(x *exchange) (c *fsm.Command, echo string, err error) {
	body, done, err := s.body(x, true)
	if err != nil {
		return nil, "", err
	}
	defer done()
	bodyKey, data, err := parseCreate(body)
	if err != nil {
		return nil, "", err
	}
	x.key, echo, err = createKey(x.r.Header, bodyKey)
	if err != nil {
		return nil, "", err
	}
	if data == nil || data.Kind() == 'n' {
		return nil, "", wrong("data", "send it: any JSON value but null")
	}
	c, err = s.createCommand(x.namespace, x.key, data)
	return c, echo, err
}

// parseCreate returns the members of the body: the key, nil if there is none,
// and the data as it was sent.
func parseCreate(body []byte) (key *string, data jsontext.Value, err error) {
	err = eachMember(body, "the body", func(name string, v jsontext.Value) error {
		switch name {
		case "idempotencyKey":
			if v.Kind() == 'n' {
				return nil
			}
			s, err := asString("idempotencyKey", v, len(v))
			key = &s
			return err
		case "data":
			data = v
			return nil
		}
		return unknownMember("the body")
	})
	return key, data, err
}

var errorMember = []wire.Member{{Name: "error", Value: jsontext.Value(`"Idempotency key is required"`)}}

// createKey returns the key of the header or of the body, and the header that
// echoes it: as it was sent, where it came as a header.
func createKey(h http.Header, inBody *string) (key, echo string, err error) {
	key, err = wire.ParseKey(h)
	if errors.Is(err, wire.KeyMissing) && inBody == nil {
		p := wire.KeyMissing.With(`send the header Idempotency-Key, or the member "idempotencyKey"`)
		p.Members = errorMember
		return "", "", p
	}
	if inBody == nil {
		if err != nil {
			return "", "", err
		}
		return key, h.Get(wire.KeyHeader), nil
	}
	if mistake := wire.KeyMistake(*inBody); mistake != "" {
		p := wire.KeyInvalid.With("idempotencyKey: " + mistake)
		if *inBody == "" {
			p.Members = errorMember
		}
		return "", "", p
	}
	switch {
	case errors.Is(err, wire.KeyMissing):
		return *inBody, wire.FormatKey(*inBody), nil
	case err != nil:
		return "", "", err
	case key != *inBody:
		return "", "", wire.KeyInvalid.With("the header and the body carry different keys: send one, or the same")
	}
	return key, h.Get(wire.KeyHeader), nil
}

// createCommand works out all that the state machine cannot: the id, the
// response, the fingerprint and the unique values.
func (s *server) createCommand(namespace, key string, data jsontext.Value) (*fsm.Command, error) {
	fingerprint, err := fingerprintOf(data)
	if err != nil {
		return nil, err
	}
	uniques, err := s.uniquesOf(data)
	if err != nil {
		return nil, err
	}
	id := s.cfg.NewID()
	body := make([]byte, 0, len(`{"id":"","data":}`)+len(id)+len(data))
	body = append(body, `{"id":"`...)
	body = append(body, id...)
	body = append(body, `","data":`...)
	body = append(body, data...)
	body = append(body, '}')
	headers := []*fsm.Header{{Name: "Content-Type", Value: jsonType}, {Name: "Location", Value: "/resources/" + id}}
	return &fsm.Command{
		Kind: fsm.Kind_CREATE, Namespace: namespace, Key: key, Surface: fsm.Surface_SURFACE_CREATE,
		Fingerprint: fingerprint, Ttl: s.cfg.TTL.Milliseconds(),
		Response: fsm.NewResponse(http.StatusCreated, headers, body), ResourceId: id, Uniques: uniques,
	}, nil
}

// fingerprintOf is the same for data that differ only in the order of members,
// in white space and in how strings are escaped. Numbers count as they are
// written: 1.0 and 1 differ, and no digit is lost of a long one.
func fingerprintOf(data jsontext.Value) ([]byte, error) {
	b := buffers.Get().(*bytes.Buffer)
	defer release(b)
	b.Grow(len(data))
	canonical, err := jsontext.AppendFormat(b.AvailableBuffer(), data, jsontext.ReorderRawObjects(true))
	if err != nil {
		return nil, malformed("data", err)
	}
	sum := sha256.Sum256(canonical)
	return sum[:], nil
}

// uniquesOf returns the values of the unique fields that data has. Two values
// are the same if their canonical JSON is, with every digit of whole numbers
// kept and other numbers as RFC 8785 writes them.
func (s *server) uniquesOf(data jsontext.Value) ([]*fsm.Unique, error) {
	if len(s.unique) == 0 || data.Kind() != '{' {
		return nil, nil
	}
	uniques := make([]*fsm.Unique, 0, len(s.unique))
	err := eachMember(data, "data", func(name string, v jsontext.Value) error {
		if _, ok := s.unique[name]; !ok || v.Kind() == 'n' {
			return nil
		}
		canonical, err := jsontext.AppendFormat(nil, v, jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawFloats(true))
		if err != nil {
			return malformed("data", err)
		}
		sum := sha256.Sum256(canonical)
		uniques = append(uniques, &fsm.Unique{Field: name, Value: sum[:]})
		return nil
	})
	return uniques, err
}

// getResource is GET /resources/{id}: the body that its create was answered with.
func (s *server) getResource(x *exchange) error {
	id, err := x.pathVar("id")
	if err != nil {
		return err
	}
	if err := s.cluster.Barrier(x.r.Context()); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	resource, err := s.cluster.Resource(x.namespace, id)
	if err != nil {
		return fmt.Errorf("get resource: %w", err)
	}
	if resource == nil {
		return wire.NotFound.With("there is no resource with this id")
	}
	body, err := resource.Plain()
	if err != nil {
		return fmt.Errorf("read resource: %w", err)
	}
	return x.sendJSON(http.StatusOK, body)
}

// listResources is GET /resources.
func (s *server) listResources(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	if err := s.cluster.Barrier(x.r.Context()); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	listed, more, err := s.cluster.Resources(x.namespace, x.query.Get("after"), limit)
	if err != nil {
		return fmt.Errorf("list resources: %w", err)
	}
	page := newPage("resources")
	for _, l := range listed {
		body, err := l.Resource.Plain()
		if err != nil {
			return fmt.Errorf("read resource: %w", err)
		}
		page.add(l.ID, body)
	}
	return x.sendJSON(http.StatusOK, page.end(more))
}
