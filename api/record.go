package api

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// parseResponse returns the response that the JSON object v describes.
func parseResponse(v jsontext.Value) (*fsm.Response, error) {
	if v.Kind() != '{' {
		return nil, wrong("response", `use an object, as {"status":200,"body":"…"}`)
	}
	var (
		status  uint64
		headers []*fsm.Header
		bodies  int
		body    []byte
	)
	err := eachMember(v, "response", func(name string, v jsontext.Value) (err error) {
		switch name {
		case "status":
			status, err = asNumber("response.status", v, 200, 599)
		case "headers":
			headers, err = parseHeaders(v)
		case "body":
			var s string
			s, err = asString("response.body", v, fsm.MaxBody)
			body = []byte(s)
			bodies++
		case "body_base64":
			body, err = asBase64("response.body_base64", v)
			bodies++
		default:
			err = unknownMember("response")
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case status == 0:
		return nil, wrong("response.status", "send it: a whole number from 200 to 599")
	case bodies > 1:
		return nil, wrong("response", "send body or body_base64, not both")
	}
	return fsm.NewResponse(int(status), headers, body), nil
}

func asBase64(field string, v jsontext.Value) ([]byte, error) {
	s, err := asString(field, v, 2*fsm.MaxBody)
	if err != nil {
		return nil, err
	}
	// The decoder would skip line breaks.
	if b, err := base64.StdEncoding.Strict().DecodeString(s); err == nil && !strings.ContainsAny(s, "\r\n") {
		return b, nil
	}
	return nil, wrong(field, "use standard base64 with padding")
}

// parseHeaders returns the headers of {name: [values]} that are kept, with
// canonical names and in their order: members of an object have none, and the
// same response should have the same digest.
func parseHeaders(v jsontext.Value) ([]*fsm.Header, error) {
	const field = "response.headers"
	if v.Kind() != '{' {
		return nil, wrong(field, `use an object, as {"Content-Type":["text/plain"]}`)
	}
	var kept []*fsm.Header
	seen := map[string]bool{}
	err := eachMember(v, field, func(name string, v jsontext.Value) error {
		if !httpguts.ValidHeaderFieldName(name) {
			return wrong(field, "a name is not one of a header")
		}
		name = http.CanonicalHeaderKey(name)
		if seen[name] {
			return wrong(field, "a header is named twice: give it one array of values")
		}
		seen[name] = true
		values, err := headerValues(v)
		if err != nil {
			return err
		}
		for _, value := range values {
			if wire.KeptHeader(name) {
				kept = append(kept, &fsm.Header{Name: name, Value: value})
			}
		}
		return nil
	})
	slices.SortStableFunc(kept, func(a, b *fsm.Header) int { return strings.Compare(a.Name, b.Name) })
	return kept, err
}

func headerValues(v jsontext.Value) ([]string, error) {
	const field = "response.headers"
	if v.Kind() != '[' {
		return nil, wrong(field, "the values of a header are an array of strings")
	}
	var values []string
	err := eachElement(v, func(v jsontext.Value) error {
		value, err := asString(field, v, fsm.MaxBody)
		if err != nil {
			return wrong(field, "the values of a header are an array of strings")
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return wrong(field, "a value has a byte that no header may have")
		}
		values = append(values, strings.Trim(value, " \t"))
		return nil
	})
	return values, err
}

var stateNames = map[fsm.State]string{
	fsm.State_CLAIMED:   "claimed",
	fsm.State_COMPLETED: "completed",
	fsm.State_UNKNOWN:   "unknown",
}

// appendRecord appends a record as the API shows it.
func appendRecord(b []byte, namespace, key string, r *fsm.Record) ([]byte, error) {
	b = append(b, `{"key":`...)
	b = wire.AppendString(b, key)
	b = append(b, `,"namespace":`...)
	b = wire.AppendString(b, namespace)
	b = append(b, `,"state":"`...)
	b = append(b, stateNames[r.State]...)
	b = append(b, `","fence":`...)
	b = strconv.AppendUint(b, r.Fence, 10)
	b = append(b, `,"attempt":`...)
	b = strconv.AppendUint(b, uint64(r.Attempt), 10)
	b = append(b, `,"fingerprint":`...)
	if r.Surface == fsm.Surface_SURFACE_KEYS {
		b = wire.AppendString(b, r.Fingerprint)
	} else {
		b = append(b, '"')
		b = hex.AppendEncode(b, r.Fingerprint)
		b = append(b, '"')
	}
	b = append(b, `,"created_at":`...)
	b = appendTime(b, r.CreatedAt)
	if r.State == fsm.State_CLAIMED {
		b = append(b, `,"lease_expires_at":`...)
		b = appendTime(b, r.LeaseExpiresAt)
	}
	if r.CompletedAt != 0 {
		b = append(b, `,"completed_at":`...)
		b = appendTime(b, r.CompletedAt)
	}
	if r.ExpiresAt != 0 {
		b = append(b, `,"expires_at":`...)
		b = appendTime(b, r.ExpiresAt)
	}
	if r.Response != nil {
		var err error
		b = append(b, `,"response":`...)
		if b, err = appendResponse(b, r.Response); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendResponse(b []byte, r *fsm.Response) ([]byte, error) {
	b = append(b, `{"status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"headers":`...)
	b = appendHeaders(b, r.Headers)
	if r.BodyDropped {
		b = append(b, `,"body_dropped":true,"digest":"`...)
		b = hex.AppendEncode(b, r.Digest)
		return append(b, `"}`...), nil
	}
	body, err := r.Plain()
	if err != nil {
		return nil, err
	}
	b = append(b, ',')
	b = appendBody(b, body)
	return append(b, '}'), nil
}

// appendHeaders appends {name: [values]}, the names in the order in which each
// comes first.
func appendHeaders(b []byte, headers []*fsm.Header) []byte {
	b = append(b, '{')
	var done []string
	for i, h := range headers {
		if slices.Contains(done, h.Name) {
			continue
		}
		if len(done) > 0 {
			b = append(b, ',')
		}
		done = append(done, h.Name)
		b = wire.AppendString(b, h.Name)
		b = append(b, ':', '[')
		for j, other := range headers[i:] {
			if other.Name != h.Name {
				continue
			}
			if j > 0 {
				b = append(b, ',')
			}
			b = wire.AppendString(b, other.Value)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}
