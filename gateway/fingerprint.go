package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/wire"
)

// fingerprint is the SHA-256 over what makes two requests the same request:
// method, path, sorted query, media type and body, each after its length in 8
// bytes, big endian.
func (rt *route) fingerprint(r *http.Request, body []byte) []byte {
	h := sha256.New()
	var size [8]byte
	part := func(b []byte) {
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		h.Write(size[:])
		h.Write(b)
	}
	media, isJSON := mediaType(r.Header)
	part([]byte(r.Method))
	part([]byte(r.URL.EscapedPath()))
	part([]byte(sortedQuery(r.URL.RawQuery)))
	part([]byte(media))
	if isJSON && (*rt.Canonical || len(rt.Ignore) > 0) {
		if c, err := canonical(body, rt.Ignore); err == nil {
			body = c
		} // what is no JSON is compared as it is
	}
	part(body)
	return h.Sum(nil)
}

// sortedQuery puts the parameters in an order of their own. They stay as they
// were sent: to decode them would be to guess how the upstream does.
func sortedQuery(raw string) string {
	if !strings.Contains(raw, "&") {
		return raw
	}
	parameters := strings.Split(raw, "&")
	slices.Sort(parameters)
	return strings.Join(parameters, "&")
}

// mediaType returns the media type in one spelling, and whether it is JSON.
func mediaType(h http.Header) (name string, isJSON bool) {
	raw := strings.Join(h.Values("Content-Type"), ", ")
	name, parameters, err := mime.ParseMediaType(raw)
	if err != nil {
		return raw, false
	}
	isJSON = name == "application/json" || strings.HasSuffix(name, "+json")
	return mime.FormatMediaType(name, parameters), isJSON
}

// canonical returns the JSON without the members that are ignored, and in one
// form for all of the same content: RFC 8785, but that every digit of a whole
// number counts. Two large amounts must not pass for one.
func canonical(body []byte, ignore []string) ([]byte, error) {
	if len(ignore) > 0 {
		var stripped bytes.Buffer
		in, out := jsontext.NewDecoder(bytes.NewReader(body)), jsontext.NewEncoder(&stripped)
		if err := strip(in, out, "", ignore); err != nil {
			return nil, err
		}
		if err := atEnd(in); err != nil {
			return nil, err
		}
		body = stripped.Bytes()
	}
	return jsontext.AppendFormat(nil, body, jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawFloats(true))
}

// strip copies a value without its ignored members. path leads to it.
func strip(in *jsontext.Decoder, out *jsontext.Encoder, path string, ignore []string) error {
	inside := path == "" || slices.ContainsFunc(ignore, func(s string) bool { return strings.HasPrefix(s, path+".") })
	if in.PeekKind() != '{' || !inside {
		value, err := in.ReadValue()
		if err != nil {
			return err
		}
		return out.WriteValue(value)
	}
	return eachMember(in, func(name string) error {
		member := name
		if path != "" {
			member = path + "." + name
		}
		if slices.Contains(ignore, member) {
			return in.SkipValue()
		}
		if err := out.WriteToken(jsontext.String(name)); err != nil {
			return err
		}
		return strip(in, out, member, ignore)
	}, out.WriteToken)
}

// eachMember reads an object: visit, which reads the value, is called for each
// member, and bracket with each bracket.
func eachMember(in *jsontext.Decoder, visit func(name string) error, bracket func(jsontext.Token) error) error {
	token, err := in.ReadToken()
	if err != nil {
		return err
	}
	if err := bracket(token); err != nil {
		return err
	}
	for in.PeekKind() == '"' {
		name, err := in.ReadToken()
		if err != nil {
			return err
		}
		if err := visit(name.String()); err != nil {
			return err
		}
	}
	if token, err = in.ReadToken(); err != nil {
		return err
	}
	return bracket(token)
}

var errTrailing = errors.New("there is more after the JSON value")

func atEnd(in *jsontext.Decoder) error {
	if _, err := in.ReadToken(); !errors.Is(err, io.EOF) {
		return errTrailing
	}
	return nil
}

// memberKey returns the key that is a member of the JSON body, and the error of
// wire.ParseKey where there is none or it is malformed. Dots in path lead into
// objects.
func memberKey(h http.Header, body []byte, path string) (string, error) {
	if _, isJSON := mediaType(h); !isJSON {
		return "", wire.KeyMissing.With("send a JSON body with the key as its member " + path)
	}
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "", wire.KeyMissing.With("send the body without Content-Encoding: the key is its member " + path)
	}
	in := jsontext.NewDecoder(bytes.NewReader(body))
	value, err := find(in, strings.Split(path, "."))
	if err != nil || atEnd(in) != nil || len(value) == 0 || value.Kind() == 'n' {
		return "", wire.KeyMissing.With("send the key as the member " + path + " of the JSON body")
	}
	key := string(value)
	switch value.Kind() {
	case '"':
		unquoted, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return "", wire.KeyInvalid.With("the member " + path + " is no valid string")
		}
		key = string(unquoted)
	case '0':
	default:
		return "", wire.KeyInvalid.With("the member " + path + " is neither a string nor a number")
	}
	return key, wire.CheckKey(key)
}

// find returns the value that path leads to, nil if there is none. The whole
// body is read: what is no JSON has no key.
func find(in *jsontext.Decoder, path []string) (found jsontext.Value, err error) {
	if in.PeekKind() != '{' || len(path) == 0 {
		value, err := in.ReadValue()
		if err == nil && len(path) == 0 {
			found = value.Clone()
		}
		return found, err
	}
	err = eachMember(in, func(name string) error {
		if name != path[0] {
			return in.SkipValue()
		}
		var err error
		found, err = find(in, path[1:])
		return err
	}, func(jsontext.Token) error { return nil })
	return found, err
}
