package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const seedBody = `{
    "idempotencyKey": "123e4567-e89b-12d3-a456-426614174000",
    "data": {
        "name": "Alice",
        "email": "alice@example.com"
    }
}`

const seedAnswer = `{"id":"0198c0de-0000-7000-8000-000000000001","data":{
        "name": "Alice",
        "email": "alice@example.com"
    }}`

func TestTheSeedsExample(t *testing.T) {
	for name, mediaType := range map[string]string{
		"as a Python client sends it": "application/json",
		"as curl -d sends it":         "application/x-www-form-urlencoded",
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			first := s.send("POST", "/create", seedBody, "Content-Type", mediaType).wants(http.StatusCreated)
			if first.body != seedAnswer {
				t.Fatalf("body %s, want %s", first.body, seedAnswer)
			}
			first.wantsHeader("Location", "/resources/0198c0de-0000-7000-8000-000000000001").
				wantsHeader("Content-Type", "application/json").
				wantsHeader("Idempotency-Key", "123e4567-e89b-12d3-a456-426614174000").
				wantsHeader("Idempotency-TTL", "86400").
				wantsHeader("Idempotent-Replayed", "")
			again := s.send("POST", "/create", seedBody, "Content-Type", mediaType).wants(http.StatusCreated)
			if again.body != first.body {
				t.Fatalf("replay %s, want %s", again.body, first.body)
			}
			again.wantsHeader("Idempotent-Replayed", "true").wantsHeader("Location", first.header.Get("Location"))
		})
	}
}

func TestARetryIsTheSameRequest(t *testing.T) {
	const data = `{"data": {"a": 1.50, "b": [true, "\u0041"]}}`
	tests := []struct {
		name, retry string
		same        bool
	}{
		{"the same bytes", data, true},
		{"other white space", `{"data":{"a":1.50,"b":[true,"\u0041"]}}`, true},
		{"another order of members", `{"data": {"b": [true, "\u0041"], "a": 1.50}}`, true},
		{"another escape of the same string", `{"data": {"a": 1.50, "b": [true, "A"]}}`, true},
		{"another order of elements", `{"data": {"a": 1.50, "b": ["\u0041", true]}}`, false},
		{"a number written otherwise", `{"data": {"a": 1.5, "b": [true, "\u0041"]}}`, false},
		{"another value", `{"data": {"a": 1.50, "b": [false, "\u0041"]}}`, false},
		{"a member more", `{"data": {"a": 1.50, "b": [true, "\u0041"], "c": null}}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			first := s.send("POST", "/create", data, "Idempotency-Key", "k").wants(201)
			again := s.send("POST", "/create", tt.retry, "Idempotency-Key", "k")
			if !tt.same {
				p := again.wantsProblem(422, "key-reused")
				if p["retryable"] != false || p["title"] != "Idempotency-Key is already used" {
					t.Errorf("problem %v", p)
				}
				return
			}
			if again.wants(201).body != first.body {
				t.Errorf("replay %s, want %s", again.body, first.body)
			}
		})
	}
}

func TestNumbersThatNoFloatKeepsAreDifferentData(t *testing.T) {
	s := newService(t)
	s.send("POST", "/create", `{"data":9007199254740993}`, "Idempotency-Key", "k").wants(201)
	s.send("POST", "/create", `{"data":9007199254740992}`, "Idempotency-Key", "k").wantsProblem(422, "key-reused")
	s.send("POST", "/create", `{"data":-0}`, "Idempotency-Key", "zero").wants(201)
	s.send("POST", "/create", `{"data":0}`, "Idempotency-Key", "zero").wantsProblem(422, "key-reused")
}

func TestDataComesBackAsItWasSent(t *testing.T) {
	for name, data := range map[string]string{
		"white space within": "{ \"a\" :\t[ 1 , 2 ]\r\n}", "escapes": `"\u0041\/\ud83d\ude00"`, "a long number": "123456789012345678901234567890.10e+05",
		"false": "false", "zero": "0", "an empty string": `""`, "an empty array": "[]", "an empty object": "{}",
		"markup": `"<script>&</script>"`, "line separators": `"\u2028"`, "raw line separators": "\"\u2028\u2029\"", "64 deep with the body": strings.Repeat("[", 63) + strings.Repeat("]", 63),
		"an object of null": `{"a":null}`, "compressed where it is kept": `"` + strings.Repeat("long ", 1000) + `"`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			want := `{"id":"0198c0de-0000-7000-8000-000000000001","data":` + data + `}`
			a := s.send("POST", "/create", "{\"idempotencyKey\":\"k\",\"data\": \n"+data+"\t }").wants(201)
			again := s.send("POST", "/create", `{"idempotencyKey":"k","data":`+data+`}`).wants(201)
			got := s.send("GET", a.header.Get("Location"), "").wants(200)
			if a.body != want || again.body != want || got.body != want {
				t.Errorf("created %s\nreplayed %s\nread %s\nwant %s", a.body, again.body, got.body, want)
			}
			a.wantsHeader("Content-Length", strconv.Itoa(len(want)))
		})
	}
}

func TestTheKeyOfCreate(t *testing.T) {
	const missing = `"error":"Idempotency key is required"`
	tests := []struct {
		name, body string
		headers    []string
		status     int
		slug, echo string // slug of a problem, or the echo of a success
		hint       bool   // the seed's member "error"
	}{
		{"in the body", `{"idempotencyKey":"k","data":1}`, nil, 201, "", "k", false},
		{"in the header", `{"data":1}`, []string{"Idempotency-Key", "k"}, 201, "", "k", false},
		{"quoted in the header", `{"data":1}`, []string{"Idempotency-Key", `"k"`}, 201, "", `"k"`, false},
		{"in both", `{"idempotencyKey":"k","data":1}`, []string{"Idempotency-Key", "k"}, 201, "", "k", false},
		{"in both, once quoted", `{"idempotencyKey":"k","data":1}`, []string{"Idempotency-Key", `"k"`}, 201, "", `"k"`, false},
		{"null in the body", `{"idempotencyKey":null,"data":1}`, []string{"Idempotency-Key", "k"}, 201, "", "k", false},
		{"with a comma in the body", `{"idempotencyKey":"a,b","data":1}`, nil, 201, "", `"a,b"`, false},
		{"with quote and backslash in the body", `{"idempotencyKey":"a\"\\b","data":1}`, nil, 201, "", `"a\"\\b"`, false},
		{"in both, different", `{"idempotencyKey":"k","data":1}`, []string{"Idempotency-Key", "l"}, 400, "key-invalid", "", false},
		{"in neither", `{"data":1}`, nil, 400, "key-missing", "", true},
		{"in neither, without data", `{}`, nil, 400, "key-missing", "", true},
		{"an empty body", "", nil, 400, "key-missing", "", true},
		{"null", `{"idempotencyKey":null,"data":1}`, nil, 400, "key-missing", "", true},
		{"empty in the body", `{"idempotencyKey":"","data":1}`, nil, 400, "key-invalid", "", true},
		{"empty in the header", `{"data":1}`, []string{"Idempotency-Key", ""}, 400, "key-invalid", "", false},
		{"good in the body, bad in the header", `{"idempotencyKey":"k","data":1}`, []string{"Idempotency-Key", "a b"}, 400, "key-invalid", "", false},
		{"good in the header, bad in the body", `{"idempotencyKey":"a b","data":1}`, []string{"Idempotency-Key", "k"}, 400, "key-invalid", "", false},
		{"two headers", `{"data":1}`, []string{"Idempotency-Key", "k", "Idempotency-Key", "k"}, 400, "key-invalid", "", false},
		{"a space in the body", `{"idempotencyKey":"a b","data":1}`, nil, 400, "key-invalid", "", false},
		{"a line break in the body", `{"idempotencyKey":"a\r\nb","data":1}`, nil, 400, "key-invalid", "", false},
		{"256 bytes in the body", `{"idempotencyKey":"` + strings.Repeat("k", 256) + `","data":1}`, nil, 400, "key-invalid", "", false},
		{"a number", `{"idempotencyKey":1,"data":1}`, nil, 400, "bad-request", "", false},
		{"an array", `{"idempotencyKey":["k"],"data":1}`, nil, 400, "bad-request", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			a := s.send("POST", "/create", tt.body, tt.headers...)
			if tt.slug == "" {
				a.wants(201).wantsHeader("Idempotency-Key", tt.echo)
				return
			}
			a.wantsProblem(tt.status, tt.slug)
			if strings.Contains(a.body, missing) != tt.hint {
				t.Errorf("problem %s, want %s: %v", a.body, missing, tt.hint)
			}
			if s.node.began != 0 {
				t.Error("it went as far as the claim")
			}
		})
	}
}

func TestBothFormsOfAKeyAreOneKey(t *testing.T) {
	s := newService(t)
	first := s.send("POST", "/create", `{"data":1}`, "Idempotency-Key", "k-1").wants(201)
	for _, again := range []*answer{
		s.send("POST", "/create", `{"data":1}`, "Idempotency-Key", `"k-1"`),
		s.send("POST", "/create", `{"data":1,"idempotencyKey":"k-1"}`),
	} {
		if again.wants(201).body != first.body {
			t.Errorf("%s, want %s", again.body, first.body)
		}
		again.wantsHeader("Idempotent-Replayed", "true")
	}
}

func TestABadBodyOfCreateClaimsNothing(t *testing.T) {
	for name, body := range map[string]string{
		"no data": `{"idempotencyKey":"k"}`, "null data": `{"idempotencyKey":"k","data":null}`, "null data among white space": `{"idempotencyKey":"k","data": null }`,
		"an unknown member": `{"idempotencyKey":"k","data":1,"dta":2}`, "a member of another case": `{"idempotencykey":"k","data":1}`,
		"data twice": `{"idempotencyKey":"k","data":1,"data":1}`, "a key twice": `{"idempotencyKey":"k","idempotencyKey":"k","data":1}`,
		"a member of data twice": `{"idempotencyKey":"k","data":{"a":1,"a":1}}`, "not JSON": `hello`, "a form": `idempotencyKey=k&data=1`,
		"an array": `[]`, "bytes behind": `{"idempotencyKey":"k","data":1}{}`, "cut off": `{"idempotencyKey":"k","data":`,
		"invalid UTF-8": "{\"idempotencyKey\":\"k\",\"data\":\"\xff\"}", "200,000 deep": `{"idempotencyKey":"k","data":` + strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000) + `}`,
		"65 deep with the body": `{"idempotencyKey":"k","data":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			p := s.send("POST", "/create", body).wantsProblem(400, "bad-request")
			if p["retryable"] != false {
				t.Errorf("problem %v is retryable", p)
			}
			if s.node.began != 0 {
				t.Error("it went as far as the claim")
			}
		})
	}
}

func TestUniqueFields(t *testing.T) {
	unique := func(c *Config) { c.Unique = []string{"email", "phone"} }
	tests := []struct {
		name, first, second string
		duplicate           bool
	}{
		{"the same value", `{"email":"a@x"}`, `{"email":"a@x","n":1}`, true},
		{"the same value, escaped otherwise", `{"email":"a@x"}`, `{"email":"\u0061@x"}`, true},
		{"the second field", `{"email":"a@x","phone":1}`, `{"email":"b@x","phone":1}`, true},
		{"a number written otherwise", `{"phone":1.0}`, `{"phone":1}`, true},
		{"an object in another order", `{"phone":{"a":1,"b":2}}`, `{"phone":{"b":2,"a":1}}`, true},
		{"another value", `{"email":"a@x"}`, `{"email":"b@x"}`, false},
		{"another case", `{"email":"a@x"}`, `{"email":"A@x"}`, false},
		{"another type", `{"phone":1}`, `{"phone":"1"}`, false},
		{"the value in another field", `{"email":"1"}`, `{"phone":"1"}`, false},
		{"long numbers that differ", `{"phone":9007199254740993}`, `{"phone":9007199254740992}`, false},
		{"null", `{"email":null}`, `{"email":null}`, false},
		{"absent", `{"n":1}`, `{"n":1}`, false},
		{"further in", `{"x":{"email":"a@x"}}`, `{"x":{"email":"a@x"}}`, false},
		{"data that is no object", `["email"]`, `["email"]`, false},
		{"an empty string", `{"email":""}`, `{"email":""}`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t, unique)
			first := s.send("POST", "/create", `{"idempotencyKey":"k1","data":`+tt.first+`}`).wants(201)
			second := s.send("POST", "/create", `{"idempotencyKey":"k2","data":`+tt.second+`}`)
			if !tt.duplicate {
				second.wants(201)
				return
			}
			p := second.wantsProblem(409, "duplicate-resource")
			if p["resource_id"] != first.json()["id"] {
				t.Errorf("resource_id %v, want %v", p["resource_id"], first.json()["id"])
			}
			second.wantsHeader("Idempotency-TTL", "86400").wantsHeader("Retry-After", "")
			again := s.send("POST", "/create", `{"idempotencyKey":"k2","data":`+tt.second+`}`).wantsHeader("Idempotent-Replayed", "true")
			if again.status != 409 || again.body != second.body {
				t.Errorf("replay %d %s, want %s", again.status, again.body, second.body)
			}
		})
	}
}

func TestAResourceOutlivesItsKey(t *testing.T) {
	s := newService(t, func(c *Config) { c.Unique = []string{"email"} })
	first := s.send("POST", "/create", `{"idempotencyKey":"k","data":{"email":"a"}}`).wants(201)
	s.node.advance(24 * time.Hour)
	s.send("GET", first.header.Get("Location"), "").wants(200)
	p := s.send("POST", "/create", `{"idempotencyKey":"k","data":{"email":"a"}}`).wantsHeader("Idempotent-Replayed", "").wantsProblem(409, "duplicate-resource")
	if p["resource_id"] != first.json()["id"] {
		t.Errorf("resource_id %v", p["resource_id"])
	}
}

func TestIdempotencyTTLCountsDown(t *testing.T) {
	s := newService(t, func(c *Config) { c.TTL = 10 * time.Second })
	s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`).wants(201).wantsHeader("Idempotency-TTL", "10")
	s.node.advance(1500 * time.Millisecond)
	s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`).wants(201).wantsHeader("Idempotency-TTL", "8").wantsHeader("Idempotent-Replayed", "true")
	s.node.advance(8499 * time.Millisecond)
	s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`).wants(201).wantsHeader("Idempotency-TTL", "0").wantsHeader("Idempotent-Replayed", "true")
	s.node.advance(time.Millisecond)
	s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`).wants(201).wantsHeader("Idempotency-TTL", "10").wantsHeader("Idempotent-Replayed", "")
}

func TestResourcesAreListedInPages(t *testing.T) {
	s := newService(t)
	if got := s.send("GET", "/resources", "").wants(200).body; got != `{"resources":[]}` {
		t.Errorf("no resources are %s", got)
	}
	var want []string
	for i := range 5 {
		want = append(want, s.send("POST", "/create", fmt.Sprintf(`{"idempotencyKey":"k%d","data":%d}`, i, i)).wants(201).body)
	}
	var got []string
	for path := "/resources?limit=2"; path != ""; {
		page := s.send("GET", path, "").wants(200)
		var v struct {
			Resources []json.RawMessage
			Next      *string
		}
		if err := json.Unmarshal([]byte(page.body), &v); err != nil {
			t.Fatal(err)
		}
		for _, r := range v.Resources {
			got = append(got, string(r))
		}
		path = ""
		if v.Next != nil {
			path = "/resources?limit=2&after=" + url.QueryEscape(*v.Next)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	s.send("GET", "/resources/none", "").wantsProblem(404, "not-found")
	s.send("GET", "/resources/", "").wantsProblem(404, "not-found")
	s.send("GET", "/resources/a%2Fb", "").wantsProblem(404, "not-found")
}
