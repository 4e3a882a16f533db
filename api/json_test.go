package api

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/wire"
)

func TestNestingIsLimitedBeforeAnythingIsDecoded(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	tests := []struct {
		name string
		json string
		ok   bool
	}{
		{"64 deep", deep(64), true},
		{"65 deep", deep(65), false},
		{"200,000 deep", deep(200_000), false},
		{"200,000 open", strings.Repeat(`{"a":`, 200_000), false},
		{"brackets in a string", `"` + strings.Repeat("[", 100) + `"`, true},
		{"brackets behind an escaped quote", `"\"` + strings.Repeat("[", 100) + `"`, true},
		{"brackets behind a string that ends in a backslash", `"\\"` + strings.Repeat("[", 100), false},
		{"many beside one another", strings.Repeat("[]", 1000), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := checkDepth([]byte(tt.json)); (err == nil) != tt.ok {
				t.Errorf("error %v, want one: %v", err, !tt.ok)
			}
		})
	}
}

func TestDeepNestingCostsNothing(t *testing.T) {
	body := []byte(strings.Repeat("[", 1<<20))
	// One allocation is the problem itself.
	if n := testing.AllocsPerRun(10, func() { _ = checkDepth(body) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestEachMemberIsStrict(t *testing.T) {
	tests := []struct {
		name   string
		json   string
		detail string // "" is success
	}{
		{"nothing", "", ""},
		{"an empty object", " {} \r\n", ""},
		{"white space alone", " ", "not valid JSON"},
		{"null", "null", "not a JSON object"},
		{"an array", "[]", "not a JSON object"},
		{"a string", `"a"`, "not a JSON object"},
		{"a number", "1", "not a JSON object"},
		{"a second value", `{"a":1} {}`, "further bytes"},
		{"a stray byte behind", `{"a":1}x`, "further bytes"},
		{"a NUL behind", "{\"a\":1}\x00", "further bytes"},
		{"a member twice", `{"a":1,"a":2}`, "member twice"},
		{"a member twice, once escaped", `{"a":1,"\u0061":2}`, "member twice"},
		{"a member twice, further in", `{"a":{"b":1,"b":2}}`, "member twice"},
		{"cut off", `{"a":`, "not valid JSON"},
		{"cut off in a string", `{"a":"b`, "not valid JSON"},
		{"cut off before the end", `{"a":1`, "not valid JSON"},
		{"a trailing comma", `{"a":1,}`, "not valid JSON"},
		{"a comment", `{/* */}`, "not valid JSON"},
		{"single quotes", `{'a':1}`, "not valid JSON"},
		{"a byte order mark", "\ufeff{}", "not valid JSON"},
		{"NaN", `{"a":NaN}`, "not valid JSON"},
		{"a number with a leading zero", `{"a":01}`, "not valid JSON"},
		{"a raw line break in a string", "{\"a\":\"\n\"}", "not valid JSON"},
		{"invalid UTF-8 in a string", "{\"a\":\"\xff\"}", "UTF-8"},
		{"invalid UTF-8 in a name", "{\"\xff\":1}", "UTF-8"},
		{"half a surrogate pair", `{"a":"\ud800"}`, "is not valid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := eachMember([]byte(tt.json), "the body", func(string, jsontext.Value) error { return nil })
			if tt.detail == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, wire.BadRequest) || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("error %v, want bad-request that says %q", err, tt.detail)
			}
		})
	}
}

func TestValuesKeepTheirBytes(t *testing.T) {
	values := map[string]string{}
	err := eachMember([]byte("{ \"a\" : [1 ,\t2.50 ] , \"b\":\"\\u0041\"\n,\"c\":1e5}"), "the body", func(name string, v jsontext.Value) error {
		values[name] = string(v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "[1 ,\t2.50 ]", "b": `"\u0041"`, "c": "1e5"} {
		if values[name] != want {
			t.Errorf("%s is %q, want %q", name, values[name], want)
		}
	}
}

func TestNumbersAreWholeAndExact(t *testing.T) {
	for _, bad := range []string{"0", "-1", "-0", "+1", "1.0", "1e3", "01", "9007199254740992", "18446744073709551616", `"1"`, "null", "true", "[1]", "1_000", "0x1", ""} {
		if n, err := asNumber("fence", bad, 1, maxFence); err == nil {
			t.Errorf("%s is taken for %d", bad, n)
		}
	}
	for good, want := range map[string]uint64{"1": 1, "9007199254740991": maxFence} {
		if n, err := asNumber("fence", good, 1, maxFence); err != nil || n != want {
			t.Errorf("%s is %d, %v", good, n, err)
		}
	}
}

func TestDurationsAreGoStringsWithinBounds(t *testing.T) {
	for _, bad := range []string{`"99ms"`, `"1h0m1s"`, `"-1s"`, `"0"`, `""`, `"30"`, `30`, `"30 s"`, `"PT30S"`, `null`, `"9999999999h"`, `"NaN"`, `"` + strings.Repeat("1", 300) + `s"`} {
		if ms, err := asDuration("lease", jsontext.Value(bad), minLease, maxLease); err == nil {
			t.Errorf("%s is taken for %d ms", bad, ms)
		}
	}
	for good, want := range map[string]time.Duration{`"100ms"`: minLease, `"1h"`: maxLease, `"60m"`: maxLease, `"1m30.5s"`: 90_500 * time.Millisecond} {
		if ms, err := asDuration("lease", jsontext.Value(good), minLease, maxLease); err != nil || ms != want.Milliseconds() {
			t.Errorf("%s is %d ms, %v", good, ms, err)
		}
	}
}

func FuzzJSONBodies(f *testing.F) {
	for _, s := range []string{
		seedBody, `{"idempotencyKey":"k","data":[1,{"a":null}]}`, `{"data":"\ud83d\ude00","idempotencyKey":"k"}`,
		`{"fingerprint":"f","attempt_id":"a","lease":"30s","ttl":"24h","on_lapse":"block"}`,
		`{"fence":1,"response":{"status":200,"headers":{"Content-Type":["a","b"]},"body":"x"}}`,
		`{"fence":1,"response":{"status":200,"body_base64":"/w=="}}`, `{"retry":true}`, `{"id":"n4","raft_addr":"h:1","voter":false}`, `{"data":`,
	} {
		f.Add([]byte(s))
	}
	s := newService(f)
	s.unchecked = true
	f.Fuzz(func(t *testing.T, body []byte) {
		s.t = t
		for _, path := range []string{"/create", "/v1/keys/k/claim", "/v1/keys/k/complete", "/v1/keys/k/resolve", "/v1/cluster/nodes"} {
			a := s.send("POST", path, string(body))
			if a.status >= 500 || !utf8.ValidString(a.body) {
				t.Fatalf("%s answers %d %s", path, a.status, a.body)
			}
			if path == "/create" && a.status == 201 {
				if again := s.send("POST", path, string(body)); again.body != a.body || again.status != a.status {
					t.Fatalf("replay %d %s, want %d %s", again.status, again.body, a.status, a.body)
				}
			}
		}
	})
}
