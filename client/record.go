package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"
)

// State is what a record is in.
type State string

// The states of a record. A key without a record has none.
const (
	Claimed   State = "claimed"
	Completed State = "completed"
	Unknown   State = "unknown"
)

// Record is what the cluster keeps of a key. Times that do not apply are zero.
type Record struct {
	Key         string
	Namespace   string
	State       State
	Fence       uint64
	Attempt     int
	Fingerprint string
	CreatedAt   time.Time
	// LeaseExpiresAt is set while the record is claimed.
	LeaseExpiresAt time.Time
	CompletedAt    time.Time
	// ExpiresAt is when the record ends; zero while it is claimed.
	ExpiresAt time.Time
	// Response is nil unless the record is completed.
	Response *Response
}

// Response is what a key's request was answered with.
type Response struct {
	// Status is 200 to 599.
	Status int
	// Header has the headers that the cluster keeps; of a response that is to
	// be recorded, it drops all others. Values are UTF-8.
	Header http.Header
	Body   []byte
	// BodyDropped: the body was not kept, and Digest, in hex, is that of the
	// whole response. The cluster says so; it cannot be told.
	BodyDropped bool
	Digest      string
}

// responseBody is a response as it is sent.
type responseBody struct {
	Status      int                 `json:"status"`
	Headers     map[string][]string `json:"headers,omitempty"`
	Body        *string             `json:"body,omitempty"`
	BodyBase64  *string             `json:"body_base64,omitempty"`
	BodyDropped bool                `json:"body_dropped,omitempty"`
	Digest      string              `json:"digest,omitempty"`
}

// encode returns r as it is sent to the cluster. Headers of which only the
// spelling differs are one.
func (r *Response) encode() (json.RawMessage, error) {
	if r == nil {
		return nil, errors.New("there is no response")
	}
	out := responseBody{Status: r.Status, Headers: map[string][]string{}}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := r.Header[name]
		for _, value := range values {
			if !utf8.ValidString(value) {
				return nil, errors.New("a header is not valid UTF-8")
			}
		}
		if len(values) > 0 {
			canonical := http.CanonicalHeaderKey(name)
			out.Headers[canonical] = append(out.Headers[canonical], values...)
		}
	}
	if utf8.Valid(r.Body) && jsonLength(r.Body) <= base64.StdEncoding.EncodedLen(len(r.Body)) {
		s := string(r.Body)
		out.Body = &s
	} else {
		s := base64.StdEncoding.EncodeToString(r.Body)
		out.BodyBase64 = &s
	}
	return encodeJSON(out)
}

// jsonLength is at least the length of b as a JSON string, without quotes.
func jsonLength(b []byte) int {
	n := len(b)
	for _, c := range b {
		switch {
		case c == '"', c == '\\', c == '\n', c == '\r', c == '\t':
			n++
		case c < 0x20, c == 0xe2: // U+2028 and U+2029 are escaped, and begin so
			n += 5
		}
	}
	return n
}

// encodeJSON encodes v without the escapes that are for HTML only.
func encodeJSON(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (b *responseBody) decode() (*Response, error) {
	r := &Response{Status: b.Status, BodyDropped: b.BodyDropped, Digest: b.Digest, Header: make(http.Header, len(b.Headers))}
	for name, values := range b.Headers {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	switch {
	case b.Status < 100 || b.Status > 999:
		return nil, fmt.Errorf("its response has status %d", b.Status)
	case b.BodyDropped:
	case b.Body != nil:
		r.Body = []byte(*b.Body)
	case b.BodyBase64 != nil:
		body, err := base64.StdEncoding.DecodeString(*b.BodyBase64)
		if err != nil {
			return nil, fmt.Errorf("decode the body of its response: %w", err)
		}
		r.Body = body
	default:
		return nil, errors.New("its response has no body")
	}
	return r, nil
}

// recordBody is a record as it is sent.
type recordBody struct {
	Key            string        `json:"key"`
	Namespace      string        `json:"namespace"`
	State          State         `json:"state"`
	Fence          uint64        `json:"fence"`
	Attempt        int           `json:"attempt"`
	Fingerprint    string        `json:"fingerprint"`
	CreatedAt      time.Time     `json:"created_at"`
	LeaseExpiresAt time.Time     `json:"lease_expires_at"`
	CompletedAt    time.Time     `json:"completed_at"`
	ExpiresAt      time.Time     `json:"expires_at"`
	Response       *responseBody `json:"response"`
}

func (b *recordBody) decode() (*Record, error) {
	r := &Record{
		Key: b.Key, Namespace: b.Namespace, State: b.State, Fence: b.Fence, Attempt: b.Attempt, Fingerprint: b.Fingerprint,
		CreatedAt: b.CreatedAt, LeaseExpiresAt: b.LeaseExpiresAt, CompletedAt: b.CompletedAt, ExpiresAt: b.ExpiresAt,
	}
	switch {
	case b.Key == "" || b.Fence == 0:
		return nil, errors.New("it is no record")
	case b.State != Claimed && b.State != Completed && b.State != Unknown:
		return nil, fmt.Errorf("its state is %.20q", b.State)
	case (b.State == Completed) != (b.Response != nil):
		return nil, fmt.Errorf("a record that is %s, and its response, do not go together", b.State)
	}
	if b.Response == nil {
		return r, nil
	}
	var err error
	r.Response, err = b.Response.decode()
	return r, err
}

// parseRecord returns the record that b, which may be anything, is in JSON.
func parseRecord(b []byte) (*Record, error) {
	var body recordBody
	if err := json.Unmarshal(b, &body); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	return body.decode()
}

// parsePage returns the page of records that b, which may be anything, is in
// JSON.
func parsePage(b []byte) (*Page, error) {
	var body struct {
		Keys []recordBody `json:"keys"`
		Next string       `json:"next"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return nil, fmt.Errorf("decode page: %w", err)
	}
	if body.Keys == nil {
		return nil, errors.New("it is no page of keys")
	}
	p := &Page{Next: body.Next, Records: make([]*Record, len(body.Keys))}
	for i := range body.Keys {
		var err error
		if p.Records[i], err = body.Keys[i].decode(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// parseGrant returns the claim that b, which may be anything, is in JSON.
func parseGrant(b []byte) (*Claim, error) {
	var body struct {
		State          State     `json:"state"`
		Fence          uint64    `json:"fence"`
		Attempt        int       `json:"attempt"`
		LeaseExpiresAt time.Time `json:"lease_expires_at"`
		Repeated       bool      `json:"repeated"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return nil, fmt.Errorf("decode grant: %w", err)
	}
	if body.State != Claimed || body.Fence == 0 || body.Attempt < 1 {
		return nil, errors.New("it is no grant")
	}
	return &Claim{Fence: body.Fence, Attempt: body.Attempt, LeaseExpiresAt: body.LeaseExpiresAt, Repeated: body.Repeated}, nil
}
