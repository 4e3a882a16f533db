package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onced/onced/wire"
)

func TestAKeyIsTakenFromTheHeaderOrRefused(t *testing.T) {
	g := startRig(t, 1, func(c *Config) {
		c.Routes = []Route{{Path: "/must", Settings: Settings{Key: KeyRequired}}, {Path: "/off/{id}", Settings: Settings{Key: KeyOff}}}
	})
	g.send(0, post("/must", "", "x")).wantsProblem(400, "key-missing")
	g.send(0, post("/off/1", "k", "x")).wants(200).first()
	g.send(0, post("/off/1", "k", "x")).wants(200).first()
	for _, key := range []string{"", " ", "a b", "a,b", `a"b`, `"open`, `"a";p=1`, "\x80", strings.Repeat("k", 256)} {
		c := post("/x", "", "x")
		c.header["Idempotency-Key"] = []string{key}
		g.send(0, c).wantsProblem(400, "key-invalid")
	}
	c := post("/x", "", "x")
	c.header["Idempotency-Key"] = []string{"a", "a"}
	g.send(0, c).wantsProblem(400, "key-invalid")
	g.upstream.wantsHits(2)
}

func TestAKeyIsTakenFromAMemberOfTheBody(t *testing.T) {
	g := startRig(t, 1, func(c *Config) {
		c.Routes = []Route{
			{Path: "/must", Settings: Settings{Key: KeyRequired, KeyMember: "payment.id"}},
			{Path: "/may", Settings: Settings{KeyMember: "id"}},
		}
	})
	const media = "application/json"
	g.send(0, post("/must", "", `{"payment":{"id":"p1"},"n":1}`, "Content-Type", media)).wants(200).first().wantsHeader("Idempotency-Key", "p1")
	g.send(0, post("/must", "", `{"payment":{"id":"p1"},"n":1}`, "Content-Type", media)).wants(200).replay()
	g.send(0, post("/must", "", `{"payment":{"id":"p1"},"n":2}`, "Content-Type", media)).wantsProblem(422, "key-reused")
	g.send(0, post("/may", "", `{"id":12}`, "Content-Type", "application/vnd.x+json")).wants(200).wantsHeader("Idempotency-Key", "12")
	g.send(0, post("/may", "", `{"id":"a,b"}`, "Content-Type", media)).wants(200).wantsHeader("Idempotency-Key", `"a,b"`)
	hits := g.upstream.wantsHits(3)
	if hits[1].header.Get("Idempotency-Key") != "12" {
		t.Errorf("the upstream saw %v", hits[1].header)
	}
	for _, body := range []string{`{"payment":{}}`, `{"payment":1}`, `{"payment":{"id":null}}`, `{}`, `[]`, `{`, ``, `{"payment":{"id":"a"}} x`} {
		g.send(0, post("/must", "", body, "Content-Type", media)).wantsProblem(400, "key-missing")
	}
	for _, body := range []string{`{"payment":{"id":""}}`, `{"payment":{"id":"a b"}}`, `{"payment":{"id":true}}`, `{"payment":{"id":[1]}}`} {
		g.send(0, post("/must", "", body, "Content-Type", media)).wantsProblem(400, "key-invalid")
	}
	g.send(0, post("/must", "", `{"payment":{"id":"p2"}}`, "Content-Type", "text/plain")).wantsProblem(400, "key-missing")
	g.send(0, post("/may", "header-counts-for-nothing", `{"n":1}`, "Content-Type", media)).wants(200).wantsHeader("Idempotency-Key")
	if hits := g.upstream.wantsHits(4); hits[3].body != `{"n":1}` {
		t.Errorf("the body that was looked into came as %q", hits[3].body)
	}
}

func TestTheNamespaceIsTheCallers(t *testing.T) {
	g := startRig(t, 1, func(c *Config) {
		c.Routes = []Route{
			{Path: "/tenant", Settings: Settings{Namespace: "header:X-Tenant"}},
			{Path: "/cookie", Settings: Settings{Namespace: "cookie:session"}},
			{Path: "/host", Settings: Settings{Namespace: "host"}},
			{Path: "/shared", Settings: Settings{Namespace: "shared"}},
		}
	})
	for _, c := range []struct{ path, name, one, other string }{
		{"/x", "Authorization", "Bearer a", "Bearer b"},
		{"/tenant", "X-Tenant", "a", "b"},
		{"/cookie", "Cookie", "session=a", "session=b"},
		{"/host", "Host", "a.example.com", "b.example.com"},
	} {
		t.Run(c.path, func(t *testing.T) {
			g.send(0, post(c.path, "k", "x", c.name, c.one)).wants(200).first()
			g.send(0, post(c.path, "k", "x", c.name, c.other)).wants(200).first()
			g.send(0, post(c.path, "k", "x", c.name, c.one)).wants(200).replay()
		})
	}
	g.send(0, post("/shared", "k", "x", "Authorization", "Bearer a")).wants(200).first()
	g.send(0, post("/shared", "k", "x", "Authorization", "Bearer b")).wants(200).replay()
	before := len(g.upstream.seen())
	g.send(0, post("/x", "k", "x", "Cookie", "session=a")).wantsProblem(400, "namespace-required")
	g.send(0, post("/x", "k", "x", "Authorization", "a", "Authorization", "b")).wantsProblem(400, "namespace-required")
	g.send(0, post("/tenant", "k", "x")).wantsProblem(400, "namespace-required")
	g.send(0, post("/tenant", "k", "x", "X-Tenant", "a", "X-Tenant", "b")).wantsProblem(400, "namespace-required")
	g.send(0, post("/cookie", "k", "x", "Cookie", "other=a")).wantsProblem(400, "namespace-required")
	if n := len(g.upstream.seen()); n != before {
		t.Errorf("%d refused requests reached the upstream", n-before)
	}
}

func TestWhatIsTooLargeOrTooMuchIsRefusedBeforeTheClaim(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.MaxRequest = 1 << 20; c.MaxBuffered = 4 << 20 })
	g.send(0, post("/x", "large", strings.Repeat("x", 1<<20+1))).wantsProblem(413, "too-large")
	g.sendChunked("/x", "chunked", 1<<20+1).wantsProblem(413, "too-large")
	g.sendChunked("/x", "fits", 1000).wants(200)
	others := g.gateways[0].cfg.MaxBuffered - 1000
	g.gateways[0].buffered.Add(others)
	g.send(0, post("/x", "full", strings.Repeat("x", 1000))).wantsProblem(503, "overloaded").wantsHeader("Retry-After", "1")
	g.sendChunked("/x", "full", 5000).wantsProblem(503, "overloaded")
	g.gateways[0].buffered.Add(-others)
	g.gateways[0].cfg.MaxInHand = 0
	g.send(0, post("/x", "busy", "x")).wantsProblem(503, "overloaded").wantsHeader("Retry-After", "1")
	g.upstream.wantsHits(1)
	for _, key := range []string{"large", "chunked", "full", "busy"} {
		if rec := g.record(key); rec != nil {
			t.Errorf("%s was claimed", key)
		}
	}
	if held := g.gateways[0].buffered.Load(); held != 0 {
		t.Errorf("%d bytes count as buffered with nothing in hand", held)
	}
}

// sendChunked posts size bytes without saying how many they are.
func (g *rig) sendChunked(path, key string, size int) *reply {
	g.t.Helper()
	r, err := http.NewRequest(http.MethodPost, g.servers[0].URL+path, io.MultiReader(strings.NewReader(strings.Repeat("x", size))))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Idempotency-Key", key)
	res, err := g.client.Do(r)
	if err != nil {
		return &reply{t: g.t, err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return &reply{t: g.t, status: res.StatusCode, header: res.Header, body: string(b), err: err}
}

func TestABodyThatBreaksOffClaimsNothing(t *testing.T) {
	g := startRig(t, 1, nil)
	for name, request := range map[string]string{
		"cut":   "POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 10\r\n\r\nhalf",
		"chunk": "POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", g.servers[0].Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, request)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil && res.StatusCode != 400 {
				t.Errorf("status %d", res.StatusCode)
			}
		})
	}
	g.upstream.wantsHits(0)
	if rec := g.record("k"); rec != nil {
		t.Errorf("it was claimed: %v", rec)
	}
}

func TestExpectContinueIsHonoured(t *testing.T) {
	g := startRig(t, 1, nil)
	g.send(0, post("/x", "k", "body", "Expect", "100-continue")).wants(200)
	if hits := g.upstream.wantsHits(1); hits[0].body != "body" || hits[0].header.Get("Expect") != "" {
		t.Errorf("the upstream saw %+v", hits[0])
	}
}

func TestFingerprintsDifferWhereRequestsDo(t *testing.T) {
	yes := true
	plain := newRoute("x", builtin)
	canonicalRoute := newRoute("x", Settings{Canonical: &yes}.withDefaults(builtin))
	ignoring := newRoute("x", Settings{Ignore: []string{"sent_at", "meta.trace"}}.withDefaults(builtin))
	request := func(method, target, media string) *http.Request {
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("Content-Type", media)
		return r
	}
	json := request("POST", "/x?a=1&b=2", "application/json")
	for name, c := range map[string]struct {
		route        *route
		r            *http.Request
		one, another string
		same         bool
	}{
		"the same bytes":                      {plain, json, `{"a":1}`, `{"a":1}`, true},
		"white space counts":                  {plain, json, `{"a":1}`, `{"a": 1}`, false},
		"canonical: not white space":          {canonicalRoute, json, `{"a":1,"b":2}`, ` {"b":2, "a":1}`, true},
		"canonical: escapes":                  {canonicalRoute, json, `{"a":"\u0041"}`, `{"a":"A"}`, true},
		"canonical: 1.0 is 1":                 {canonicalRoute, json, `{"a":1.0}`, `{"a":1}`, true},
		"canonical: long numbers":             {canonicalRoute, json, `{"a":9007199254740993}`, `{"a":9007199254740992}`, false},
		"canonical: values":                   {canonicalRoute, json, `{"a":1}`, `{"a":2}`, false},
		"canonical: only JSON":                {canonicalRoute, request("POST", "/x", "text/plain"), `{"a":1}`, `{"a": 1}`, false},
		"canonical: broken JSON by its bytes": {canonicalRoute, json, `{"a":1`, `{"a": 1`, false},
		"canonical: a name twice, by bytes":   {canonicalRoute, json, `{"a":1,"a":2}`, `{"a":2}`, false},
		"canonical: more after it, by bytes":  {canonicalRoute, json, `{"a":1} `, `{"a":1} 2`, false},
		"ignored member":                      {ignoring, json, `{"a":1,"sent_at":1}`, `{"sent_at":2,"a":1}`, true},
		"ignored member left out":             {ignoring, json, `{"a":1,"sent_at":{"x":[1]}}`, `{"a":1}`, true},
		"ignored member inside":               {ignoring, json, `{"meta":{"trace":1,"b":2}}`, `{"meta":{"b":2}}`, true},
		"not ignored elsewhere":               {ignoring, json, `{"b":{"sent_at":1}}`, `{"b":{"sent_at":2}}`, false},
		"not ignored in an array":             {ignoring, json, `{"meta":[{"trace":1}]}`, `{"meta":[{"trace":2}]}`, false},
		"the rest counts":                     {ignoring, json, `{"meta":{"b":1}}`, `{"meta":{"b":2}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			one, another := c.route.fingerprint(c.r, []byte(c.one)), c.route.fingerprint(c.r, []byte(c.another))
			if (string(one) == string(another)) != c.same {
				t.Errorf("same fingerprint: %v", !c.same)
			}
		})
	}
	base := string(plain.fingerprint(json, nil))
	for name, r := range map[string]*http.Request{
		"method": request("PATCH", "/x?a=1&b=2", "application/json"), "path": request("POST", "/y?a=1&b=2", "application/json"),
		"escaping": request("POST", "/%78?a=1&b=2", "application/json"), "query": request("POST", "/x?a=1&b=3", "application/json"),
		"media type": request("POST", "/x?a=1&b=2", "text/json"),
	} {
		if string(plain.fingerprint(r, nil)) == base {
			t.Errorf("%s does not count", name)
		}
	}
	if string(plain.fingerprint(request("POST", "/x?b=2&a=1", "Application/JSON"), nil)) != base {
		t.Error("the order of the query, or the case of the media type, counts")
	}
}

func TestMistakesInTheSettingsAreAllNamed(t *testing.T) {
	err := Config{
		Upstreams: []*url.URL{{Host: "x"}, {Scheme: "http"}, {Scheme: "ftp", Host: "x"}, {Scheme: "http", Host: "x", RawQuery: "q"}},
		Routes: []Route{
			{Path: "x"}, {Path: "/{a"}, {Path: "/{a:[}"}, {Path: "/x", Methods: []string{"GET"}},
			{Path: "/y", Settings: Settings{
				Key: "perhaps", OnLapse: "shrug", TTL: 1, Lease: 1, Timeout: -1, MaxRequest: -1, MaxResponse: 1 << 40,
				KeepHeaders: []string{"a b", "set-cookie"}, KeyMember: "a..b", Namespace: "header:", NotRecorded: []int{200},
			}},
		},
		HealthPath: "health", MaxInHand: -1,
	}.Validate()
	for _, want := range []string{
		"no cluster", "http:// or https://", "names no host", "query", `path "x"`, "/{a", "/{a:[}", `method "GET"`, `key "perhaps"`,
		`on-lapse "shrug"`, "ttl 1ns", "lease 1ns", "timeout -1ns", "max-request -1", "max-response", `"a b"`, "Set-Cookie is never kept",
		`member "a..b"`, `namespace "header:"`, "not-recorded 200", "health path", "requests in hand -1",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in: %v", want, err)
		}
	}
}

func FuzzKeyAndFingerprintOfABody(f *testing.F) {
	for _, body := range []string{`{"payment":{"id":"p"},"sent_at":1}`, `{"payment":`, `[]`, ``, "\xff", strings.Repeat("[", 20000)} {
		f.Add("application/json", body)
	}
	rt := newRoute("x", Settings{Ignore: []string{"sent_at", "payment.trace"}}.withDefaults(builtin))
	f.Fuzz(func(t *testing.T, media, body string) {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header["Content-Type"] = []string{media}
		if len(rt.fingerprint(r, []byte(body))) != 32 {
			t.Fatal("no fingerprint")
		}
		key, err := memberKey(r.Header, []byte(body), "payment.id")
		if err == nil && wire.CheckKey(key) != nil || err != nil && !errors.Is(err, wire.KeyMissing) && !errors.Is(err, wire.KeyInvalid) {
			t.Fatalf("key %q, %v", key, err)
		}
	})
}

func FuzzNamespace(f *testing.F) {
	f.Add("header:X-Tenant", "a")
	f.Add("cookie:session", "session=a")
	f.Fuzz(func(t *testing.T, source, value string) {
		n, err := parseNamespace(source)
		if err != nil {
			return
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Header[http.CanonicalHeaderKey(n.name)] = []string{value}
		ns, err := n.of(r)
		if err == nil && (ns == "" || len(ns) > 255 || strings.Contains(ns, "\x00")) {
			t.Fatalf("namespace %q", ns)
		}
	})
}

func TestNoBodyIsTooOddToBeAnswered(t *testing.T) {
	yes := true
	g := startRig(t, 1, func(c *Config) {
		c.Routes = []Route{
			{Path: "/canonical", Settings: Settings{Canonical: &yes}},
			{Path: "/ignoring", Settings: Settings{Ignore: []string{"a.b"}}},
			{Path: "/member", Settings: Settings{Key: KeyRequired, KeyMember: "a.b"}},
		}
	})
	for name, body := range map[string]string{
		"empty": "", "200,000 deep": strings.Repeat(`{"a":`, 200_000), "200,000 arrays": strings.Repeat("[", 200_000),
		"no UTF-8": "{\"a\":{\"b\":\"\xff\xfe\"}}", "a name twice": `{"a":{"b":"1"},"a":{"b":"2"}}`, "NUL": "\x00", "half": `{"a":{"b":"1`,
		"a huge number": `{"a":{"b":` + strings.Repeat("9", 100_000) + `}}`, "a huge string": `{"a":{"b":"` + strings.Repeat("k", 100_000) + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/plain", "/canonical", "/ignoring"} {
				key := strings.ReplaceAll(name, " ", "-") + path
				key = strings.ReplaceAll(key, ",", "")
				one := g.send(0, post(path, key, body, "Content-Type", "application/json")).wants(200).first()
				g.send(0, post(path, key, body, "Content-Type", "application/json")).wants(200).replay().wantsBody(one.body)
			}
			before := len(g.upstream.seen())
			if r := g.send(0, post("/member", "", body, "Content-Type", "application/json")); r.err != nil || r.status != 400 {
				t.Errorf("status %d, %v", r.status, r.err)
			}
			if n := len(g.upstream.seen()); n != before {
				t.Error("it was forwarded")
			}
		})
	}
}
