package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstreamBinary is the service behind the gateway, built once for all tests.
var upstreamBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "onced-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "upstream")
	out, err := exec.Command("go", "build", "-o", path, "./testdata/upstream").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build upstream: %w\n%s", err, out)
	}
	return path, nil
})

// upstreamProcess is a real service of its own, as testdata/upstream says.
type upstreamProcess struct {
	t      *testing.T
	addr   string
	host   machine      // where it runs, nil for this one
	client *http.Client // reaches it
	cmd    *exec.Cmd
}

func startUpstream(t *testing.T) *upstreamProcess {
	t.Helper()
	return startUpstreamOn(t, nil, "127.0.0.1:0", client)
}

func startUpstreamOn(t *testing.T, host machine, addr string, client *http.Client) *upstreamProcess {
	t.Helper()
	u := &upstreamProcess{t: t, addr: addr, host: host, client: client}
	u.start()
	t.Cleanup(u.kill)
	return u
}

// start starts it, or starts it again where it was.
func (u *upstreamProcess) start() {
	u.t.Helper()
	bin, err := upstreamBinary()
	if err != nil {
		u.t.Fatal(err)
	}
	u.cmd = exec.Command(bin, u.addr)
	u.cmd.Stderr = os.Stderr
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	if err := startOn(u.host, u.cmd); err != nil {
		u.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		u.t.Fatalf("the upstream did not say where it listens: %v", err)
	}
	u.addr = strings.TrimSpace(line)
}

func (u *upstreamProcess) kill() {
	if u.cmd == nil {
		return
	}
	_ = u.cmd.Process.Kill()
	_ = u.cmd.Wait()
	u.cmd = nil
}

// hit is one request as the upstream saw it.
type hit struct{ Method, Path, Key, Fence, Attempt, Body string }

func (u *upstreamProcess) control(method, path string) []byte {
	u.t.Helper()
	r, err := http.NewRequest(method, "http://"+u.addr+"/control/"+path, nil)
	if err != nil {
		u.t.Fatal(err)
	}
	res, err := u.client.Do(r)
	if err != nil {
		u.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		u.t.Fatalf("ask the upstream for %s: %d, %v", path, res.StatusCode, err)
	}
	return b
}

// open lets go on what was held at a path, now and later.
func (u *upstreamProcess) open(path string) {
	u.t.Helper()
	u.control(http.MethodPost, "open?path="+url.QueryEscape(path))
}

// hits are those that came with key, or all where key is "".
func (u *upstreamProcess) hits(key string) (hits []hit) {
	u.t.Helper()
	var all []hit
	if err := json.Unmarshal(u.control(http.MethodGet, "hits"), &all); err != nil {
		u.t.Fatal(err)
	}
	for _, h := range all {
		if key == "" || h.Key == key {
			hits = append(hits, h)
		}
	}
	return hits
}

// gated is a cluster of real processes with a gateway each, in front of a real
// upstream.
type gated struct {
	*processes
	up    *upstreamProcess
	addrs []string // of the gateways, by node
}

// startGated starts n nodes with the given routes and flags.
func startGated(t *testing.T, n int, routes string, flags ...string) *gated {
	t.Helper()
	g := &gated{up: startUpstream(t)}
	g.processes = newProcesses(t, n, g.flags(routes, flags...)...)
	for i, p := range g.nodes {
		g.addrs = append(g.addrs, freeAddr(t))
		p.flags = []string{"--gateway-addr", g.addrs[i]}
		g.start(i)
	}
	g.awaitReady()
	return g
}

// flags are those of every node.
func (g *gated) flags(routes string, flags ...string) []string {
	g.up.t.Helper()
	config := filepath.Join(g.up.t.TempDir(), "onced.yaml")
	if err := os.WriteFile(config, []byte(routes), 0o600); err != nil {
		g.up.t.Fatal(err)
	}
	return append([]string{"--config", config, "--upstream", "http://" + g.up.addr}, flags...)
}

// reply is what a client of the gateway saw.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	body   string
	err    error // there was no whole answer
}

// send posts under key through the gateway of node i.
func (g *gated) send(i int, path, key string, header ...string) *reply {
	g.t.Helper()
	return g.sendWithin(g.t.Context(), i, path, key, header...)
}

func (g *gated) sendWithin(ctx context.Context, i int, path, key string, header ...string) *reply {
	g.t.Helper()
	res, err := g.begin(ctx, i, path, key, header...)
	if err != nil {
		return &reply{t: g.t, err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return &reply{t: g.t, status: res.StatusCode, header: res.Header, body: string(body), err: err}
}

// begin posts and returns when the header of the answer has come.
func (g *gated) begin(ctx context.Context, i int, path, key string, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.addrs[i]+path, strings.NewReader("order"))
	if err != nil {
		return nil, err
	}
	r.GetBody = nil // a client that resends by itself would hide what happens
	r.Header.Set("Idempotency-Key", key)
	for at := 0; at < len(header); at += 2 {
		r.Header.Add(header[at], header[at+1])
	}
	return g.client.Do(r)
}

// sending posts in the background, again where the cluster was not available;
// the reply comes on the channel.
func (g *gated) sending(i int, path, key string) <-chan *reply {
	done := make(chan *reply, 1)
	go func() {
		for deadline := time.Now().Add(patience); ; {
			r := g.send(i, path, key)
			if !r.is(http.StatusServiceUnavailable, "unavailable") || time.Now().After(deadline) {
				done <- r
				return
			}
		}
	}()
	return done
}

// holding posts to a path that is held, and returns when the upstream works at
// it.
func (g *gated) holding(i int, path, key string) <-chan *reply {
	g.t.Helper()
	done := g.sending(i, path, key)
	g.awaitHits(key, 1)
	return done
}

func (g *gated) awaitHits(key string, n int) []hit {
	g.t.Helper()
	var hits []hit
	g.eventually(fmt.Sprintf("the upstream to see key %s %d times", key, n), func() bool {
		hits = g.up.hits(key)
		return len(hits) >= n
	})
	return hits
}

// until sends the same request to node i again and again while the key is in
// progress, or the cluster has no leader, and returns the first other answer.
func (g *gated) until(i int, path, key string) (last *reply) {
	g.t.Helper()
	g.eventually("another answer than in-progress", func() bool {
		last = g.send(i, path, key)
		if last.is(http.StatusConflict, "in-progress") {
			if after, err := strconv.Atoi(last.header.Get("Retry-After")); err != nil || after < 1 {
				g.t.Errorf("in progress with Retry-After %q", last.header.Get("Retry-After"))
			}
			return false
		}
		return !last.is(http.StatusServiceUnavailable, "unavailable")
	})
	return last
}

func (a *reply) is(status int, slug string) bool {
	return a.err == nil && a.status == status && strings.Contains(a.body, `"type":"urn:onced:`+slug+`"`)
}

func (a *reply) wantsProblem(status int, slug string) {
	a.t.Helper()
	if !a.is(status, slug) {
		a.t.Fatalf("the client saw %d %s, %v; want %d %s", a.status, a.body, a.err, status, slug)
	}
}

// wantsFirst: the upstream's own answer, marked as recorded.
func (a *reply) wantsFirst(status int, body string) {
	a.t.Helper()
	a.wants(status, body)
	if a.header.Get("Idempotent-Replayed") != "" {
		a.t.Errorf("the first answer says that it is a replay: %v", a.header)
	}
}

func (a *reply) wantsReplay(status int, body string) {
	a.t.Helper()
	a.wants(status, body)
	if a.header.Get("Idempotent-Replayed") != "true" {
		a.t.Errorf("the replay does not say so: %v", a.header)
	}
	for _, name := range []string{"Set-Cookie", "X-Hop", "Connection", "Trailer"} {
		if got := a.header.Values(name); got != nil {
			a.t.Errorf("the replay has %s: %q", name, got)
		}
	}
	if links := strings.Join(a.header.Values("Link"), "|"); status == http.StatusCreated && links != "<a>; rel=x|<b>; rel=y" {
		a.t.Errorf("the replay has Link %q", links)
	}
}

func (a *reply) wants(status int, body string) {
	a.t.Helper()
	if a.err != nil || a.status != status || a.body != body {
		a.t.Fatalf("the client saw %d %q, %v; want %d %q", a.status, a.body, a.err, status, body)
	}
	if ttl, err := strconv.Atoi(a.header.Get("Idempotency-TTL")); err != nil || ttl <= 0 {
		a.t.Errorf("Idempotency-TTL is %q", a.header.Get("Idempotency-TTL"))
	}
}

// held is the record of a key, as the Key API shows it.
type held struct {
	State          string `json:"state"`
	Fence          uint64 `json:"fence"`
	Attempt        int    `json:"attempt"`
	CreatedAt      string `json:"created_at"`
	LeaseExpiresAt string `json:"lease_expires_at"`
	Response       *struct {
		Status int    `json:"status"`
		Body   string `json:"body"`
	} `json:"response"`
}

// record reads the record of a key through node i; its state is "" where there
// is none, or none can be read.
func (g *gated) record(i int, key string) (h held) {
	g.t.Helper()
	status, body, err := g.get(i, "/v1/keys/"+url.PathEscape(key))
	if err == nil && status == http.StatusOK {
		if err := json.Unmarshal(body, &h); err != nil {
			g.t.Fatalf("record of %s: %v in %s", key, err, body)
		}
	}
	return h
}

func (g *gated) awaitState(i int, key, state string) (h held) {
	g.t.Helper()
	g.eventually("key "+key+" to be "+state, func() bool {
		h = g.record(i, key)
		return h.State == state
	})
	return h
}

// ranAs checks the one run that the record of key tells of: what the upstream
// saw of it last, and how often it was hit.
func (g *gated) ranAs(i int, key, state string, attempt, hits int) {
	g.t.Helper()
	rec, seen := g.record(i, key), g.up.hits(key)
	if rec.State != state || rec.Attempt != attempt || len(seen) != hits {
		g.t.Fatalf("record of %s is %+v, and the upstream saw %+v; want it %s by attempt %d, and %d hits", key, rec, seen, state, attempt, hits)
	}
	last := seen[hits-1]
	want := hit{http.MethodPost, last.Path, key, strconv.FormatUint(rec.Fence, 10), strconv.Itoa(attempt), "order"}
	if last != want {
		g.t.Errorf("the upstream saw %+v, want %+v", last, want)
	}
}
