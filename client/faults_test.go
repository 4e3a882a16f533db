package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onced/onced/client"
)

// bad is a node that answers as no healthy one does.
type bad struct {
	*httptest.Server
	asked atomic.Int64
}

func serveBad(t *testing.T, h http.HandlerFunc) *bad {
	b := &bad{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		b.asked.Add(1)
		h(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

// say answers with status, headers ("Name: value") and body.
func say(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func breakOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"state":"claimed",`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func neverEnds(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusCreated)
	chunk := []byte(strings.Repeat(" ", 32<<10))
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func neverAnswers(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

const (
	grant       = `{"state":"claimed","fence":7,"attempt":1,"lease_expires_at":"2030-01-01T00:00:00Z","repeated":false}`
	unavailable = `{"type":"urn:onced:unavailable","title":"t","status":503,"detail":"d","retryable":true}`
	overloaded  = `{"type":"urn:onced:overloaded","title":"t","status":503,"detail":"d","retryable":true}`
)

// unanswered are nodes after which another one is asked.
var unanswered = map[string]struct {
	h         http.HandlerFunc
	ambiguous bool // the claim may have been granted
}{
	"it breaks off":             {breakOff, true},
	"it aborts":                 {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, true},
	"it never answers":          {neverAnswers, true},
	"its body never ends":       {neverEnds, true},
	"no JSON":                   {say(201, "<html>"), true},
	"JSON cut short":            {say(201, grant[:40]), true},
	"JSON of something else":    {say(201, `{"keys":[]}`), true},
	"a wrong type":              {say(201, `{"state":"claimed","fence":"7","attempt":1}`), true},
	"a fence that is negative":  {say(201, `{"state":"claimed","fence":-7,"attempt":1}`), true},
	"an empty body":             {say(201, ""), true},
	"another status":            {say(204, ""), true},
	"a record without response": {say(200, `{"key":"k","state":"completed","fence":7,"attempt":1}`), true},
	"a record not completed":    {say(200, `{"key":"k","state":"claimed","fence":7,"attempt":1}`), true},
	"a body not in base64":      {say(200, `{"key":"k","state":"completed","fence":7,"response":{"status":200,"body_base64":"%%"}}`), true},
	"503 with a problem":        {say(503, unavailable), true},
	"503 overloaded":            {say(503, overloaded, "Retry-After: 3600"), false},
	"502 of a proxy":            {say(502, "Bad Gateway"), true},
	"500 without a problem":     {say(500, "oops"), true},
	"429 without a problem":     {say(429, "slow down", "Retry-After: 3600"), false},
	"429 with a problem":        {say(429, strings.ReplaceAll(overloaded, "503", "429"), "Retry-After: 3600"), false},
}

func TestAnotherNodeIsAsked(t *testing.T) {
	for name, tt := range unanswered {
		t.Run(name, func(t *testing.T) {
			first, second := serveBad(t, tt.h), serveBad(t, say(201, grant))
			c := dial(t, []string{second.URL, first.URL}, func(cfg *client.Config) {
				cfg.AttemptTimeout, cfg.MaxAnswer = 300*time.Millisecond, 1<<20
			})
			// Calls begin with each node in turn: one of the two begins with
			// the bad one.
			for range 2 {
				result, err := c.Claim(patient(t), "k", client.ClaimOptions{})
				if err != nil || result.Claim == nil || result.Claim.Fence != 7 {
					t.Fatalf("claim: %+v, %v", result, err)
				}
			}
			if first.asked.Load() == 0 {
				t.Error("the bad node was not asked")
			}
		})
	}
}

func TestWhereNoNodeAnswersTheErrorSaysSo(t *testing.T) {
	for name, tt := range unanswered {
		t.Run(name, func(t *testing.T) {
			b := serveBad(t, tt.h)
			c := dial(t, []string{b.URL}, func(cfg *client.Config) {
				cfg.Timeout, cfg.MaxAnswer = patience, 1<<20
				if tt.ambiguous { // else there is one try, as its Retry-After says
					cfg.Timeout, cfg.AttemptTimeout = 400*time.Millisecond, 200*time.Millisecond
				}
			})
			_, err := c.Claim(context.Background(), "k", client.ClaimOptions{})
			var e *client.Error
			if !errors.As(err, &e) || !e.Retryable || !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, client.ErrOverloaded) {
				t.Fatalf("the error is %v", err)
			}
			if e.Ambiguous != tt.ambiguous {
				t.Errorf("ambiguous is %t in %+v", e.Ambiguous, e)
			}
		})
	}
}

func TestOneAnswerIsFinal(t *testing.T) {
	problem := func(slug string, status int, more string) http.HandlerFunc {
		return say(status, fmt.Sprintf(`{"type":"urn:onced:%s","title":"t","status":%d,"detail":"d","retryable":false%s}`, slug, status, more), "Content-Type: application/problem+json")
	}
	tests := map[string]struct {
		h    http.HandlerFunc
		want client.Slug
	}{
		"key reused":      {problem("key-reused", 422, ""), client.ErrKeyReused},
		"outcome unknown": {problem("outcome-unknown", 409, ""), client.ErrOutcomeUnknown},
		"in progress":     {say(409, `{"type":"urn:onced:in-progress","retryable":true}`, "Retry-After: 9"), client.ErrInProgress},
		"forbidden":       {problem("forbidden", 403, ""), client.ErrForbidden},
		"unauthenticated": {problem("unauthenticated", 401, ""), client.ErrUnauthenticated},
		"quota":           {problem("quota-exceeded", 507, ""), client.ErrQuotaExceeded},
		"not kept":        {problem("response-not-kept", 410, `,"original_status":201,"original_digest":"ab"`), client.ErrResponseNotKept},
		"a new slug":      {problem("brand-new", 418, ""), "brand-new"},
		"404 of another":  {say(404, "nothing here"), ""},
		"a redirect":      {say(307, "", "Location: http://127.0.0.1:1/"), ""},
		"a large problem": {say(400, strings.Repeat("x", 1<<20)), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := serveBad(t, tt.h)
			c := dial(t, []string{b.URL, b.URL, b.URL})
			_, err := c.Claim(patient(t), "k", client.ClaimOptions{})
			var e *client.Error
			if !errors.As(err, &e) || e.Slug() != tt.want || e.Status == 0 || e.Ambiguous {
				t.Fatalf("the error is %#v", err)
			}
			if n := b.asked.Load(); n != 1 {
				t.Errorf("%d requests were sent", n)
			}
			if tt.want != "" && !errors.Is(err, tt.want) {
				t.Errorf("it is not %v", tt.want)
			}
			if tt.want == client.ErrResponseNotKept && (e.OriginalStatus != 201 || e.OriginalDigest != "ab") {
				t.Errorf("the members are %+v", e)
			}
		})
	}
}

func TestAnUnreachableNodeIsAskedLast(t *testing.T) {
	gone := serveBad(t, neverAnswers)
	gone.Close()
	var dials atomic.Int64
	b := serveBad(t, say(201, grant))
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == strings.TrimPrefix(gone.URL, "http://") {
			dials.Add(1)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	c := dial(t, []string{gone.URL, b.URL}, func(cfg *client.Config) { cfg.HTTPClient = &http.Client{Transport: transport} })
	now := time.Now()
	c.SetClock(func() time.Time { return now })
	ask := func(times int) int64 {
		t.Helper()
		for range times {
			if _, err := c.Claim(patient(t), "k", client.ClaimOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		return dials.Load()
	}
	if n := ask(10); n != 1 {
		t.Errorf("it was dialled %d times", n)
	}
	now = now.Add(client.AvoidFor)
	if n := ask(10); n != 2 {
		t.Errorf("after a while, it was dialled %d times in all", n)
	}
}

func TestADialErrorIsNotAmbiguous(t *testing.T) {
	gone := serveBad(t, neverAnswers)
	gone.Close()
	var refused atomic.Bool
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		refused.Store(err != nil)
		return conn, err
	}}
	c := dial(t, []string{gone.URL}, func(cfg *client.Config) { cfg.HTTPClient = &http.Client{Transport: transport} })
	c.SetClock(func() time.Time {
		if refused.Load() {
			return time.Now().Add(time.Hour) // no further try fits
		}
		return time.Now()
	})
	_, err := c.Claim(context.Background(), "k", client.ClaimOptions{})
	var e *client.Error
	if !errors.As(err, &e) || !e.Is(client.ErrUnavailable) || e.Ambiguous || e.Status != 0 {
		t.Errorf("the error is %+v", e)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	var mu sync.Mutex
	var times []time.Time
	b := serveBad(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		times = append(times, time.Now())
		n := len(times)
		mu.Unlock()
		if n == 1 {
			say(429, "", "Retry-After: 1")(w, r)
			return
		}
		say(201, grant)(w, r)
	})
	c := dial(t, []string{b.URL})
	if _, err := c.Claim(patient(t), "k", client.ClaimOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := times[1].Sub(times[0]); len(times) != 2 || d < time.Second {
		t.Errorf("%d requests, the second %v after the first", len(times), d)
	}
}

func TestAWaitThatDoesNotFitIsNotBegun(t *testing.T) {
	b := serveBad(t, say(503, unavailable, "Retry-After: 3600"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := dial(t, []string{b.URL}).Claim(ctx, "k", client.ClaimOptions{})
	var e *client.Error
	if !errors.As(err, &e) || e.RetryAfter != time.Hour || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %+v, the context's %v", e, ctx.Err())
	}
}

func TestTheContextEndsACall(t *testing.T) {
	b := serveBad(t, neverAnswers)
	c := dial(t, []string{b.URL})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for b.asked.Load() == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := c.Claim(ctx, "k", client.ClaimOptions{})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
	asked := b.asked.Load()
	_, err = c.Claim(ctx, "k", client.ClaimOptions{})
	if !errors.Is(err, context.Canceled) || b.asked.Load() != asked {
		t.Errorf("the error is %v, %d requests", err, b.asked.Load()-asked)
	}
}

// TestAResendIsTheSameAttempt cuts the first answer of a real node off: the
// second try must get the grant of the first.
func TestAResendIsTheSameAttempt(t *testing.T) {
	target, err := url.Parse(shared()[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"claim", "complete", "forget", "resolve"} {
		t.Run(call, func(t *testing.T) {
			cut := cutOnce(t, target, call)
			c := &caller{t, patient(t), dial(t, []string{cut.URL})}
			key := "resend-" + call
			claim := c.granted(key, client.ClaimOptions{OnLapse: client.Block})
			if repeated := call == "claim"; claim.Repeated != repeated {
				t.Errorf("repeated is %t", claim.Repeated)
			}
			switch call {
			case "forget":
				c.ok("forget", c.c.Forget(c.ctx, key, client.ForgetOptions{Force: true}))
				_, err := c.c.Get(c.ctx, key, "")
				c.refused("get", err, client.ErrKeyUnknown)
				return
			case "resolve":
				_, err := c.c.Fail(c.ctx, key, claim.Fence)
				c.ok("fail", err)
				_, err = c.c.Resolve(c.ctx, key, client.Resolution{})
				c.ok("resolve", err)
				return
			}
			c.completed(key, claim.Fence, response(200, "x"))
		})
	}
}

// cutOnce stands before a node and cuts the first answer to a call off.
func cutOnce(t *testing.T, target *url.URL, call string) *httptest.Server {
	var once sync.Once
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, target.String()+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if strings.HasSuffix(r.URL.Path, "/"+call) || call == "forget" && r.Method == http.MethodDelete {
			once.Do(func() { panic(http.ErrAbortHandler) })
		}
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestWhatIsSent(t *testing.T) {
	var header http.Header
	var path string
	b := serveBad(t, func(w http.ResponseWriter, r *http.Request) {
		header, path = r.Header.Clone(), r.URL.EscapedPath()
		say(201, grant)(w, r)
	})
	c := dial(t, []string{b.URL + "/onced/"}, func(cfg *client.Config) { cfg.Token = "secret" })
	if _, err := c.Claim(patient(t), "a/b", client.ClaimOptions{Wait: 90 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if path != "/onced/v1/keys/a%2Fb/claim" {
		t.Errorf("the path is %s", path)
	}
	if header["Idempotency-Key"] != nil {
		t.Error("there is an Idempotency-Key, with which net/http sends a request again by itself")
	}
	if header.Get("Authorization") != "Bearer secret" || header.Get("Content-Type") != "application/json" || header.Get("Prefer") != "wait=30" {
		t.Errorf("the headers are %v", header)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var conns sync.Map
	b := serveBad(t, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		if strings.HasSuffix(r.URL.Path, "/renew") {
			say(409, `{"type":"urn:onced:stale-fence","status":409}`)(w, r)
			return
		}
		say(201, grant)(w, r)
	})
	c := dial(t, []string{b.URL})
	for range 10 {
		if _, err := c.Claim(patient(t), "k", client.ClaimOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Renew(patient(t), "k", 7, 0); !errors.Is(err, client.ErrStaleFence) {
			t.Fatal(err)
		}
	}
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	for name, cfg := range map[string]client.Config{
		"no nodes":          {},
		"no scheme":         {Nodes: []string{"127.0.0.1:8001"}},
		"another scheme":    {Nodes: []string{"ftp://h"}},
		"no host":           {Nodes: []string{"http://"}},
		"a query":           {Nodes: []string{"http://h?x"}},
		"a password":        {Nodes: []string{"http://u:p@h"}},
		"no URL":            {Nodes: []string{"http://h:x"}},
		"one of two":        {Nodes: []string{"http://h", ""}},
		"a negative time":   {Nodes: []string{"http://h"}, Timeout: -1},
		"a token in lines":  {Nodes: []string{"http://h"}, Token: "a\nb"},
		"a negative answer": {Nodes: []string{"http://h"}, MaxAnswer: -1},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := client.New(cfg)
			if err == nil || c != nil {
				t.Error("it is accepted")
			}
			if err != nil && strings.Contains(err.Error(), ":p@") {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}
