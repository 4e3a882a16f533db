package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
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
		{"missing", nil, "", ErrKeyMissing},
		{"empty", []string{""}, "", ErrKeyInvalid},
		{"blank", []string{"  "}, "", ErrKeyInvalid},
		{"quoted and empty", []string{`""`}, "", ErrKeyInvalid},
		{"256 bytes", []string{long + "k"}, "", ErrKeyInvalid},
		{"256 bytes quoted", []string{`"` + long + `k"`}, "", ErrKeyInvalid},
		{"two lines", []string{"a", "b"}, "", ErrKeyInvalid},
		{"two lines that are the same", []string{"a", "a"}, "", ErrKeyInvalid},
		{"two keys on one line", []string{"a, b"}, "", ErrKeyInvalid},
		{"a bare key with a comma", []string{"a,b"}, "", ErrKeyInvalid},
		{"a bare key with a quote", []string{`a"b`}, "", ErrKeyInvalid},
		{"an open string", []string{`"abc`}, "", ErrKeyInvalid},
		{"only a quote", []string{`"`}, "", ErrKeyInvalid},
		{"a string that ends in an escape", []string{`"abc\"`}, "", ErrKeyInvalid},
		{"an unknown escape", []string{`"a\bc"`}, "", ErrKeyInvalid},
		{"an unescaped quote", []string{`"a"b"`}, "", ErrKeyInvalid},
		{"a parameter", []string{`"abc";v=1`}, "", ErrKeyInvalid},
		{"two strings", []string{`"a", "b"`}, "", ErrKeyInvalid},
		{"a space within", []string{"a b"}, "", ErrKeyInvalid},
		{"a space within quotes", []string{`"a b"`}, "", ErrKeyInvalid},
		{"a control byte", []string{"a\x01b"}, "", ErrKeyInvalid},
		{"DEL", []string{"a\x7f"}, "", ErrKeyInvalid},
		{"UTF-8", []string{"clé"}, "", ErrKeyInvalid},
		{"a NUL", []string{"a\x00"}, "", ErrKeyInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for _, line := range tt.header {
				h.Add(keyHeader, line)
			}
			key, err := ParseKey(h)
			if key != tt.key || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%q, %v", key, err)
			}
		})
	}
}

// FuzzParseKey: what is accepted is a key, and its quoted form is the same key.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"a", `"a"`, `"a\"b\\"`, `"`, `"";x`, "a,b", strings.Repeat("k", 256), "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := ParseKey(http.Header{keyHeader: {s}})
		if err != nil {
			if !errors.Is(err, ErrKeyInvalid) || key != "" {
				t.Fatalf("%q, %v", key, err)
			}
			return
		}
		if err := checkKey(key); err != nil {
			t.Fatal(err)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := ParseKey(http.Header{keyHeader: {quoted}}); err != nil || again != key {
			t.Errorf("%q quoted is %q, %v", key, again, err)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"1":                             time.Second,
		" 7 ":                           7 * time.Second,
		"-1":                            0,
		"1.5":                           0,
		"soon":                          0,
		"99999999999999999999":          time.Hour,
		"Wed, 02 Jan 2030 03:04:15 GMT": 10 * time.Second,
		"Wed, 02 Jan 2030 03:04:00 GMT": 0,
		"Wed, 02 Jan 2099 03:04:00 GMT": time.Hour,
	} {
		if got := parseRetryAfter(s, now); got != want {
			t.Errorf("%q is %v, want %v", s, got, want)
		}
	}
}

func TestPreferredWait(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"":                         0,
		"wait=5":                   5 * time.Second,
		"WAIT = \"5\"":             5 * time.Second,
		"respond-async, wait=3":    3 * time.Second,
		"a=\"x, wait=9\", wait=3":  3 * time.Second,
		"wait=3; foo, wait=5":      3 * time.Second,
		"wait=1000":                30 * time.Second,
		"wait=9999999999999999999": 30 * time.Second,
		"wait=-1":                  0,
		"wait":                     0,
		"wait=1.5":                 0,
	} {
		if got := preferredWait(http.Header{"Prefer": {s}}, 30*time.Second); got != want {
			t.Errorf("%q is %v, want %v", s, got, want)
		}
	}
}

func FuzzPreferredWait(f *testing.F) {
	f.Add(`a="\",wait=1`, "1")
	f.Add("wait=5, wait=6", "Wed, 02 Jan 2030 03:04:15 GMT")
	f.Fuzz(func(t *testing.T, prefer, after string) {
		if d := preferredWait(http.Header{"Prefer": {prefer}}, 30*time.Second); d < 0 || d > 30*time.Second || d%time.Second != 0 {
			t.Errorf("a wait of %v", d)
		}
		if d := parseRetryAfter(after, time.Unix(0, 0)); d < 0 || d > maxRetryAfter {
			t.Errorf("a Retry-After of %v", d)
		}
	})
}

// FuzzAnswers: whatever a node answers, it is taken as what it says or is an
// error; what is taken can be sent back.
func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"key":"k","state":"completed","fence":1,"attempt":1,"response":{"status":200,"headers":{"a":["b"]},"body_base64":"AA=="}}`))
	f.Add(200, []byte(`{"key":"k","state":"unknown","fence":1,"attempt":1,"expires_at":"2030-01-01T00:00:00Z"}`))
	f.Add(201, []byte(`{"state":"claimed","fence":7,"attempt":1,"lease_expires_at":"2030-01-01T00:00:00Z"}`))
	f.Add(200, []byte(`{"keys":[{"key":"k","state":"claimed","fence":1}],"next":"x"}`))
	f.Add(503, []byte(`{"type":"urn:onced:unavailable","retryable":true,"original_status":3}`))
	f.Add(500, []byte(`[`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if claim, err := parseGrant(body); err == nil && (claim.Fence == 0 || claim.Attempt < 1) {
			t.Errorf("a claim without a fence: %+v", claim)
		}
		record, err := parseRecord(body)
		if err == nil {
			checkRecord(t, record)
		}
		if page, err := parsePage(body); err == nil {
			for _, record := range page.Records {
				checkRecord(t, record)
			}
		}
		e := parseProblem(status, http.Header{}, body, time.Unix(0, 0))
		if e.Type == "" || e.Status != status || e.Error() == "" {
			t.Errorf("the error is %+v", e)
		}
	})
}

func checkRecord(t *testing.T, record *Record) {
	t.Helper()
	if record.Fence == 0 || record.Key == "" || (record.State == Completed) != (record.Response != nil) {
		t.Fatalf("the record is %+v", record)
	}
	if record.Response == nil || record.Response.BodyDropped {
		return
	}
	encoded, err := record.Response.encode()
	if err != nil {
		t.Fatalf("the response cannot be sent: %v", err)
	}
	var sent responseBody
	if err := json.Unmarshal(encoded, &sent); err != nil {
		t.Fatal(err)
	}
	again, err := sent.decode()
	if err != nil || !bytes.Equal(again.Body, record.Response.Body) || again.Status != record.Response.Status {
		t.Errorf("%q came back as %+v, %v", record.Response.Body, again, err)
	}
}

// FuzzEncodeResponse: a response grows to no more than base64 makes of it, and
// comes back as it was.
func FuzzEncodeResponse(f *testing.F) {
	f.Add([]byte("text"), "a")
	f.Add([]byte{0, 1, 2, 0xff}, "é")
	f.Add([]byte("\u2028\u2029<>&\"\\\n\x7f"), "\xff")
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		r := &Response{Status: 200, Header: http.Header{"Link": {header}}, Body: body}
		encoded, err := r.encode()
		if err != nil {
			if utf8.ValidString(header) {
				t.Errorf("it cannot be sent: %v", err)
			}
			return
		}
		if most := 4*(len(body)+2)/3 + 6*len(header) + 100; len(encoded) > most {
			t.Errorf("%d bytes became %d", len(body), len(encoded))
		}
		var sent responseBody
		if err := json.Unmarshal(encoded, &sent); err != nil {
			t.Fatal(err)
		}
		again, err := sent.decode()
		if err != nil || !bytes.Equal(again.Body, body) || again.Header.Get("Link") != header {
			t.Errorf("%q came back as %+v, %v", body, again, err)
		}
	})
}

func TestClusterKeys(t *testing.T) {
	seen := map[string]string{}
	long := strings.Repeat("k", 255)
	for _, namespace := range []string{"", "a", "b", "a.", long, "a\x00b", "default"} {
		for _, key := range []string{"k", ".k", "#k", long, long[:211], long[:212], hash43(long), hash43(long[:212])} {
			got := clusterKey(namespace, key)
			if err := checkKey(got); err != nil {
				t.Errorf("%q, %q: %v", namespace, key, err)
			}
			from := namespace + " " + key
			if other, twice := seen[got]; twice {
				t.Errorf("%q and %q are both %q", from, other, got)
			}
			seen[got] = from
		}
	}
}

func FuzzClusterKey(f *testing.F) {
	f.Add("a", "k", "b", "k")
	f.Add("a", "#k", "a", ".k")
	f.Fuzz(func(t *testing.T, n1, k1, n2, k2 string) {
		if checkKey(k1) != nil || checkKey(k2) != nil {
			return
		}
		one, two := clusterKey(n1, k1), clusterKey(n2, k2)
		if err := checkKey(one); err != nil {
			t.Fatal(err)
		}
		if same := n1 == n2 && k1 == k2; (one == two) != same {
			t.Errorf("%q and %q", one, two)
		}
	})
}

func TestFingerprints(t *testing.T) {
	request := func(method, target, media, body string) string {
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("Content-Type", media)
		return RequestFingerprint(r, []byte(body))
	}
	base := request("POST", "/a?x=1&y=2", "application/json; charset=UTF-8", "b")
	for name, same := range map[string]string{
		"the query in another order":  request("POST", "/a?y=2&x=1", "application/json; charset=UTF-8", "b"),
		"the query escaped":           request("POST", "/a?%78=1&y=%32", "application/json; charset=UTF-8", "b"),
		"an empty part of the query":  request("POST", "/a?&x=1&&y=2&", "application/json; charset=UTF-8", "b"),
		"the media type spelt anew":   request("POST", "/a?x=1&y=2", "Application/JSON;charset=\"utf-8\"", "b"),
		"the same through a fragment": request("POST", "http://other/a?x=1&y=2", "application/json; charset=utf-8", "b"),
	} {
		if same != base {
			t.Errorf("%s: another fingerprint", name)
		}
	}
	seen := map[string]string{base: "the base"}
	for name, other := range map[string]string{
		"another method":       request("PATCH", "/a?x=1&y=2", "application/json; charset=UTF-8", "b"),
		"another path":         request("POST", "/a/?x=1&y=2", "application/json; charset=UTF-8", "b"),
		"a slash escaped":      request("POST", "/a%2F?x=1&y=2", "application/json; charset=UTF-8", "b"),
		"another value":        request("POST", "/a?x=1&y=3", "application/json; charset=UTF-8", "b"),
		"another name":         request("POST", "/a?x=1&z=2", "application/json; charset=UTF-8", "b"),
		"values swapped":       request("POST", "/a?x=2&y=1", "application/json; charset=UTF-8", "b"),
		"no query":             request("POST", "/a", "application/json; charset=UTF-8", "b"),
		"a separator in value": request("POST", "/a?x=1%26y=2", "application/json; charset=UTF-8", "b"),
		"one name in order":    request("POST", "/a?x=1&x=2", "application/json; charset=UTF-8", "b"),
		"and in another":       request("POST", "/a?x=2&x=1", "application/json; charset=UTF-8", "b"),
		"another media type":   request("POST", "/a?x=1&y=2", "text/plain", "b"),
		"no media type":        request("POST", "/a?x=1&y=2", "", "b"),
		"another body":         request("POST", "/a?x=1&y=2", "application/json; charset=UTF-8", "c"),
		"no body":              request("POST", "/a?x=1&y=2", "application/json; charset=UTF-8", ""),
	} {
		if twin, twice := seen[other]; twice {
			t.Errorf("%s and %s have one fingerprint", name, twin)
		}
		seen[other] = name
	}
}

func FuzzQueryPairs(f *testing.F) {
	f.Add("a=1&b=%zz&=&a=0")
	f.Fuzz(func(t *testing.T, raw string) {
		pairs := queryPairs(raw)
		for i := 1; i < len(pairs); i++ {
			if pairs[i-1][0] > pairs[i][0] {
				t.Fatalf("not sorted: %q", pairs)
			}
		}
		if len(pairs) > strings.Count(raw, "&")+1 {
			t.Errorf("%d pairs", len(pairs))
		}
		_ = mediaType(raw)
	})
}

func TestAuthorizationNamespace(t *testing.T) {
	of := func(headers ...string) string {
		r := httptest.NewRequest("POST", "/", nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		namespace, err := AuthorizationNamespace(r)
		if err != nil {
			return "refused"
		}
		return namespace
	}
	alice := of("Authorization", "Bearer alice")
	if alice == of("Authorization", "Bearer bob") || alice == of() || strings.Contains(alice, "alice") {
		t.Errorf("alice is in %q", alice)
	}
	if of("Authorization", "Bearer alice", "Cookie", "a=b") != alice {
		t.Error("a cookie beside Authorization counts")
	}
	if of("Authorization", "a", "Authorization", "b") == of("Authorization", "ab") {
		t.Error("two lines are one")
	}
	for name, got := range map[string]string{"a cookie": of("Cookie", "a=b"), "a cookie and nothing": of("Cookie", "a=b", "Authorization", "")} {
		if got != "refused" {
			t.Errorf("%s is in %q", name, got)
		}
	}
	if of() != "default" {
		t.Errorf("nobody is in %q", of())
	}
}
