package client_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/client"
)

func created(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "order %s", body)
}

func TestARetryIsReplayed(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/x-order")
		h.Set("Location", "/orders/1")
		h["Link"] = []string{"</a>", "</b>"}
		h.Set("Set-Cookie", "s=1")
		h.Set("X-Trace", "7")
		h.Set("ETag", `"v1"`)
		created(w, r)
		h.Set("Vary", "too late")
	})
	first := s.post("replay", "a").is(201, "order a", false)
	first.has("Set-Cookie", "s=1").has("X-Trace", "7").has("Idempotency-Key", "replay").has("Idempotency-TTL", "86400").has("Content-Length", "7")
	for _, spelling := range []string{"replay", `"replay"`} {
		again := s.post(spelling, "a").is(201, "order a", true)
		again.has("Content-Type", "text/x-order").has("Location", "/orders/1").has("Link", "</a>|</b>").has("Etag", `"v1"`).has("Content-Length", "7")
		again.has("Set-Cookie", "").has("X-Trace", "").has("Vary", "").has("Idempotency-Key", spelling)
		if again.header.Get("Idempotency-TTL") == "" {
			t.Error("a replay does not say how long it is kept")
		}
	}
	s.ran(1)
	s.post("replay", "b").refused(422, client.ErrKeyReused)
	s.post("replay", "a", "Content-Type: text/plain").refused(422, client.ErrKeyReused)
	s.ran(1)
}

func TestWhatIsReplayedIsWhatWasAnswered(t *testing.T) {
	tests := map[string]struct {
		h      http.HandlerFunc
		status int
		body   string
	}{
		"nothing at all":     {func(http.ResponseWriter, *http.Request) {}, 200, ""},
		"no content":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, ""},
		"not modified":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, 304, ""},
		"a type to be found": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, 200, "<html>"},
		"in two pieces":      {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<"); io.WriteString(w, "html>") }, 200, "<html>"},
		"no type": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			io.WriteString(w, "<html>")
		}, 200, "<html>"},
		"not UTF-8":     {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte{0xff, 0}) }, 200, "\xff\x00"},
		"client error":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadRequest) }, 400, "no\n"},
		"server error":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusInternalServerError) }, 500, "oh\n"},
		"503 as it is":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusServiceUnavailable) }, 503, "oh\n"},
		"interim first": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(201) }, 201, ""},
		"newline in a header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", " /a\r\nX: y ")
			w.WriteHeader(201)
		}, 201, ""},
		"a declared length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "2")
			io.WriteString(w, "ab")
			if _, err := io.WriteString(w, "c"); err != http.ErrContentLength {
				panic("more than was declared is taken")
			}
		}, 200, "ab"},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte{0x1f, 0x8b, 8})
		}, 200, "\x1f\x8b\x08"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tt.h)
			key := "what-" + strings.ReplaceAll(name, " ", "-")
			first := s.post(key, "", "Accept-Encoding: gzip").is(tt.status, tt.body, false)
			again := s.post(key, "", "Accept-Encoding: gzip").is(tt.status, tt.body, true)
			for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Length", "Location"} {
				again.has(name, strings.Join(first.header.Values(name), "|"))
			}
			s.ran(1)
		})
	}
}

func TestWhatPassesThrough(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := client.ClaimFromContext(r.Context()); ok {
			t.Error("there is a claim")
		}
		if _, ok := w.(http.Flusher); !ok {
			t.Error("the writer is not the server's own")
		}
		created(w, r)
	})
	for range 2 {
		s.post("", "a").is(201, "order a", false)
		s.send(http.MethodGet, "pass", "").is(201, "order ", false)
		s.send(http.MethodPut, "pass", "a").is(201, "order a", false).has("Idempotency-Key", "")
	}
	s.ran(6)
}

func TestPatchAndOtherMethods(t *testing.T) {
	s := serve(t, created)
	s.send(http.MethodPatch, "patch", "a").is(201, "order a", false)
	s.send(http.MethodPatch, "patch", "a").is(201, "order a", true)
	s.post("patch", "a").refused(422, client.ErrKeyReused)
	s = serve(t, created, func(cfg *client.MiddlewareConfig) { cfg.Methods = []string{http.MethodPut} })
	s.send(http.MethodPut, "put", "a").is(201, "order a", false)
	s.send(http.MethodPut, "put", "a").is(201, "order a", true)
}

func TestWhatIsRefusedClaimsNothing(t *testing.T) {
	s := serve(t, created, func(cfg *client.MiddlewareConfig) { cfg.KeyRequired, cfg.MaxBody = true, 10 })
	s.post("", "a").refused(400, client.ErrKeyMissing)
	s.post("a,b", "a").refused(400, client.ErrKeyInvalid)
	s.post(`"a`, "a").refused(400, client.ErrKeyInvalid)
	s.post(strings.Repeat("k", 256), "a").refused(400, client.ErrKeyInvalid)
	s.post("refused", "a", "Idempotency-Key: refused").refused(400, client.ErrKeyInvalid)
	s.post("refused", "a", "Cookie: session=1").refused(400, client.ErrNamespaceRequired)
	s.post("refused", "12345678901").refused(413, client.ErrTooLarge)
	req, err := http.NewRequestWithContext(patient(t), http.MethodPost, s.http.URL+"/orders", io.MultiReader(strings.NewReader("12345678901")))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", "refused")
	s.do(req).refused(413, client.ErrTooLarge)
	s.sendRaw("POST /orders HTTP/1.1\r\nHost: h\r\nIdempotency-Key: refused\r\nContent-Length: 9\r\n\r\nhalf").refused(400, client.ErrBadRequest)
	s.sendRaw("POST /orders HTTP/1.1\r\nHost: h\r\nIdempotency-Key: refused\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").refused(400, client.ErrBadRequest)
	s.ran(0)
	s.post("refused", "1234567890").is(201, "order 1234567890", false)
	s.ran(1)
}

// sendRaw sends bytes, ends the sending side, and reads the answer.
func (s *service) sendRaw(request string) *got {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return &got{s.t, resp.StatusCode, resp.Header, string(body), resp.Close, err}
}

func TestANamespaceHasItsOwnKeys(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Authorization")) })
	for _, replayed := range []bool{false, true} {
		for _, who := range []string{"Bearer a", "Bearer b", ""} {
			s.post("tenant", "", "Authorization: "+who).is(200, who, replayed)
		}
	}
	s.ran(3)
	s = serve(t, created, func(cfg *client.MiddlewareConfig) {
		cfg.Namespace = func(r *http.Request) (string, error) { return r.Header.Get("X-Tenant"), nil }
	})
	s.post("tenant", "a").refused(400, client.ErrNamespaceRequired)
	s.post("tenant", "a", "X-Tenant: 1", "Cookie: a=b").is(201, "order a", false)
	s.post("tenant", "b", "X-Tenant: 2").is(201, "order b", false)
	s.ran(2)
}

func TestAFingerprintOfOnesOwn(t *testing.T) {
	s := serve(t, created, func(cfg *client.MiddlewareConfig) {
		cfg.Fingerprint = func(_ *http.Request, body []byte) string { return strings.ToLower(string(body)) }
	})
	s.post("own", "a").is(201, "order a", false)
	s.post("own", "A").is(201, "order a", true)
	s.post("own", "b").refused(422, client.ErrKeyReused)
}

func TestTheHandlerKnowsItsClaim(t *testing.T) {
	var claims []client.Claim
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		claim, ok := client.ClaimFromContext(r.Context())
		if !ok {
			t.Error("there is no claim")
		}
		claims = append(claims, claim)
		panic("again")
	}, func(cfg *client.MiddlewareConfig) { cfg.OnLapse = client.Retry })
	s.post("claim", "a").refused(504, client.ErrOutcomeUnknown)
	s.post("claim", "a").refused(504, client.ErrOutcomeUnknown)
	s.ran(2)
	if claims[0].Attempt != 1 || claims[1].Attempt != 2 || claims[1].Fence <= claims[0].Fence || claims[0].Fence == 0 {
		t.Errorf("the claims are %+v", claims)
	}
}

// TestOneRunOfManyClients sends one key fifty times to two servers at once.
func TestOneRunOfManyClients(t *testing.T) {
	release := make(chan struct{})
	h := func(w http.ResponseWriter, r *http.Request) {
		<-release
		created(w, r)
	}
	one, two := serve(t, h), serve(t, h)
	var wg sync.WaitGroup
	var mu sync.Mutex
	first := 0
	for i := range 50 {
		s := []*service{one, two}[i%2]
		wg.Add(1)
		go func() {
			defer wg.Done()
			g := s.post("many", "a", "Prefer: wait=30")
			if g.status != 201 || g.body != "order a" || g.header.Get("Preference-Applied") != "wait=30" {
				t.Errorf("the answer is %d %q %v, %v", g.status, g.body, g.err, g.header)
			}
			mu.Lock()
			defer mu.Unlock()
			if g.header.Get("Idempotent-Replayed") == "" {
				first++
			}
		}()
	}
	eventually(t, "the first run", func() bool { return one.runs.Load()+two.runs.Load() > 0 })
	g := one.post("many", "a").refused(409, client.ErrInProgress)
	if g.header.Get("Retry-After") == "" || g.header.Get("Retry-After") == "0" {
		t.Errorf("Retry-After is %q", g.header.Get("Retry-After"))
	}
	one.post("many", "b").refused(422, client.ErrKeyReused)
	close(release)
	wg.Wait()
	if runs := one.runs.Load() + two.runs.Load(); runs != 1 || first != 1 {
		t.Errorf("it ran %d times, and %d answers are not replays", runs, first)
	}
}

func TestAClientThatHangsUpCancelsNothing(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-release
		if err := r.Context().Err(); err != nil {
			t.Errorf("the context ended: %v", err)
		}
		created(w, r)
	})
	ctx, cancel := context.WithCancel(patient(t))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.http.URL+"/orders", strings.NewReader("a"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", "hang-up")
	gone := make(chan *got)
	go func() { gone <- s.do(req) }()
	<-started
	cancel()
	if g := <-gone; g.err == nil {
		t.Errorf("the client that hung up saw %+v", g)
	}
	close(release)
	s.post("hang-up", "a", "Prefer: wait=30").is(201, "order a", true)
	s.ran(1)
}

func TestMiddlewareConfigurationsThatAreRefused(t *testing.T) {
	for name, cfg := range map[string]client.MiddlewareConfig{
		"a safe method":       {Methods: []string{"POST", "GET"}},
		"a method in letters": {Methods: []string{"post"}},
		"a short lease":       {Lease: time.Millisecond},
		"a long TTL":          {TTL: 1000 * time.Hour},
		"a policy":            {OnLapse: "odd"},
		"a negative size":     {MaxBody: -1},
		"a negative response": {MaxResponse: -1},
		"a negative limit":    {TimeLimit: -1},
		"a negative wait":     {MaxWait: -1},
		"a negative claim":    {ClaimTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if cfg.Validate() == nil {
				t.Error("it is valid")
			}
			defer func() {
				if recover() == nil {
					t.Error("it is used")
				}
			}()
			client.Middleware(dial(t, shared()), cfg)
		})
	}
}
