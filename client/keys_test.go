package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onced/onced/client"
)

// caller makes the calls of a test, and fails it where they are not answered as
// it wants.
type caller struct {
	t   *testing.T
	ctx context.Context
	c   *client.Client
}

func newCaller(t *testing.T) *caller {
	return &caller{t, patient(t), dial(t, shared())}
}

func (c *caller) granted(key string, o client.ClaimOptions) *client.Claim {
	c.t.Helper()
	result, err := c.c.Claim(c.ctx, key, o)
	if err != nil || result.Claim == nil {
		c.t.Fatalf("claim %s: %+v, %v", key, result, err)
	}
	return result.Claim
}

func (c *caller) completed(key string, fence uint64, response *client.Response) *client.Record {
	c.t.Helper()
	record, err := c.c.Complete(c.ctx, key, fence, response)
	if err != nil {
		c.t.Fatalf("complete %s: %v", key, err)
	}
	return record
}

func (c *caller) refused(what string, err error, want client.Slug) *client.Error {
	c.t.Helper()
	var e *client.Error
	if !errors.Is(err, want) || !errors.As(err, &e) {
		c.t.Fatalf("%s: %v, want %v", what, err, want)
	}
	return e
}

func (c *caller) ok(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

func response(status int, body string) *client.Response {
	return &client.Response{Status: status, Body: []byte(body)}
}

func TestAClaimIsCompletedAndReplayed(t *testing.T) {
	c := newCaller(t)
	claim := c.granted("life", client.ClaimOptions{Fingerprint: "f", TTL: time.Hour, Lease: time.Minute})
	if claim.Key != "life" || claim.Fence == 0 || claim.Attempt != 1 || claim.AttemptID == "" || claim.Repeated || claim.LeaseExpiresAt.IsZero() {
		t.Errorf("the grant is %+v", claim)
	}
	header := http.Header{"Content-Type": {"text/plain"}, "Link": {"</a>", "</b>"}, "Set-Cookie": {"no"}}
	record := c.completed("life", claim.Fence, &client.Response{Status: 201, Header: header, Body: []byte("done")})
	if record.State != client.Completed || record.ExpiresAt.Sub(record.CompletedAt) != time.Hour || record.Fingerprint != "f" {
		t.Errorf("the record is %+v", record)
	}
	c.completed("life", claim.Fence, &client.Response{Status: 201, Header: header, Body: []byte("done")})

	result, err := c.c.Claim(c.ctx, "life", client.ClaimOptions{Fingerprint: "f"})
	if err != nil || result.Claim != nil || result.Record == nil {
		t.Fatalf("the second claim: %+v, %v", result, err)
	}
	got := result.Record.Response
	if got.Status != 201 || string(got.Body) != "done" || got.Header.Get("Content-Type") != "text/plain" || len(got.Header["Link"]) != 2 || got.Header["Set-Cookie"] != nil {
		t.Errorf("the replay is %+v", got)
	}
	if result.Remaining <= 0 || result.Remaining > time.Hour {
		t.Errorf("it is kept for %v", result.Remaining)
	}
	_, err = c.c.Claim(c.ctx, "life", client.ClaimOptions{Fingerprint: "g"})
	c.refused("another request", err, client.ErrKeyReused)
	_, err = c.c.Complete(c.ctx, "life", claim.Fence, response(200, "other"))
	c.refused("another response", err, client.ErrStaleFence)
}

func TestBodiesAndHeadersComeBackAsTheyWere(t *testing.T) {
	c := newCaller(t)
	tests := map[string][]byte{
		"empty":            nil,
		"text":             []byte("<a href=\"x\">é & \\ \u2028</a>\n"),
		"not UTF-8":        {0xff, 0, 0xfe},
		"control bytes":    bytes.Repeat([]byte{1}, 100),
		"a NUL":            {0},
		"larger than text": bytes.Repeat([]byte{2}, 200<<10),
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			key := "body-" + strings.ReplaceAll(name, " ", "-")
			claim := c.granted(key, client.ClaimOptions{})
			header := http.Header{"content-type": {"a/b"}, "Location": {"/x?é"}, "Vary": {}}
			c.completed(key, claim.Fence, &client.Response{Status: 200, Header: header, Body: body})
			record, err := c.c.Get(c.ctx, key, client.Linearizable)
			c.ok("get", err)
			if r := record.Response; !bytes.Equal(r.Body, body) || r.Header.Get("Content-Type") != "a/b" || r.Header.Get("Location") != "/x?é" || len(r.Header) != 2 {
				t.Errorf("%d bytes came back as %d, headers as %v", len(body), len(r.Body), r.Header)
			}
		})
	}
}

func TestEveryKeyReachesItsRecord(t *testing.T) {
	c := newCaller(t)
	fences := map[uint64]bool{}
	keys := []string{".", "..", "...", "/", "//", "a/b", "a%2Fb", "a?b", "a#b", "a+b", "%", `"\`, "a;b", "../x", strings.Repeat("~", 255)}
	for _, key := range keys {
		claim := c.granted(key, client.ClaimOptions{})
		record, err := c.c.Get(c.ctx, key, "")
		if err != nil || record.Key != key || record.Fence != claim.Fence || fences[claim.Fence] {
			t.Errorf("%q: %+v, %v", key, record, err)
		}
		fences[claim.Fence] = true
	}
	for _, key := range []string{"", "a b", "é", "\x7f", strings.Repeat("k", 256)} {
		_, err := c.c.Claim(c.ctx, key, client.ClaimOptions{})
		c.refused("claim", err, client.ErrKeyInvalid)
		_, err = c.c.Get(c.ctx, key, "")
		c.refused("get", err, client.ErrKeyInvalid)
		c.refused("forget", c.c.Forget(c.ctx, key, client.ForgetOptions{}), client.ErrKeyInvalid)
	}
}

func TestTheAttemptIDHoldsItsGrant(t *testing.T) {
	c := newCaller(t)
	first := c.granted("attempt", client.ClaimOptions{AttemptID: "me"})
	again := c.granted("attempt", client.ClaimOptions{AttemptID: "me"})
	if again.Fence != first.Fence || !again.Repeated {
		t.Errorf("first %+v, again %+v", first, again)
	}
	_, err := c.c.Claim(c.ctx, "attempt", client.ClaimOptions{})
	if e := c.refused("another attempt", err, client.ErrInProgress); !e.Retryable || e.RetryAfter < time.Second || e.Status != http.StatusConflict || e.Ambiguous {
		t.Errorf("the error is %+v", e)
	}
}

func TestAClaimThatWaitsGetsTheRecord(t *testing.T) {
	c := newCaller(t)
	claim := c.granted("wait", client.ClaimOptions{})
	got := make(chan *client.ClaimResult, 1)
	go func() {
		result, err := c.c.Claim(c.ctx, "wait", client.ClaimOptions{Wait: patience})
		if err != nil {
			t.Error(err)
		}
		got <- result
	}()
	c.completed("wait", claim.Fence, response(200, "x"))
	if result := <-got; result == nil || result.Record == nil || string(result.Record.Response.Body) != "x" {
		t.Errorf("the waiter got %+v", result)
	}
}

func TestAWaiterMayBecomeTheRunner(t *testing.T) {
	c := newCaller(t)
	claim := c.granted("runner", client.ClaimOptions{})
	got := make(chan *client.ClaimResult, 1)
	go func() {
		result, err := c.c.Claim(c.ctx, "runner", client.ClaimOptions{Wait: patience})
		if err != nil {
			t.Error(err)
		}
		got <- result
	}()
	c.ok("release", c.c.Release(c.ctx, "runner", claim.Fence))
	if result := <-got; result == nil || result.Claim == nil || result.Claim.Fence <= claim.Fence {
		t.Errorf("the waiter got %+v", result)
	}
}

func TestAWaitEndsInProgress(t *testing.T) {
	c := newCaller(t)
	c.granted("long", client.ClaimOptions{Lease: time.Hour})
	for _, wait := range []time.Duration{10 * time.Millisecond, 1200 * time.Millisecond} {
		_, err := c.c.Claim(c.ctx, "long", client.ClaimOptions{Wait: wait})
		c.refused("a wait that ended", err, client.ErrInProgress)
	}
	short, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	_, err := c.c.Claim(short, "long", client.ClaimOptions{Wait: time.Hour})
	c.refused("a wait that its context ended", err, client.ErrInProgress)
}

func TestWritesAreFenced(t *testing.T) {
	c := newCaller(t)
	old := c.granted("fenced", client.ClaimOptions{Lease: time.Minute})
	until, err := c.c.Renew(c.ctx, "fenced", old.Fence, time.Hour)
	if err != nil || !until.After(old.LeaseExpiresAt) {
		t.Fatalf("the lease ends %v, %v", until, err)
	}
	c.ok("release", c.c.Release(c.ctx, "fenced", old.Fence))
	c.ok("release again", c.c.Release(c.ctx, "fenced", old.Fence))
	claim := c.granted("fenced", client.ClaimOptions{})
	_, err = c.c.Renew(c.ctx, "fenced", old.Fence, 0)
	c.refused("renew", err, client.ErrStaleFence)
	_, err = c.c.Complete(c.ctx, "fenced", old.Fence, response(200, ""))
	c.refused("complete", err, client.ErrStaleFence)
	_, err = c.c.Fail(c.ctx, "fenced", old.Fence)
	c.refused("fail", err, client.ErrStaleFence)
	c.completed("fenced", claim.Fence, response(200, ""))
}

func TestAnUnknownOutcomeIsResolved(t *testing.T) {
	c := newCaller(t)
	block := client.ClaimOptions{OnLapse: client.Block}
	claim := c.granted("unknown", block)
	_, err := c.c.Resolve(c.ctx, "unknown", client.Resolution{})
	c.refused("resolve what is in flight", err, client.ErrInProgress)
	record, err := c.c.Fail(c.ctx, "unknown", claim.Fence)
	if err != nil || record.State != client.Unknown || record.Response != nil {
		t.Fatalf("fail: %+v, %v", record, err)
	}
	_, err = c.c.Claim(c.ctx, "unknown", block)
	c.refused("claim", err, client.ErrOutcomeUnknown)
	if record, err = c.c.Resolve(c.ctx, "unknown", client.Resolution{}); err != nil || record != nil {
		t.Fatalf("resolve: %+v, %v", record, err)
	}
	claim = c.granted("unknown", block)
	_, err = c.c.Fail(c.ctx, "unknown", claim.Fence)
	c.ok("fail", err)
	record, err = c.c.Resolve(c.ctx, "unknown", client.Resolution{Fence: claim.Fence, Response: response(200, "by hand")})
	if err != nil || record.State != client.Completed || string(record.Response.Body) != "by hand" {
		t.Fatalf("resolve: %+v, %v", record, err)
	}
}

func TestAForgottenKeyIsGone(t *testing.T) {
	c := newCaller(t)
	claim := c.granted("forget", client.ClaimOptions{})
	c.refused("a claim", c.c.Forget(c.ctx, "forget", client.ForgetOptions{}), client.ErrInProgress)
	c.refused("another fence", c.c.Forget(c.ctx, "forget", client.ForgetOptions{Fence: claim.Fence + 1000}), client.ErrStaleFence)
	c.ok("by force", c.c.Forget(c.ctx, "forget", client.ForgetOptions{Force: true}))
	_, err := c.c.Get(c.ctx, "forget", "")
	c.refused("get", err, client.ErrKeyUnknown)
	c.refused("again", c.c.Forget(c.ctx, "forget", client.ForgetOptions{}), client.ErrKeyUnknown)
}

func TestKeysAreListed(t *testing.T) {
	c := newCaller(t)
	for i := range 5 {
		claim := c.granted(fmt.Sprintf("list-%d", i), client.ClaimOptions{})
		if i%2 == 0 {
			c.completed(claim.Key, claim.Fence, response(200, "x"))
		}
	}
	var keys []string
	for o := (client.ListOptions{Prefix: "list-", Limit: 2}); ; {
		page, err := c.c.List(c.ctx, o)
		c.ok("list", err)
		for _, r := range page.Records {
			keys = append(keys, r.Key)
		}
		if o.After = page.Next; page.Next == "" {
			break
		}
	}
	if got := strings.Join(keys, " "); got != "list-0 list-1 list-2 list-3 list-4" {
		t.Errorf("the keys are %s", got)
	}
	page, err := c.c.List(c.ctx, client.ListOptions{Prefix: "list-", State: client.Completed})
	if err != nil || len(page.Records) != 3 {
		t.Errorf("completed: %+v, %v", page, err)
	}
	_, err = c.c.List(c.ctx, client.ListOptions{State: "odd"})
	c.refused("a state that is none", err, client.ErrBadRequest)
	page, err = c.c.List(c.ctx, client.ListOptions{Prefix: "list-none"})
	if err != nil || len(page.Records) != 0 || page.Next != "" {
		t.Errorf("none: %+v, %v", page, err)
	}
}

func TestArgumentsThatAreRefused(t *testing.T) {
	c := newCaller(t)
	_, err := c.c.Claim(c.ctx, "args", client.ClaimOptions{Lease: time.Millisecond})
	if e := c.refused("a short lease", err, client.ErrBadRequest); e.Retryable || e.Status != 400 || e.Detail == "" {
		t.Errorf("the error is %+v", e)
	}
	claim := c.granted("args", client.ClaimOptions{})
	_, err = c.c.Complete(c.ctx, "args", claim.Fence, &client.Response{Status: 200, Header: http.Header{"Link": {"\xff"}}})
	c.refused("a header that is not UTF-8", err, client.ErrBadRequest)
	_, err = c.c.Complete(c.ctx, "args", claim.Fence, response(99, ""))
	c.refused("a status", err, client.ErrBadRequest)
	_, err = c.c.Complete(c.ctx, "args", claim.Fence, response(200, strings.Repeat("x", 2<<20)))
	c.refused("a large response", err, client.ErrTooLarge)
	_, err = c.c.Complete(c.ctx, "args", claim.Fence, nil)
	c.refused("no response", err, client.ErrBadRequest)
	c.completed("args", claim.Fence, response(200, "x"))
}

// TestCallsGoOnWhenANodeDies claims and completes through all nodes while one
// after the other is paused or killed.
func TestCallsGoOnWhenANodeDies(t *testing.T) {
	nodes := cluster(t, 3)
	c := dial(t, nodes.urls(), func(cfg *client.Config) { cfg.AttemptTimeout = 3 * time.Second })
	ctx := patient(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var count, fences atomic.Int64
	seen := sync.Map{}
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("w%d-%d", w, n)
				result, err := c.Claim(ctx, key, client.ClaimOptions{OnLapse: client.Block, Lease: time.Hour})
				if err != nil || result.Claim == nil {
					t.Errorf("claim %s: %+v, %v", key, result, err)
					return
				}
				if _, twice := seen.LoadOrStore(result.Claim.Fence, key); twice {
					t.Errorf("fence %d was granted twice", result.Claim.Fence)
				}
				fences.Add(1)
				if _, err := c.Complete(ctx, key, result.Claim.Fence, response(200, key)); err != nil {
					t.Errorf("complete %s: %v", key, err)
					return
				}
				count.Add(1)
			}
		}()
	}
	more := func(what string) {
		want := count.Load() + 30
		eventually(t, what, func() bool { return count.Load() >= want || t.Failed() })
	}
	more("calls through three nodes")
	nodes.signal(t, 0, syscall.SIGSTOP)
	more("calls while a node is paused")
	nodes.signal(t, 0, syscall.SIGCONT)
	more("calls after it")
	nodes.kill(1)
	more("calls after a node was killed")
	close(stop)
	wg.Wait()
}
