package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

func TestWrongPathsAreNotFound(t *testing.T) {
	s := newService(t)
	for _, path := range []string{"/", "/creat", "/create/", "//create", "/v1", "/v1/", "/v1/keys/k/claim/", "/v1/keys/k/steal", "/v1/keys/k/l/claim", "/v2/keys", "/ui", "/ui/x", "/v1/cluster/nodes/a/b", "/a/../create", "/%2Fcreate"} {
		s.send("GET", path, "").wantsProblem(404, "not-found")
		s.send("POST", path, `{"idempotencyKey":"k","data":1}`).wantsProblem(404, "not-found")
	}
	if s.node.began != 0 {
		t.Error("something was claimed")
	}
}

func TestWrongMethodsAreToldTheRightOnes(t *testing.T) {
	s := newService(t)
	for path, allow := range map[string]string{
		"/create": "POST", "/v1/keys/k/claim": "POST", "/v1/keys/k/complete": "POST", "/v1/keys/k/renew": "POST", "/v1/keys/k/release": "POST", "/v1/keys/k/fail": "POST", "/v1/keys/k/resolve": "POST",
		"/v1/keys": "GET, HEAD", "/v1/keys/k": "DELETE, GET, HEAD", "/resources": "GET, HEAD", "/resources/x": "GET, HEAD",
		"/v1/cluster": "GET, HEAD", "/v1/cluster/state": "GET, HEAD", "/v1/cluster/nodes": "POST", "/v1/cluster/nodes/n1": "DELETE", "/v1/cluster/transfer": "POST", "/v1/backup": "GET, HEAD",
		"/livez": "GET, HEAD", "/readyz": "GET, HEAD", "/metrics": "GET, HEAD", "/openapi.yaml": "GET, HEAD", "/ui/": "GET, HEAD",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get"} {
			if strings.Contains(", "+allow+",", " "+method+",") {
				continue
			}
			s.send(method, path, "").wantsHeader("Allow", allow).wantsProblem(405, "method-not-allowed")
		}
	}
}

func TestHeadIsGetWithoutTheBody(t *testing.T) {
	s := newService(t)
	s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`).wants(201)
	server := httptest.NewServer(s.handler)
	defer server.Close()
	for _, path := range []string{"/v1/keys/k", "/v1/keys", "/resources", "/v1/cluster", "/livez", "/readyz", "/openapi.yaml", "/ui/", "/v1/backup"} {
		get, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		get.Body.Close()
		head, err := http.Head(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		head.Body.Close()
		if head.StatusCode != get.StatusCode || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") || path != "/v1/backup" && head.ContentLength != get.ContentLength {
			t.Errorf("%s: HEAD %d %v, GET %d %v", path, head.StatusCode, head.Header, get.StatusCode, get.Header)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	tests := []struct {
		name         string
		headers      []string
		create, keys bool
	}{
		{"JSON", []string{"Content-Type", "application/json"}, true, true},
		{"JSON in UTF-8", []string{"Content-Type", "application/json; charset=utf-8"}, true, true},
		{"JSON in UTF-8, spelt otherwise", []string{"Content-Type", `Application/JSON;charset="UTF-8"`}, true, true},
		{"what curl -d declares", []string{"Content-Type", "application/x-www-form-urlencoded"}, true, false},
		{"an identity encoding", []string{"Content-Type", "application/json", "Content-Encoding", "identity"}, true, true},
		{"JSON in Latin-1", []string{"Content-Type", "application/json; charset=iso-8859-1"}, false, false},
		{"JSON with another parameter", []string{"Content-Type", "application/json; v=1"}, false, false},
		{"text", []string{"Content-Type", "text/plain"}, false, false},
		{"text/json", []string{"Content-Type", "text/json"}, false, false},
		{"a form with files", []string{"Content-Type", "multipart/form-data; boundary=x"}, false, false},
		{"XML", []string{"Content-Type", "application/xml"}, false, false},
		{"an empty one", []string{"Content-Type", ""}, false, false},
		{"nonsense", []string{"Content-Type", ";;;"}, false, false},
		{"a huge one", []string{"Content-Type", "application/json;" + strings.Repeat("a", 8000)}, false, false},
		{"two", []string{"Content-Type", "application/json", "Content-Type2", ""}, true, true},
		{"gzip", []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, false, false},
	}
	check := func(t *testing.T, a *answer, ok bool) {
		t.Helper()
		if !ok {
			a.wantsProblem(415, "unsupported-media-type")
			return
		}
		a.wants(201)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			check(t, s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`, tt.headers...), tt.create)
			check(t, s.send("POST", "/v1/keys/other/claim", `{}`, tt.headers...), tt.keys)
		})
	}
	t.Run("none", func(t *testing.T) {
		s := newService(t)
		r := httptest.NewRequest("POST", "/create", strings.NewReader(`{"idempotencyKey":"k","data":1}`))
		s.serve(r).wants(201)
	})
	t.Run("twice", func(t *testing.T) {
		s := newService(t)
		r := httptest.NewRequest("POST", "/create", strings.NewReader(`{"idempotencyKey":"k","data":1}`))
		r.Header["Content-Type"] = []string{"application/json", "application/json"}
		s.serve(r).wantsProblem(415, "unsupported-media-type")
	})
}

func TestRequestsOfPagesOfAnotherOriginAreRefused(t *testing.T) {
	tests := []struct {
		name    string
		headers []string
		ok      bool
	}{
		{"no browser", nil, true},
		{"a page of the node itself", []string{"Sec-Fetch-Site", "same-origin"}, true},
		{"an old browser, a page of the node itself", []string{"Origin", "http://example.com"}, true},
		{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example"}, false},
		{"a sibling domain", []string{"Sec-Fetch-Site", "same-site"}, false},
		{"an old browser, another site", []string{"Origin", "http://evil.example"}, false},
		{"an opaque origin", []string{"Origin", "null"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			for _, a := range []*answer{
				s.send("POST", "/create", `{"idempotencyKey":"k","data":1}`, tt.headers...),
				s.send("POST", "/v1/keys/a/claim", "", tt.headers...),
				s.send("DELETE", "/v1/keys/a?force=true", "", tt.headers...),
				s.send("GET", "/v1/keys", "", tt.headers...),
				s.send("GET", "/v1/backup", "", tt.headers...),
				s.send("HEAD", "/v1/cluster/state", "", tt.headers...),
			} {
				a.wantsHeader("Access-Control-Allow-Origin", "")
				if !tt.ok {
					a.wantsProblem(403, "forbidden")
				} else if a.status >= 300 {
					t.Errorf("refused: %d %s", a.status, a.body)
				}
			}
			s.send("GET", "/livez", "", tt.headers...).wants(200)
			s.send("GET", "/ui/", "", tt.headers...).wants(200)
		})
	}
}

// every sends one request of each kind that goes to the cluster.
func (s *service) every(visit func(*answer)) {
	s.t.Helper()
	for _, call := range [][3]string{
		{"POST", "/create", `{"idempotencyKey":"secret-key","data":"secret-data"}`},
		{"POST", "/v1/keys/secret-key/claim", `{"fingerprint":"secret-data"}`},
		{"POST", "/v1/keys/secret-key/renew", `{"fence":1}`},
		{"POST", "/v1/keys/secret-key/complete", `{"fence":1,"response":{"status":200,"body":"secret-data"}}`},
		{"POST", "/v1/keys/secret-key/release", `{"fence":1}`},
		{"POST", "/v1/keys/secret-key/fail", `{"fence":1}`},
		{"POST", "/v1/keys/secret-key/resolve", `{"retry":true}`},
		{"GET", "/v1/keys/secret-key", ""},
		{"DELETE", "/v1/keys/secret-key", ""},
		{"GET", "/v1/keys?prefix=secret-key", ""},
		{"GET", "/resources", ""},
		{"GET", "/resources/x", ""},
		{"GET", "/v1/cluster", ""},
		{"POST", "/v1/cluster/nodes", `{"id":"n4","raft_addr":"127.0.0.1:7004"}`},
		{"DELETE", "/v1/cluster/nodes/n4", ""},
		{"POST", "/v1/cluster/transfer", ""},
	} {
		visit(s.send(call[0], call[1], call[2]))
	}
}

func TestWithoutAQuorumEverythingIsUnavailable(t *testing.T) {
	for name, err := range map[string]error{
		"as the node says it": fmt.Errorf("commit: %w", cluster.ErrUnavailable), "at the end of a deadline": context.DeadlineExceeded, "when the client has gone": context.Canceled,
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.node.err = err
			s.every(func(a *answer) {
				t.Helper()
				if p := a.wantsHeader("Retry-After", "1").wantsProblem(503, "unavailable"); p["retryable"] != true {
					t.Errorf("problem %v is not retryable", p)
				}
			})
			if lines := strings.Count(s.log.String(), "\n"); lines != 1 {
				t.Errorf("%d log lines in less than a second, want 1:\n%s", lines, s.log)
			}
		})
	}
}

func TestAFailureIsLoggedOnceAndToldToNoClient(t *testing.T) {
	s := newService(t)
	s.node.err = errBroken
	calls := 0
	s.every(func(a *answer) {
		t.Helper()
		calls++
		a.wantsProblem(500, "internal")
		for _, secret := range []string{"secret", "fire", "goroutine", ".go"} {
			if strings.Contains(a.body, secret) {
				t.Errorf("the answer tells %q: %s", secret, a.body)
			}
		}
	})
	log := s.log.String()
	if lines := strings.Count(log, "\n"); lines != calls {
		t.Errorf("%d log lines for %d failures:\n%s", lines, calls, log)
	}
	if strings.Contains(log, "secret") {
		t.Errorf("the log tells a key or data:\n%s", log)
	}
	if !strings.Contains(log, "key="+wire.HashKey("secret-key")) || !strings.Contains(log, "route=/v1/keys/{key}/claim") || !strings.Contains(log, errBroken.Error()) {
		t.Errorf("the log does not tell route, hash of the key and cause:\n%s", log)
	}
}

func TestAllWellIsNotLogged(t *testing.T) {
	s := newService(t)
	s.every(func(*answer) {})
	if s.log.Len() > 0 {
		t.Errorf("log:\n%s", s.log)
	}
}

func TestAClientThatHungUpIsNoFaultOfTheCluster(t *testing.T) {
	for name, err := range map[string]error{
		"while it waited": context.Canceled, "while its command was under way": fmt.Errorf("commit: %w", cluster.ErrUnavailable),
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.node.err = err
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			s.serve(httptest.NewRequest("POST", "/v1/keys/k/claim", nil).WithContext(ctx))
			if s.log.Len() > 0 {
				t.Errorf("log:\n%s", s.log)
			}
			s.node.err = nil
			got := s.send("GET", "/metrics", "").wants(200).body
			for _, line := range []string{
				`onced_http_requests_total{method="POST",route="/v1/keys/{key}/claim",status="499"} 1`,
				`onced_claims_total{outcome="hung-up",surface="keys"} 1`,
			} {
				if !strings.Contains(got, line+"\n") {
					t.Errorf("no line %s", line)
				}
			}
			if strings.Contains(got, `"503"`) || strings.Contains(got, "unavailable") {
				t.Error("it counts as a fault of the cluster")
			}
		})
	}
}

func TestAFailureIsLoggedAlsoIfTheClientHungUp(t *testing.T) {
	s := newService(t)
	s.node.err = errBroken
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.serve(httptest.NewRequest("POST", "/v1/keys/k/claim", nil).WithContext(ctx)).wantsProblem(500, "internal")
	if !strings.Contains(s.log.String(), errBroken.Error()) {
		t.Errorf("log:\n%s", s.log)
	}
}

func TestAPanicIsAnswered(t *testing.T) {
	s := newService(t)
	s.node.inBegin = func() { panic("secret-key in a panic") }
	a := s.post("claim", "")
	a.wantsProblem(500, "internal")
	if strings.Contains(a.body, "panic") || strings.Contains(a.body, "goroutine") {
		t.Errorf("the answer tells of it: %s", a.body)
	}
	if log := s.log.String(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "claim") {
		t.Errorf("log:\n%s", log)
	}
	s.node.inBegin = nil
	s.post("claim", "").wants(201)
}

func TestNoErrorTellsWhatIsStored(t *testing.T) {
	s := newService(t, func(c *Config) { c.Unique = []string{"email"} })
	s.send("POST", "/create", `{"idempotencyKey":"secret-key","data":{"email":"secret-data"}}`).wants(201)
	s.send("POST", "/v1/keys/secret-other/claim", `{"fingerprint":"secret-data","on_lapse":"block"}`).wants(201)
	s.send("POST", "/v1/keys/secret-other/complete", `{"fence":2,"response":{"status":200,"body":"secret-data"}}`).wants(200)
	s.send("POST", "/v1/keys/secret-claim/claim", `{"on_lapse":"block"}`).wants(201)
	s.send("POST", "/v1/keys/secret-failed/claim", `{"on_lapse":"block"}`).wants(201)
	s.send("POST", "/v1/keys/secret-failed/fail", `{"fence":4}`).wants(200)
	for _, a := range []*answer{
		s.send("POST", "/create", `{"idempotencyKey":"secret-key","data":1}`),
		s.send("POST", "/create", `{"idempotencyKey":"another","data":{"email":"secret-data"}}`),
		s.send("POST", "/v1/keys/secret-other/claim", ""),
		s.send("POST", "/v1/keys/secret-other/complete", `{"fence":2,"response":{"status":201}}`),
		s.send("POST", "/v1/keys/secret-claim/claim", ""),
		s.send("POST", "/v1/keys/secret-failed/claim", ""),
		s.send("DELETE", "/v1/keys/secret-claim", ""),
		s.send("POST", "/create", `{"idempotencyKey":"secret key","data":1}`),
		s.send("POST", "/create", `{"secret-data":1}`),
		s.send("GET", "/v1/keys/secret%20key", ""),
	} {
		if a.status < 400 || strings.Contains(a.body, "secret") {
			t.Errorf("answer %d %s", a.status, a.body)
		}
	}
}

func TestARecordWhoseBodyWasNotKeptIsGone(t *testing.T) {
	response := fsm.NewResponse(201, nil, []byte("x"))
	response.Body, response.BodyDropped = nil, true
	err := wire.SendRecorded(httptest.NewRecorder(), "k", &fsm.Outcome{Code: fsm.Code_REPLAY, Record: &fsm.Record{Response: response}})
	w := httptest.NewRecorder()
	wire.ProblemOf(err).Write(w)
	p := (&answer{t, w.Code, w.Header(), w.Body.String()}).wantsProblem(410, "response-not-kept")
	if p["original_status"] != 201.0 || p["original_digest"] != fmt.Sprintf("%x", response.Digest) || p["retryable"] != false {
		t.Errorf("problem %v", p)
	}
}

func TestTooManyRequestsInHandAreShedBeforeTheClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *Config) { c.MaxInHand = 1 })
		proceed := make(chan struct{})
		s.node.inBegin = func() { <-proceed }
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.post("claim", "").wants(201)
		}()
		synctest.Wait()
		for _, path := range []string{"/create", "/v1/keys/other/claim"} {
			if p := s.send("POST", path, `{}`).wantsHeader("Retry-After", "1").wantsProblem(503, "overloaded"); p["retryable"] != true {
				t.Errorf("problem %v", p)
			}
		}
		s.send("GET", "/livez", "").wants(200)
		s.send("GET", "/readyz", "").wants(200)
		close(proceed)
		<-done
		s.node.inBegin = nil
		s.send("POST", "/v1/keys/other/claim", "").wants(201)
		if s.node.began != 2 {
			t.Errorf("%d claims went through, want 2", s.node.began)
		}
	})
}

func TestRoles(t *testing.T) {
	callers := map[string]Caller{"client": {"a", Client}, "other": {"b", Client}, "operator": {"a", Operator}, "monitor": {"a", Monitor}}
	s := newService(t, func(c *Config) {
		c.Identify = func(r *http.Request) (Caller, error) {
			caller, ok := callers[r.Header.Get("Authorization")]
			if !ok {
				return Caller{}, wire.Unauthenticated
			}
			return caller, nil
		}
	})
	tests := []struct {
		method, path, body        string
		client, operator, monitor int
	}{
		{"POST", "/create", `{"idempotencyKey":"c","data":1}`, 201, 201, 403},
		{"POST", "/v1/keys/k/claim", `{"attempt_id":"a"}`, 201, 201, 403},
		{"GET", "/v1/keys/k", "", 200, 200, 403},
		{"GET", "/v1/keys", "", 200, 200, 403},
		{"GET", "/resources", "", 200, 200, 403},
		{"POST", "/v1/keys/k/resolve", `{"retry":true}`, 403, 409, 403},
		{"DELETE", "/v1/keys/k", "", 403, 409, 403},
		{"GET", "/v1/keys?namespace=b", "", 403, 200, 403},
		{"GET", "/v1/keys?namespace=a", "", 403, 200, 403},
		{"GET", "/v1/keys/k?namespace=b", "", 403, 404, 403},
		{"GET", "/v1/keys/k?namespace=nobody", "", 403, 404, 403},
		{"GET", "/v1/keys/k?namespace=", "", 403, 400, 403},
		{"POST", "/v1/keys/k/resolve?namespace=nobody", `{"retry":true}`, 403, 404, 403},
		{"DELETE", "/v1/keys/k?namespace=nobody", "", 403, 404, 403},
		{"GET", "/v1/cluster", "", 403, 200, 200},
		{"GET", "/v1/cluster/state", "", 403, 200, 200},
		{"GET", "/metrics", "", 403, 200, 200},
		{"POST", "/v1/cluster/nodes", `{"id":"n4","raft_addr":"h:1"}`, 403, 201, 403},
		{"DELETE", "/v1/cluster/nodes/n4", "", 403, 204, 403},
		{"POST", "/v1/cluster/transfer", "", 403, 204, 403},
		{"GET", "/v1/backup", "", 403, 200, 403},
		{"GET", "/livez", "", 200, 200, 200},
		{"GET", "/readyz", "", 200, 200, 200},
		{"GET", "/openapi.yaml", "", 200, 200, 200},
		{"GET", "/ui/", "", 200, 200, 200},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			s.t = t
			for role, status := range map[string]int{"client": tt.client, "operator": tt.operator, "monitor": tt.monitor} {
				s.send(tt.method, tt.path, tt.body, "Authorization", role).wants(status)
			}
			if a := s.send(tt.method, tt.path, tt.body); a.status != 200 {
				a.wantsHeader("WWW-Authenticate", "Bearer").wantsProblem(401, "unauthenticated")
			}
		})
	}
	s.t = t
	t.Run("a key is of its namespace", func(t *testing.T) {
		s.send("GET", "/v1/keys/k", "", "Authorization", "other").wantsProblem(404, "key-unknown")
		s.send("POST", "/v1/keys/k/claim", "", "Authorization", "other").wants(201)
	})
}

func TestMetrics(t *testing.T) {
	s := newService(t)
	s.post("claim", "").wants(201)
	s.post("claim", "").wants(409)
	s.send("GET", "/v1/keys/unknown-to-all", "").wants(404)
	s.send("GET", "/no/such/path", "").wants(404)
	s.send("BREW", "/create", "").wants(405)
	for range 2 {
		s.send("POST", "/create", `{"idempotencyKey":"c","data":1}`).wants(201)
	}
	got := s.send("GET", "/metrics", "").wants(200).body
	for _, line := range []string{
		`onced_http_requests_total{method="POST",route="/v1/keys/{key}/claim",status="201"} 1`,
		`onced_http_requests_total{method="POST",route="/v1/keys/{key}/claim",status="409"} 1`,
		`onced_http_requests_total{method="GET",route="/v1/keys/{key}",status="404"} 1`,
		`onced_http_requests_total{method="GET",route="none",status="404"} 1`,
		`onced_http_requests_total{method="other",route="/create",status="405"} 1`,
		`onced_http_request_seconds_count{route="/v1/keys/{key}/claim"} 2`,
		`onced_claims_total{outcome="granted",surface="keys"} 1`,
		`onced_claims_total{outcome="in-progress",surface="keys"} 1`,
		`onced_claims_total{outcome="created",surface="create"} 1`,
		`onced_claims_total{outcome="replay",surface="create"} 1`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(got, "unknown-to-all") || strings.Contains(got, "BREW") {
		t.Error("a label is what a client made up")
	}
}

func TestConfigReportsEveryMistake(t *testing.T) {
	_, err := New(Config{TTL: 1, Lease: 1, MaxBody: 1 << 40, MaxWait: 1, MaxInHand: -1, Unique: []string{"a", "a", ""}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"no cluster", "ttl 1ns", "lease 1ns", "body limit", "wait limit", "in hand", `"a"`, `""`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not tell of %s", err, want)
		}
	}
}
