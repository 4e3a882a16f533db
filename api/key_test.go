package api

import (
	"errors"
	"net/http"
	"net/url"
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
		{"missing", nil, "", ProblemKeyMissing},
		{"empty", []string{""}, "", ProblemKeyInvalid},
		{"blank", []string{"  "}, "", ProblemKeyInvalid},
		{"quoted and empty", []string{`""`}, "", ProblemKeyInvalid},
		{"256 bytes", []string{long + "k"}, "", ProblemKeyInvalid},
		{"256 bytes quoted", []string{`"` + long + `k"`}, "", ProblemKeyInvalid},
		{"two lines", []string{"a", "b"}, "", ProblemKeyInvalid},
		{"two lines that are the same", []string{"a", "a"}, "", ProblemKeyInvalid},
		{"two keys on one line", []string{"a, b"}, "", ProblemKeyInvalid},
		{"a bare key with a comma", []string{"a,b"}, "", ProblemKeyInvalid},
		{"a bare key with a quote", []string{`a"b`}, "", ProblemKeyInvalid},
		{"a bare key that ends with a quote", []string{`a"`}, "", ProblemKeyInvalid},
		{"an open string", []string{`"abc`}, "", ProblemKeyInvalid},
		{"only a quote", []string{`"`}, "", ProblemKeyInvalid},
		{"a string that ends in an escape", []string{`"abc\"`}, "", ProblemKeyInvalid},
		{"an unknown escape", []string{`"a\bc"`}, "", ProblemKeyInvalid},
		{"an unescaped quote", []string{`"a"b"`}, "", ProblemKeyInvalid},
		{"a parameter", []string{`"abc";v=1`}, "", ProblemKeyInvalid},
		{"a parameter with a string", []string{`"abc";v="1"`}, "", ProblemKeyInvalid},
		{"two strings", []string{`"a", "b"`}, "", ProblemKeyInvalid},
		{"a space within", []string{"a b"}, "", ProblemKeyInvalid},
		{"a space within quotes", []string{`"a b"`}, "", ProblemKeyInvalid},
		{"a control byte", []string{"a\x01b"}, "", ProblemKeyInvalid},
		{"DEL", []string{"a\x7f"}, "", ProblemKeyInvalid},
		{"UTF-8", []string{"clé"}, "", ProblemKeyInvalid},
		{"a byte that is not UTF-8", []string{"a\xff"}, "", ProblemKeyInvalid},
		{"a NUL", []string{"a\x00"}, "", ProblemKeyInvalid},
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

func TestOnlyTheExactHeaderNameIsTheKey(t *testing.T) {
	s := newService(t)
	for _, name := range []string{"Idempotency_Key", "X-Idempotency-Key", "Idempotencykey"} {
		s.send("POST", "/create", `{"data":1}`, name, "k").wantsProblem(400, "key-missing")
	}
	s.send("POST", "/create", `{"data":1}`, "idempotency-key", "k").wants(201)
}

func TestAKeyInThePathMayHoldAnyVisibleByte(t *testing.T) {
	s := newService(t)
	var every strings.Builder
	for c := byte(0x21); c <= 0x7e; c++ {
		every.WriteByte(c)
	}
	for _, key := range []string{"a/b", "100%", "a?b", "a#b", ".", "..", "a.b", "%2F", "+", "a;b", `"a,b"`, "//", "../../v1/keys", every.String(), strings.Repeat("k", 255)} {
		path := "/v1/keys/" + strings.ReplaceAll(url.PathEscape(key), ".", "%2E")
		s.send("POST", path+"/claim", "").wants(201)
		if got := s.send("GET", path, "").wants(200).json()["key"]; got != key {
			t.Errorf("key %q, want %q", got, key)
		}
	}
	if n := len(s.send("GET", "/v1/keys", "").wants(200).json()["keys"].([]any)); n != 15 {
		t.Errorf("%d keys are listed, want 15", n)
	}
}

func TestABadKeyInThePathIsRefused(t *testing.T) {
	s := newService(t)
	for name, segment := range map[string]string{
		"empty": "", "a space": "a%20b", "NUL": "a%00", "UTF-8": "cl%C3%A9", "raw UTF-8": "clé",
		"256 bytes": strings.Repeat("k", 256), "a line break": "a%0d%0ab",
	} {
		t.Run(name, func(t *testing.T) {
			s.send("POST", "/v1/keys/"+segment+"/claim", "").wantsProblem(400, "key-invalid")
			s.send("GET", "/v1/keys/"+segment, "").wantsProblem(400, "key-invalid")
			s.send("DELETE", "/v1/keys/"+segment, "").wantsProblem(400, "key-invalid")
		})
	}
	if s.node.Meta().Claimed != 0 {
		t.Error("something was claimed")
	}
}

func TestTheKeyAPIIgnoresTheKeyHeader(t *testing.T) {
	s := newService(t)
	s.send("POST", "/v1/keys/k/claim", "", "Idempotency-Key", "a,b").wants(201)
	s.send("GET", "/v1/keys/k", "", "Idempotency-Key", "other").wants(200)
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"abc", `"abc"`, `"a\"b"`, `"abc";v=1`, "a,b", "", `"`, `"\`, "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, err := ParseKey(http.Header{"Idempotency-Key": {line}})
		if err != nil {
			if !errors.Is(err, ProblemKeyInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if keyMistake(key) != "" {
			t.Fatalf("%q gave the key %q", line, key)
		}
		// The header that echoes a key names that key.
		again, err := ParseKey(http.Header{"Idempotency-Key": {headerForm(key)}})
		if err != nil || again != key {
			t.Fatalf("%q, sent as %q, is %q, %v", key, headerForm(key), again, err)
		}
	})
}

func FuzzPathKey(f *testing.F) {
	for _, s := range []string{"abc", "a%2Fb", "%", "%zz", "%00", "..", "%2e%2E", "a+b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, segment string) {
		key, err := pathKey(segment)
		if err != nil {
			if !errors.Is(err, ProblemKeyInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if again, err := pathKey(url.PathEscape(key)); err != nil || again != key {
			t.Fatalf("%q, escaped, is %q, %v", key, again, err)
		}
	})
}
