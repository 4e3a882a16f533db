package api

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/wire"
)

// maxDepth is how deep arrays and objects may be nested, the outermost counted.
const maxDepth = 64

// checkDepth looks at brackets only, so that a body of nothing but brackets
// costs one pass up to the bracket that is too many.
func checkDepth(b []byte) error {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted:
			switch c {
			case '\\':
				i++
			case '"':
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '[', c == '{':
			if depth++; depth > maxDepth {
				return wire.BadRequest.With("the JSON is nested deeper than 64: send it flatter")
			}
		case c == ']', c == '}':
			depth--
		}
	}
	return nil
}

// decoder keeps the tables of a jsontext.Decoder from one body to the next.
type decoder struct {
	jsontext.Decoder
	from bytes.Buffer
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// eachMember calls visit with each member of the JSON object that is all of b.
// An empty b stands for {}. name is what the object is called in errors. The
// value is a part of b, as it was sent, without white space around it.
func eachMember(b []byte, name string, visit func(name string, value jsontext.Value) error) error {
	if len(b) == 0 {
		return nil
	}
	d := decoders.Get().(*decoder)
	defer decoders.Put(d)
	d.from = *bytes.NewBuffer(b)
	d.Reset(&d.from)
	defer func() { d.from = bytes.Buffer{} }()
	if kind := d.PeekKind(); kind != '{' && kind != 0 {
		return wire.BadRequest.With(name + " is not a JSON object: send {…}")
	}
	if _, err := d.ReadToken(); err != nil {
		return malformed(name, err)
	}
	for d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return malformed(name, err)
		}
		member := token.String()
		value, err := d.ReadValue()
		if err != nil {
			return malformed(name, err)
		}
		end := d.InputOffset()
		if err := visit(member, b[end-int64(len(value)):end]); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return malformed(name, err)
	}
	if rest := bytes.TrimLeft(b[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return wire.BadRequest.With(name + " is followed by further bytes: send one JSON value")
	}
	return nil
}

// eachElement calls visit with each element of the JSON array that v is.
func eachElement(v jsontext.Value, visit func(jsontext.Value) error) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(v))
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != ']' {
		element, err := d.ReadValue()
		if err != nil {
			return err
		}
		if err := visit(element); err != nil {
			return err
		}
	}
	return nil
}

func malformed(name string, err error) error {
	var at *jsontext.SyntacticError
	where := ""
	if errors.As(err, &at) {
		where = fmt.Sprintf(" (at byte %d)", at.ByteOffset)
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return wire.BadRequest.With(name + " has a member twice: send each once" + where)
	case errors.As(err, &at) && strings.Contains(at.Err.Error(), "UTF-8"):
		return wire.BadRequest.With(name + " is not valid UTF-8" + where)
	}
	return wire.BadRequest.With(name + " is not valid JSON" + where)
}

func unknownMember(in string) error {
	return wire.BadRequest.With(in + " has a member that is not known here: leave it out")
}

func wrong(field, use string) error {
	return wire.BadRequest.With(field + ": " + use)
}

// asString returns the string that v is, of up to limit bytes.
func asString(field string, v jsontext.Value, limit int) (string, error) {
	if v.Kind() != '"' {
		return "", wrong(field, "use a string")
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return "", wrong(field, "use a string")
	}
	if len(b) > limit {
		return "", wrong(field, fmt.Sprintf("use at most %d bytes", limit))
	}
	return string(b), nil
}

// maxFence is the largest number that every JSON reader keeps exact.
const maxFence = 1<<53 - 1

// asNumber returns the whole number, written in digits only, that v is.
func asNumber[V ~string | ~[]byte](field string, v V, from, to uint64) (uint64, error) {
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil || n < from || n > to || len(v) > 1 && v[0] == '0' {
		return 0, wrong(field, fmt.Sprintf("use a whole number from %d to %d", from, to))
	}
	return n, nil
}

func asBool(field string, v jsontext.Value) (bool, error) {
	switch v.Kind() {
	case 't':
		return true, nil
	case 'f':
		return false, nil
	}
	return false, wrong(field, "use true or false")
}

// The bounds of what a client may ask for.
const (
	minLease, maxLease = 100 * time.Millisecond, time.Hour
	minTTL, maxTTL     = time.Second, 720 * time.Hour
)

// asDuration returns the Go duration that the string v is, in milliseconds.
func asDuration(field string, v jsontext.Value, from, to time.Duration) (int64, error) {
	s, err := asString(field, v, wire.MaxKey)
	if err == nil {
		d, err := time.ParseDuration(s)
		if err == nil && d >= from && d <= to {
			return d.Milliseconds(), nil
		}
	}
	return 0, wrong(field, fmt.Sprintf(`use a duration from %v to %v, as "30s"`, from, to))
}

// appendTime appends t, in milliseconds, as a JSON string of RFC 3339.
func appendTime(b []byte, t int64) []byte {
	b = append(b, '"')
	b = time.UnixMilli(t).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	return append(b, '"')
}

// appendBody appends the member body, or body_base64 if it is not valid UTF-8.
func appendBody(b, body []byte) []byte {
	if utf8.Valid(body) {
		b = append(b, `"body":`...)
		return wire.AppendString(b, body)
	}
	b = append(b, `"body_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, body)
	return append(b, '"')
}
