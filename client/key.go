package client

import (
	"net/http"
	"strings"
)

const (
	// maxKey is the longest key in bytes.
	maxKey = 255
	// keyHeader carries the key of a request.
	keyHeader = "Idempotency-Key"
)

// ParseKey returns the key of the header Idempotency-Key, which may be bare or
// a structured-field string (RFC 9651): both forms of one key are the same
// key. The error is ErrKeyMissing where there is no such header, else
// ErrKeyInvalid.
func ParseKey(h http.Header) (string, error) {
	lines := h[keyHeader]
	switch len(lines) {
	case 0:
		return "", newError(ErrKeyMissing, "send the header Idempotency-Key")
	case 1:
	default:
		return "", newError(ErrKeyInvalid, "Idempotency-Key is sent more than once: send one")
	}
	key := strings.Trim(lines[0], " \t")
	if strings.HasPrefix(key, `"`) {
		var ok bool
		if key, ok = unquote(key); !ok {
			return "", newError(ErrKeyInvalid, `a quoted Idempotency-Key is a string of RFC 9651 without parameters: "…" with \" and \\ as its only escapes`)
		}
	} else if strings.ContainsAny(key, `,"`) {
		return "", newError(ErrKeyInvalid, "a bare Idempotency-Key has no comma and no quote: send it as a quoted string")
	}
	if err := checkKey(key); err != nil {
		return "", err
	}
	return key, nil
}

// checkKey reports what is wrong with a key, however it was sent.
func checkKey(key string) error {
	switch {
	case key == "":
		return newError(ErrKeyInvalid, "the key is empty: use 1 to 255 bytes of visible ASCII")
	case len(key) > maxKey:
		return newError(ErrKeyInvalid, "the key is longer than 255 bytes")
	}
	for i := range len(key) {
		if key[i] < 0x21 || key[i] > 0x7e {
			return newError(ErrKeyInvalid, "the key has a byte that is not visible ASCII (0x21 to 0x7E)")
		}
	}
	return nil
}

// unquote returns the content of a structured-field string that is all of s.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", false
	}
	s = s[1 : len(s)-1]
	if !strings.ContainsAny(s, `"\`) {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return "", false
		case '\\':
			i++
			if i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), true
}
