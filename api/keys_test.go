package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onced/onced/fsm"
)

const startStamp = "2023-11-14T22:13:20.000Z"

// post sends a call of the Key API on the key "k".
func (s *service) post(call, body string, headers ...string) *answer {
	s.t.Helper()
	return s.send("POST", "/v1/keys/k/"+call, body, headers...)
}

func TestALifeOfAKey(t *testing.T) {
	s := newService(t)
	s.send("GET", "/v1/keys/k", "").wantsProblem(404, "key-unknown")
	if got, want := s.post("claim", `{"fingerprint":"f","lease":"10s"}`).wants(201).body,
		`{"state":"claimed","fence":1,"attempt":1,"lease_expires_at":"2023-11-14T22:13:30.000Z","repeated":false}`; got != want {
		t.Fatalf("grant %s, want %s", got, want)
	}
	if got, want := s.send("GET", "/v1/keys/k", "").wants(200).body,
		`{"key":"k","namespace":"default","state":"claimed","fence":1,"attempt":1,"fingerprint":"f","created_at":"`+startStamp+`","lease_expires_at":"2023-11-14T22:13:30.000Z"}`; got != want {
		t.Fatalf("record %s, want %s", got, want)
	}
	s.node.advance(5 * time.Second)
	if got, want := s.post("renew", `{"fence":1,"lease":"20s"}`).wants(200).body, `{"lease_expires_at":"2023-11-14T22:13:45.000Z"}`; got != want {
		t.Fatalf("renewed %s, want %s", got, want)
	}
	complete := `{"fence":1,"response":{"status":202,"headers":{"Content-Type":["text/plain"],"Link":["<a>","<b>"]},"body":"done"}}`
	record := `{"key":"k","namespace":"default","state":"completed","fence":1,"attempt":1,"fingerprint":"f","created_at":"` + startStamp +
		`","completed_at":"2023-11-14T22:13:25.000Z","expires_at":"2023-11-15T22:13:25.000Z",` +
		`"response":{"status":202,"headers":{"Content-Type":["text/plain"],"Link":["<a>","<b>"]},"body":"done"}}`
	for range 2 {
		if got := s.post("complete", complete).wants(200).body; got != record {
			t.Fatalf("completed %s, want %s", got, record)
		}
	}
	if got := s.post("claim", `{"fingerprint":"f"}`).wants(200).wantsHeader("Idempotent-Replayed", "true").wantsHeader("Idempotency-TTL", "86400").body; got != record {
		t.Fatalf("replay %s, want %s", got, record)
	}
	s.post("claim", `{"fingerprint":"g"}`).wantsProblem(422, "key-reused")
	s.post("complete", `{"fence":1,"response":{"status":500}}`).wantsProblem(409, "stale-fence")
	s.post("release", `{"fence":1}`).wantsProblem(409, "stale-fence")
	s.send("DELETE", "/v1/keys/k?fence=2", "").wantsProblem(409, "stale-fence")
	if body := s.send("DELETE", "/v1/keys/k", "").wants(204).body; body != "" {
		t.Errorf("204 with the body %q", body)
	}
	s.send("GET", "/v1/keys/k", "").wantsProblem(404, "key-unknown")
	if fence := s.post("claim", "").fence(); fence != 2 {
		t.Errorf("fence %d, want 2", fence)
	}
}

func TestClaim(t *testing.T) {
	claimed := func(s *service) { s.post("claim", `{"fingerprint":"f","attempt_id":"a","lease":"10s"}`).wants(201) }
	tests := []struct {
		name   string
		before func(*service)
		body   string
		status int
		slug   string
		retry  string // Retry-After
	}{
		{"of a new key", func(*service) {}, `{}`, 201, "", ""},
		{"with an empty body", func(*service) {}, "", 201, "", ""},
		{"of a key in flight", claimed, `{"fingerprint":"f"}`, 409, "in-progress", "10"},
		{"by the same attempt", claimed, `{"fingerprint":"f","attempt_id":"a"}`, 201, "", ""},
		{"by another attempt", claimed, `{"fingerprint":"f","attempt_id":"b"}`, 409, "in-progress", "10"},
		{"with another fingerprint, in flight", claimed, `{"fingerprint":"g"}`, 422, "key-reused", ""},
		{"with another fingerprint, by the same attempt", claimed, `{"fingerprint":"g","attempt_id":"a"}`, 422, "key-reused", ""},
		{"without the fingerprint", claimed, `{}`, 422, "key-reused", ""},
		{"in the last second of the lease", func(s *service) { claimed(s); s.node.advance(9001 * time.Millisecond) }, `{"fingerprint":"f"}`, 409, "in-progress", "1"},
		{"a second and a bit before the lease ends", func(s *service) { claimed(s); s.node.advance(8999 * time.Millisecond) }, `{"fingerprint":"f"}`, 409, "in-progress", "2"},
		{"as the lease ends", func(s *service) { claimed(s); s.node.advance(10 * time.Second) }, `{"fingerprint":"f"}`, 201, "", ""},
		{"of a failed key", func(s *service) { claimed(s); s.post("fail", `{"fence":1}`).wants(200) }, `{"fingerprint":"f"}`, 201, "", ""},
		{"of a released key", func(s *service) { claimed(s); s.post("release", `{"fence":1}`).wants(204) }, `{"fingerprint":"g"}`, 201, "", ""},
		{"of a failed key that blocks", func(s *service) {
			s.post("claim", `{"on_lapse":"block"}`).wants(201)
			s.post("fail", `{"fence":1}`).wants(200)
		}, `{}`, 409, "outcome-unknown", ""},
		{"of a lapsed key that blocks", func(s *service) {
			s.post("claim", `{"on_lapse":"block"}`).wants(201)
			s.node.advance(30 * time.Second)
		}, `{}`, 409, "outcome-unknown", ""},
		{"of a key of the Resource API", func(s *service) {
			s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`).wants(201)
		}, `{}`, 422, "key-reused", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			tt.before(s)
			a := s.post("claim", tt.body)
			if tt.slug != "" {
				p := a.wantsProblem(tt.status, tt.slug)
				if p["retryable"] != (tt.slug == "in-progress") {
					t.Errorf("problem %v", p)
				}
			}
			a.wants(tt.status).wantsHeader("Retry-After", tt.retry).wantsHeader("Idempotent-Replayed", "")
		})
	}
}

func TestARepeatedClaimIsTheSameGrant(t *testing.T) {
	s := newService(t)
	first := s.post("claim", `{"attempt_id":"a"}`).wants(201).json()
	again := s.post("claim", `{"attempt_id":"a"}`).wants(201).json()
	if again["fence"] != first["fence"] || again["attempt"] != first["attempt"] || again["repeated"] != true || first["repeated"] != false {
		t.Errorf("first %v, again %v", first, again)
	}
}

func TestATakeoverHasAHigherFence(t *testing.T) {
	s := newService(t)
	s.post("claim", "").wants(201)
	s.node.advance(30 * time.Second)
	if got := s.send("GET", "/v1/keys/k?consistency=local", "").wants(200).json()["state"]; got != "unknown" {
		t.Errorf("locally, a lapsed key is %v", got)
	}
	if got := s.send("GET", "/v1/keys/k", "").wants(200).json()["state"]; got != "unknown" {
		t.Errorf("a lapsed key is %v", got)
	}
	got := s.post("claim", "").wants(201).json()
	if got["fence"] != 2.0 || got["attempt"] != 2.0 {
		t.Errorf("takeover %v", got)
	}
	for _, call := range []string{"renew", "fail"} {
		s.post(call, `{"fence":1}`).wantsProblem(409, "stale-fence")
	}
	s.post("complete", `{"fence":1,"response":{"status":200}}`).wantsProblem(409, "stale-fence")
	s.post("release", `{"fence":1}`).wants(204)
	s.post("complete", `{"fence":2,"response":{"status":200}}`).wants(200)
}

func TestWritesOnAnUnknownKeyAreStale(t *testing.T) {
	s := newService(t)
	s.post("renew", `{"fence":1}`).wantsProblem(409, "stale-fence")
	s.post("fail", `{"fence":1}`).wantsProblem(409, "stale-fence")
	s.post("release", `{"fence":1}`).wantsProblem(409, "stale-fence")
	s.post("complete", `{"fence":1,"response":{"status":200}}`).wantsProblem(409, "stale-fence")
	s.post("resolve", `{"retry":true}`).wantsProblem(404, "key-unknown")
	s.send("DELETE", "/v1/keys/k", "").wantsProblem(404, "key-unknown")
}

func TestResolve(t *testing.T) {
	failed := func(s *service) {
		s.post("claim", `{"on_lapse":"block"}`).wants(201)
		s.post("fail", `{"fence":1}`).wants(200)
	}
	claimed := func(s *service) { s.post("claim", `{"lease":"10s"}`).wants(201) }
	tests := []struct {
		name   string
		before func(*service)
		body   string
		status int
		slug   string
	}{
		{"with a response", failed, `{"response":{"status":200,"body":"by hand"}}`, 200, ""},
		{"with a retry", failed, `{"retry":true}`, 204, ""},
		{"with its fence", failed, `{"retry":true,"fence":1}`, 204, ""},
		{"with another fence", failed, `{"retry":true,"fence":2}`, 409, "stale-fence"},
		{"of a lapsed key", func(s *service) { claimed(s); s.node.advance(10 * time.Second) }, `{"retry":true}`, 204, ""},
		{"of a key in flight", claimed, `{"retry":true}`, 409, "in-progress"},
		{"of a completed key", func(s *service) {
			failed(s)
			s.post("complete", `{"fence":1,"response":{"status":200}}`).wants(200)
		}, `{"retry":true}`, 409, "stale-fence"},
		{"with neither", failed, `{}`, 400, "bad-request"},
		{"with both", failed, `{"retry":true,"response":{"status":200}}`, 400, "bad-request"},
		{"with a retry that is false", failed, `{"retry":false}`, 400, "bad-request"},
		{"with a retry that is no bool", failed, `{"retry":"true"}`, 400, "bad-request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			tt.before(s)
			a := s.post("resolve", tt.body)
			if tt.slug != "" {
				a.wantsProblem(tt.status, tt.slug)
			}
			a.wants(tt.status)
			switch tt.status {
			case 200:
				if got := s.post("claim", "").wants(200).wantsHeader("Idempotent-Replayed", "true").json()["response"].(map[string]any)["body"]; got != "by hand" {
					t.Errorf("replayed %v", got)
				}
			case 204:
				s.post("claim", "").wants(201)
			}
		})
	}
}

func TestForget(t *testing.T) {
	s := newService(t)
	s.post("claim", `{"lease":"10s"}`).wants(201)
	s.send("DELETE", "/v1/keys/k", "").wantsHeader("Retry-After", "10").wantsProblem(409, "in-progress")
	s.send("DELETE", "/v1/keys/k?force=false", "").wantsProblem(409, "in-progress")
	s.send("DELETE", "/v1/keys/k?force=true&fence=7", "").wantsProblem(409, "stale-fence")
	for _, query := range []string{"force=1", "force=yes", "force=TRUE", "fence=x", "fence=-1", "fence=0", "fence=1.0", "fence=9007199254740992", "fence=1&fence=1", "forced=true", "force=%zz", "force=true;fence=1"} {
		s.send("DELETE", "/v1/keys/k?"+query, "").wantsProblem(400, "bad-request")
	}
	s.send("DELETE", "/v1/keys/k?fence=1&force=true", "").wants(204)
	s.send("GET", "/v1/keys/k", "").wantsProblem(404, "key-unknown")
}

func TestMembersOfTheKeyAPIAreChecked(t *testing.T) {
	long := strings.Repeat("é", 128) // 256 bytes
	tests := map[string][]string{
		"claim": {
			`{"fingerprint":1}`, `{"fingerprint":null}`, `{"fingerprint":["f"]}`, `{"fingerprint":"` + long + `"}`, "{\"fingerprint\":\"\xff\"}", `{"fingerprint":"f","fingerprint":"f"}`,
			`{"attempt_id":1}`, `{"attempt_id":"` + long + `"}`, `{"attempt_id":null}`,
			`{"lease":"99ms"}`, `{"lease":"1h1s"}`, `{"lease":30}`, `{"lease":""}`, `{"lease":"-30s"}`, `{"lease":null}`, `{"lease":"1e9h"}`,
			`{"ttl":"999ms"}`, `{"ttl":"720h1s"}`, `{"ttl":86400}`, `{"ttl":"1d"}`,
			`{"on_lapse":"maybe"}`, `{"on_lapse":""}`, `{"on_lapse":"Retry"}`, `{"on_lapse":true}`, `{"on_lapse":null}`,
			`{"key":"k"}`, `{"fence":1}`, `{"Lease":"30s"}`, `[]`, `null`, `"claim"`, `{} {}`,
		},
		"renew":   {`{}`, ``, `{"fence":null}`, `{"fence":"1"}`, `{"fence":1.0}`, `{"fence":1e0}`, `{"fence":-1}`, `{"fence":0}`, `{"fence":9007199254740992}`, `{"fence":99999999999999999999}`, `{"fence":1,"lease":"99ms"}`, `{"fence":1,"ttl":"1h"}`, `{"fence":1,"fence":1}`},
		"release": {`{}`, `{"fence":[1]}`, `{"fence":1,"lease":"30s"}`, `{"fence":{}}`},
		"fail":    {`{}`, `{"fence":true}`, `{"fence":1,"reason":"x"}`},
		"complete": {
			`{"fence":1}`, `{"response":{"status":200}}`, `{"fence":1,"response":null}`, `{"fence":1,"response":[]}`, `{"fence":1,"response":{}}`, `{"fence":1,"response":200}`,
			`{"fence":1,"response":{"status":"200"}}`, `{"fence":1,"response":{"status":199}}`, `{"fence":1,"response":{"status":100}}`, `{"fence":1,"response":{"status":600}}`, `{"fence":1,"response":{"status":0}}`, `{"fence":1,"response":{"status":200.0}}`, `{"fence":1,"response":{"status":-200}}`,
			`{"fence":1,"response":{"status":200,"headers":[]}}`, `{"fence":1,"response":{"status":200,"headers":{"A":"b"}}}`, `{"fence":1,"response":{"status":200,"headers":{"A":[1]}}}`, `{"fence":1,"response":{"status":200,"headers":{"A":null}}}`, `{"fence":1,"response":{"status":200,"headers":null}}`,
			`{"fence":1,"response":{"status":200,"headers":{"":["b"]}}}`, `{"fence":1,"response":{"status":200,"headers":{"A B":["b"]}}}`, `{"fence":1,"response":{"status":200,"headers":{"A:":["b"]}}}`, `{"fence":1,"response":{"status":200,"headers":{"é":["b"]}}}`,
			`{"fence":1,"response":{"status":200,"headers":{"A":["b\r\nSet-Cookie: c"]}}}`, `{"fence":1,"response":{"status":200,"headers":{"A":["\u0000"]}}}`, `{"fence":1,"response":{"status":200,"headers":{"Set-Cookie":["a\nb"]}}}`,
			`{"fence":1,"response":{"status":200,"headers":{"A":["b"],"A":["c"]}}}`, `{"fence":1,"response":{"status":200,"headers":{"A":["b"],"a":["c"]}}}`,
			`{"fence":1,"response":{"status":200,"body":1}}`, `{"fence":1,"response":{"status":200,"body":null}}`, `{"fence":1,"response":{"status":200,"body":{}}}`, `{"fence":1,"response":{"status":200,"body":"","body_base64":""}}`,
			`{"fence":1,"response":{"status":200,"body_base64":"/w"}}`, `{"fence":1,"response":{"status":200,"body_base64":"_w=="}}`, `{"fence":1,"response":{"status":200,"body_base64":"/x=="}}`, `{"fence":1,"response":{"status":200,"body_base64":"/w=\n="}}`, `{"fence":1,"response":{"status":200,"body_base64":1}}`,
			`{"fence":1,"response":{"status":200,"body":"a","body":"b"}}`, `{"fence":1,"response":{"status":200,"trailers":{}}}`, `{"fence":1,"response":{"status":200},"ttl":"1h"}`,
			`{"fence":1,"response":{"status":200,"headers":` + strings.Repeat(`{"a":`, 200_000) + `}}`,
		},
	}
	for call, bodies := range tests {
		t.Run(call, func(t *testing.T) {
			s := newService(t)
			for i, body := range bodies {
				t.Run(fmt.Sprint(i), func(t *testing.T) {
					s.t = t
					s.post(call, body).wantsProblem(400, "bad-request")
				})
			}
			s.t = t
			if s.node.Meta().Fence != 0 || s.node.began > 0 {
				t.Error("something was claimed")
			}
		})
	}
}

func TestFingerprintAndAttemptIDMayHaveAnyText(t *testing.T) {
	for name, text := range map[string]string{"255 bytes": strings.Repeat("f", 255), "text": "naïve 😀 \x00 \" \\", "empty": "", "white space": " \n"} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			body, err := json.Marshal(map[string]string{"fingerprint": text, "attempt_id": text})
			if err != nil {
				t.Fatal(err)
			}
			s.post("claim", string(body)).wants(201)
			if got := s.send("GET", "/v1/keys/k", "").wants(200).json()["fingerprint"]; got != text {
				t.Errorf("fingerprint %q, want %q", got, text)
			}
		})
	}
}

func TestOnlyHeadersOfTheAllowListAreRecorded(t *testing.T) {
	s := newService(t)
	s.post("claim", "").wants(201)
	s.post("complete", `{"fence":1,"response":{"status":200,"headers":{
		"content-type":["text/plain"],"ETAG":["\"1\""],"Vary":["a","b"],"Cache-Control":[],"Location":[" /x "],"Retry-After":["5"],
		"Set-Cookie":["a=b"],"Authorization":["Basic x"],"WWW-Authenticate":["Basic"],"Connection":["close"],"Transfer-Encoding":["chunked"],
		"Content-Length":["99"],"Date":["today"],"Age":["1"],"Traceparent":["00"],"Server":["x"],"X-Other":["y"],"Idempotent-Replayed":["true"]}}}`).wants(200)
	got := s.send("GET", "/v1/keys/k", "").wants(200)
	want := `"headers":{"Content-Type":["text/plain"],"Etag":["\"1\""],"Location":["/x"],"Retry-After":["5"],"Vary":["a","b"]},"body":""}}`
	if !strings.HasSuffix(got.body, want) {
		t.Errorf("record %s, want it to end in %s", got.body, want)
	}
}

func TestTheOrderOfHeaderMembersMakesNoOtherResponse(t *testing.T) {
	s := newService(t)
	s.post("claim", "").wants(201)
	s.post("complete", `{"fence":1,"response":{"status":200,"headers":{"Link":["a"],"Vary":["b"]}}}`).wants(200)
	s.post("complete", `{"response":{"body":"","headers":{"vary":["b"],"Date":["x"],"link":["a"]},"status":200},"fence":1}`).wants(200)
	s.post("complete", `{"fence":1,"response":{"status":200,"headers":{"Link":["a"],"Vary":["c"]}}}`).wantsProblem(409, "stale-fence")
}

func TestBodiesOfAnyBytesAreRecorded(t *testing.T) {
	for name, tt := range map[string]struct{ sent, shown string }{
		"none":                      {``, `"body":""`},
		"text":                      {`,"body":"a\u0000\n\u00e9"`, `"body":"a\u0000\né"`},
		"text as base64":            {`,"body_base64":"YQ=="`, `"body":"a"`},
		"bytes that are not UTF-8":  {`,"body_base64":"/wA="`, `"body_base64":"/wA="`},
		"nothing as base64":         {`,"body_base64":""`, `"body":""`},
		"text worth compressing":    {`,"body":"` + strings.Repeat("a", 5000) + `"`, `"body":"` + strings.Repeat("a", 5000) + `"`},
		"markup, as it is":          {`,"body":"<a>&"`, `"body":"<a>&"`},
		"a body with a 204 as well": {`,"body":"x"`, `"body":"x"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.post("claim", "").wants(201)
			s.post("complete", `{"fence":1,"response":{"status":204`+tt.sent+`}}`).wants(200)
			if got := s.post("claim", "").wants(200).body; !strings.HasSuffix(got, tt.shown+"}}") {
				t.Errorf("record %s, want it to end in %s", got, tt.shown)
			}
		})
	}
}

func TestRecordsOfOtherSurfacesAreShown(t *testing.T) {
	s := newService(t)
	s.send("POST", "/create", `{"idempotencyKey":"k","data":{"a":1}}`).wants(201)
	got := s.send("GET", "/v1/keys/k", "").wants(200).json()
	// SHA-256 of {"a":1}, in hex.
	if want := "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"; got["fingerprint"] != want {
		t.Errorf("fingerprint %v, want %v", got["fingerprint"], want)
	}
	if body := got["response"].(map[string]any)["body"]; body != `{"id":"0198c0de-0000-7000-8000-000000000001","data":{"a":1}}` {
		t.Errorf("body %v", body)
	}
	gateway := &fsm.Command{Kind: fsm.Kind_CLAIM, Namespace: "default", Key: "g", Surface: fsm.Surface_SURFACE_GATEWAY, Fingerprint: []byte{0xff}, Lease: 1000, Ttl: 1000}
	fence := s.node.apply(gateway).Record.Fence
	dropped := fsm.NewResponse(200, nil, nil)
	dropped.BodyDropped = true
	s.node.apply(&fsm.Command{Kind: fsm.Kind_COMPLETE, Namespace: "default", Key: "g", Fence: fence, Response: dropped})
	response := s.send("GET", "/v1/keys/g", "").wants(200).json()["response"].(map[string]any)
	if response["body_dropped"] != true || response["body"] != nil {
		t.Errorf("response %v", response)
	}
}

func TestKeysAreListedInPages(t *testing.T) {
	s := newService(t)
	if got := s.send("GET", "/v1/keys", "").wants(200).body; got != `{"keys":[]}` {
		t.Errorf("no keys are %s", got)
	}
	names := []string{"a/1", "a/2", "a/3", "b&c", "b+d", "c"}
	for i, name := range names {
		fence := s.send("POST", "/v1/keys/"+url.PathEscape(name)+"/claim", "").fence()
		if i%2 == 0 {
			s.send("POST", "/v1/keys/"+url.PathEscape(name)+"/complete", fmt.Sprintf(`{"fence":%d,"response":{"status":200,"body":"x"}}`, fence)).wants(200)
		}
	}
	for query, want := range map[string][]string{
		"":                            names,
		"limit=1":                     names,
		"limit=4":                     names,
		"limit=6":                     names,
		"limit=1000":                  names,
		"state=&prefix=&limit=&after": names,
		"prefix=a/&limit=2":           {"a/1", "a/2", "a/3"},
		"prefix=b%26":                 {"b&c"},
		"state=claimed":               {"a/2", "b&c", "c"},
		"state=completed&limit=1":     {"a/1", "a/3", "b+d"},
		"state=unknown":               nil,
		"prefix=nothing":              nil,
	} {
		t.Run(query, func(t *testing.T) {
			s.t = t
			if got := s.listAll(query); !slices.Equal(got, want) {
				t.Errorf("listed %v, want %v", got, want)
			}
		})
	}
}

// listAll follows next from page to page.
func (s *service) listAll(query string) (names []string) {
	s.t.Helper()
	for after := ""; ; {
		page := s.send("GET", "/v1/keys?"+query+after, "").wants(200).json()
		for _, k := range page["keys"].([]any) {
			names = append(names, k.(map[string]any)["key"].(string))
		}
		next, ok := page["next"].(string)
		if !ok {
			return names
		}
		after = "&after=" + url.QueryEscape(next)
		query = strings.TrimSuffix(query, "&after")
	}
}

func TestQueriesAreChecked(t *testing.T) {
	s := newService(t)
	for _, path := range []string{
		"/v1/keys?limit=0", "/v1/keys?limit=1001", "/v1/keys?limit=-1", "/v1/keys?limit=abc", "/v1/keys?limit=1.0", "/v1/keys?limit=%2B1", "/v1/keys?limit=1&limit=2", "/v1/keys?limit=99999999999999999999",
		"/v1/keys?state=absent", "/v1/keys?state=Claimed", "/v1/keys?state=claimed&state=claimed", "/v1/keys?sort=key", "/v1/keys?limit=%zz", "/v1/keys?limit=1;state=claimed",
		"/v1/keys/k?consistency=eventual", "/v1/keys/k?consistency=local&consistency=local", "/v1/keys/k?local=true", "/resources?limit=0", "/resources?prefix=a", "/resources/x?a=b", "/v1/cluster?a=b",
	} {
		s.send("GET", path, "").wantsProblem(400, "bad-request")
	}
	s.send("POST", "/create?dry_run=1", `{"idempotencyKey":"k","data":1}`).wantsProblem(400, "bad-request")
	s.send("POST", "/v1/keys/k/claim?wait=5", "").wantsProblem(400, "bad-request")
	if s.node.began != 0 {
		t.Error("something was claimed")
	}
}

func TestALocalReadAsksNoOne(t *testing.T) {
	s := newService(t)
	fence := s.post("claim", `{"ttl":"1s"}`).fence()
	s.post("complete", fmt.Sprintf(`{"fence":%d,"response":{"status":200}}`, fence)).wants(200)
	s.node.err = errBroken
	s.send("GET", "/v1/keys/k?consistency=local", "").wants(200)
	s.node.advance(time.Second)
	s.send("GET", "/v1/keys/k?consistency=local", "").wantsProblem(404, "key-unknown")
	s.send("GET", "/v1/keys/other?consistency=local", "").wantsProblem(404, "key-unknown")
}

func TestPreferWait(t *testing.T) {
	t.Run("ends in a replay when the run completes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t)
			s.post("claim", "").wants(201)
			go func() {
				time.Sleep(3 * time.Second)
				s.node.apply(&fsm.Command{Kind: fsm.Kind_COMPLETE, Namespace: "default", Key: "k", Fence: 1, Response: fsm.NewResponse(200, nil, []byte("x"))})
			}()
			began := time.Now()
			s.post("claim", "", "Prefer", "wait=10").wants(200).wantsHeader("Idempotent-Replayed", "true").wantsHeader("Preference-Applied", "wait=10")
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("it took %v, want 3s", took)
			}
		})
	})
	t.Run("ends in 409 at its end, capped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, func(c *Config) { c.MaxWait = 7 * time.Second })
			s.post("claim", "").wants(201)
			began := time.Now()
			s.post("claim", "", "Prefer", "wait=3600").wantsHeader("Preference-Applied", "wait=7").wantsProblem(409, "in-progress")
			if took := time.Since(began); took != 7*time.Second {
				t.Errorf("it took %v, want 7s", took)
			}
		})
	})
	t.Run("lets a waiter run when the key is released", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t)
			s.post("claim", "").wants(201)
			go func() {
				time.Sleep(time.Second)
				s.node.apply(&fsm.Command{Kind: fsm.Kind_RELEASE, Namespace: "default", Key: "k", Fence: 1})
			}()
			if fence := s.post("claim", "", "Prefer", "wait=10").fence(); fence != 2 {
				t.Errorf("fence %d, want 2", fence)
			}
		})
	})
	t.Run("is not applied without one, or malformed", func(t *testing.T) {
		s := newService(t)
		s.post("claim", "").wants(201)
		for _, prefer := range []string{"wait=0", "wait", "wait=soon", "respond-async"} {
			s.post("claim", "", "Prefer", prefer).wantsHeader("Preference-Applied", "").wantsProblem(409, "in-progress")
		}
	})
	t.Run("is not applied when too many wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, func(c *Config) { c.MaxWaiters = 1 })
			s.post("claim", "").wants(201)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.post("claim", "", "Prefer", "wait=10")
			}()
			synctest.Wait()
			s.post("claim", "", "Prefer", "wait=10").wantsHeader("Preference-Applied", "").wantsProblem(409, "in-progress")
			<-done
			s.post("claim", "", "Prefer", "wait=1").wantsHeader("Preference-Applied", "wait=1").wantsProblem(409, "in-progress")
		})
	})
}
