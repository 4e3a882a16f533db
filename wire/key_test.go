package wire

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	long := strings.Repeat("k", 255)
	tests := []struct {
		name   string
		header []string
		key    string
		err    error
	}{
		{"bare", []string{"abc-1"}, "abc-1", nil},
		{"quoted is the same key", []string{`"abc-1"`}, "abc-1", nil},
		{"white space around it", []string{" \tabc\t "}, "abc", nil},
		{"the first and last byte allowed", []string{"!~"}, "!~", nil},
		{"a bare key with a semicolon and an equals sign", []string{"a;b=c"}, "a;b=c", nil},
		{"a bare key with a backslash", []string{`a\b`}, `a\b`, nil},
		{"a quoted key with a comma", []string{`"a,b"`}, "a,b", nil},
		{"a quoted key with both escapes", []string{`"a\"b\\c"`}, `a"b\c`, nil},
		{"255 bytes bare", []string{long}, long, nil},
		{"255 bytes quoted", []string{`"` + long + `"`}, long, nil},
		{"missing", nil, "", KeyMissing},
		{"empty", []string{""}, "", KeyInvalid},
		{"blank", []string{"  "}, "", KeyInvalid},
		{"quoted and empty", []string{`""`}, "", KeyInvalid},
		{"256 bytes", []string{long + "k"}, "", KeyInvalid},
		{"256 bytes quoted", []string{`"` + long + `k"`}, "", KeyInvalid},
		{"two lines", []string{"a", "b"}, "", KeyInvalid},
		{"two lines that are the same", []string{"a", "a"}, "", KeyInvalid},
		{"two keys on one line", []string{"a, b"}, "", KeyInvalid},
		{"a bare key with a comma", []string{"a,b"}, "", KeyInvalid},
		{"a bare key with a quote", []string{`a"b`}, "", KeyInvalid},
		{"a bare key that ends with a quote", []string{`a"`}, "", KeyInvalid},
		{"an open string", []string{`"abc`}, "", KeyInvalid},
		{"only a quote", []string{`"`}, "", KeyInvalid},
		{"a string that ends in an escape", []string{`"abc\"`}, "", KeyInvalid},
		{"an unknown escape", []string{`"a\bc"`}, "", KeyInvalid},
		{"an unescaped quote", []string{`"a"b"`}, "", KeyInvalid},
		{"a parameter", []string{`"abc";v=1`}, "", KeyInvalid},
		{"a parameter with a string", []string{`"abc";v="1"`}, "", KeyInvalid},
		{"two strings", []string{`"a", "b"`}, "", KeyInvalid},
		{"a space within", []string{"a b"}, "", KeyInvalid},
		{"a space within quotes", []string{`"a b"`}, "", KeyInvalid},
		{"a control byte", []string{"a\x01b"}, "", KeyInvalid},
		{"DEL", []string{"a\x7f"}, "", KeyInvalid},
		{"UTF-8", []string{"clé"}, "", KeyInvalid},
		{"a byte that is not UTF-8", []string{"a\xff"}, "", KeyInvalid},
		{"a NUL", []string{"a\x00"}, "", KeyInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for _, line := range tt.header {
				h.Add("Idempotency-Key", line)
			}
			key, err := ParseKey(h)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && key != tt.key {
				t.Errorf("key %q, want %q", key, tt.key)
			}
		})
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"abc", `"abc"`, `"a\"b"`, `"abc";v=1`, "a,b", "", `"`, `"\`, "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParseKey(http.Header{"Idempotency-Key": {line}})
		if err != nil {
			if !errors.Is(err, KeyInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if KeyMistake(key) != "" {
			t.Fatalf("%q gave the key %q", line, key)
		}
		// The header that echoes a key names that key.
		again, err := ParseKey(http.Header{"Idempotency-Key": {FormatKey(key)}})
		if err != nil || again != key {
			t.Fatalf("%q, sent as %q, is %q, %v", key, FormatKey(key), again, err)
		}
	})
}
