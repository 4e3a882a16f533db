package api

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/onced/onced/wire"
)

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

func FuzzPathKey(f *testing.F) {
	for _, s := range []string{"abc", "a%2Fb", "%", "%zz", "%00", "..", "%2e%2E", "a+b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, segment string) {
		key, err := pathKey(segment)
		if err != nil {
			if !errors.Is(err, wire.KeyInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if again, err := pathKey(url.PathEscape(key)); err != nil || again != key {
			t.Fatalf("%q, escaped, is %q, %v", key, again, err)
		}
	})
}
