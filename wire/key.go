package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

// MaxKey is the longest key, and the longest name of any other kind, in bytes.
const MaxKey = 255

// KeyHeader is the header that carries the key.
const KeyHeader = "Idempotency-Key"

// ParseKey returns the key of the header Idempotency-Key, which may be bare or
// a structured-field string (RFC 9651): both forms of one key are the same
// key. The error is a *Problem: KeyMissing where there is no such
// header, else KeyInvalid.
func ParseKey(h http.Header) (string, error) {
	lines := h[KeyHeader]
	switch len(lines) {
	case 0:
		return "", KeyMissing
	case 1:
	default:
		return "", KeyInvalid.With("Idempotency-Key is sent more than once: send one")
	}
	key := strings.Trim(lines[0], " \t")
	if strings.HasPrefix(key, `"`) {
		var ok bool
		if key, ok = unquote(key); !ok {
			return "", KeyInvalid.With(`a quoted Idempotency-Key is a string of RFC 9651 without parameters: "…" with \" and \\ as its only escapes`)
		}
	} else if strings.ContainsAny(key, `,"`) {
		return "", KeyInvalid.With(`a bare Idempotency-Key has no comma and no quote: send it as a quoted string`)
	}
	return key, CheckKey(key)
}

// CheckKey reports what is wrong with a key, however it was sent.
func CheckKey(key string) error {
	if mistake := KeyMistake(key); mistake != "" {
		return KeyInvalid.With(mistake)
	}
	return nil
}

// KeyMistake says what is wrong with a key, or "".
func KeyMistake(key string) string {
	switch {
	case key == "":
		return "the key is empty: use 1 to 255 bytes of visible ASCII"
	case len(key) > MaxKey:
		return "the key is longer than 255 bytes"
	}
	for i := range len(key) {
		if key[i] < 0x21 || key[i] > 0x7e {
			return "the key has a byte that is not visible ASCII (0x21 to 0x7E)"
		}
	}
	return ""
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

// FormatKey returns key as it may stand in the header: bare where that is
// allowed, else quoted.
func FormatKey(key string) string {
	if !strings.ContainsAny(key, `,"`) {
		return key
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

// HashKey names a key in the log without telling it.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:4])
}
