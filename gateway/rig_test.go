package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
)

// patience bounds every wait of these tests: reaching it is a failure, never a
// verdict about speed.
const patience = 30 * time.Second

// rig is a cluster of real nodes in this process, a gateway on each, and one
// upstream behind them.
type rig struct {
	t        testing.TB
	nodes    []*cluster.Node
	gateways []*Gateway
	servers  []*httptest.Server
	upstream *upstreamServer
	client   *http.Client
}

// startRig starts n nodes. tune may be nil.
func startRig(t testing.TB, n int, tune func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, upstream: startUpstream(t), client: &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(g.client.CloseIdleConnections)
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	g.startNodes(n, log)
	for _, node := range g.nodes {
		cfg := Config{Cluster: node, Upstreams: []*url.URL{g.upstream.url}, Log: log}
		if tune != nil {
			tune(&cfg)
		}
		gateway, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(gateway)
		server.Config = NewHTTPServer(gateway, log)
		server.Start()
		g.gateways, g.servers = append(g.gateways, gateway), append(g.servers, server)
		t.Cleanup(func() { server.Close(); gateway.Close() })
	}
	return g
}

func (g *rig) startNodes(n int, log *slog.Logger) {
	g.t.Helper()
	var peers []cluster.Peer
	for i, addr := range freeAddrs(g.t, n) {
		peers = append(peers, cluster.Peer{ID: fmt.Sprintf("n%d", i+1), Addr: addr})
	}
	for _, p := range peers {
		cfg := cluster.Config{NodeID: p.ID, RaftAddr: p.Addr, DataDir: g.t.TempDir(), HTTPAddr: "127.0.0.1:1", Log: log, RequestTimeout: patience}
		if n > 1 {
			cfg.Peers = peers
		}
		node, err := cluster.Open(g.t.Context(), cfg)
		if err != nil {
			g.t.Fatal(err)
		}
		g.nodes = append(g.nodes, node)
		g.t.Cleanup(func() {
			if err := node.Close(); err != nil {
				g.t.Errorf("close node: %v", err)
			}
		})
	}
	for _, node := range g.nodes {
		eventually(g.t, "a node to be ready", func() bool { return node.Ready() == nil })
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// freeAddrs are different addresses on loopback that nobody listens on.
func freeAddrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // each stays taken until all are found
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// reply is what a client saw.
type reply struct {
	t      testing.TB
	status int
	header http.Header
	body   string
	err    error // the answer broke off
}

// call is a request before it is sent.
type call struct {
	method, path, body string
	header             http.Header
}

// post is a keyed POST; more headers follow as name and value.
func post(path, key, body string, header ...string) call {
	c := call{method: http.MethodPost, path: path, body: body, header: http.Header{}}
	if key != "" {
		c.header.Set("Idempotency-Key", key)
	}
	for i := 0; i < len(header); i += 2 {
		c.header.Add(header[i], header[i+1])
	}
	return c
}

// send sends c to the gateway at place i.
func (g *rig) send(i int, c call) *reply {
	g.t.Helper()
	return g.sendWithin(g.t.Context(), i, c)
}

func (g *rig) sendWithin(ctx context.Context, i int, c call) *reply {
	g.t.Helper()
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	r, err := http.NewRequestWithContext(ctx, c.method, g.servers[i].URL+c.path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for name, values := range c.header {
		r.Header[name] = values
	}
	if host := c.header.Get("Host"); host != "" {
		r.Host = host
		r.Header.Del("Host")
	}
	res, err := g.client.Do(r)
	if err != nil {
		return &reply{t: g.t, err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return &reply{t: g.t, status: res.StatusCode, header: res.Header, body: string(b), err: err}
}

func (a *reply) wants(status int) *reply {
	a.t.Helper()
	if a.err != nil {
		a.t.Fatalf("no whole answer: %v", a.err)
	}
	if a.status != status {
		a.t.Fatalf("status %d, want %d; body %s", a.status, status, a.body)
	}
	return a
}

func (a *reply) wantsProblem(status int, slug string) *reply {
	a.t.Helper()
	a.wants(status)
	var p struct {
		Type      string
		Status    int
		Retryable *bool
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Type != "urn:onced:"+slug || p.Status != status || p.Retryable == nil {
		a.t.Fatalf("answer %d %s (%v), want problem %s", a.status, a.body, err, slug)
	}
	return a
}

func (a *reply) wantsHeader(name string, values ...string) *reply {
	a.t.Helper()
	if got := a.header.Values(name); strings.Join(got, "|") != strings.Join(values, "|") {
		a.t.Errorf("header %s: %q, want %q", name, got, values)
	}
	return a
}

func (a *reply) wantsBody(body string) *reply {
	a.t.Helper()
	if a.body != body {
		a.t.Errorf("body %q, want %q", a.body, body)
	}
	return a
}

// first and replay check the marks of a recorded answer.
func (a *reply) first() *reply {
	a.t.Helper()
	return a.wantsHeader("Idempotent-Replayed")
}

func (a *reply) replay() *reply {
	a.t.Helper()
	if ttl, err := strconv.Atoi(a.header.Get("Idempotency-TTL")); err != nil || ttl <= 0 {
		a.t.Errorf("Idempotency-TTL is %q", a.header.Get("Idempotency-TTL"))
	}
	return a.wantsHeader("Idempotent-Replayed", "true")
}

// record reads what the cluster holds of a key.
func (g *rig) record(key string) *fsm.Record {
	g.t.Helper()
	o, err := g.nodes[0].Propose(g.t.Context(), &fsm.Command{Kind: fsm.Kind_READ, Namespace: defaultNamespace, Key: key})
	if err != nil {
		g.t.Fatal(err)
	}
	return o.Record
}

func (g *rig) wantsState(key string, state fsm.State) *fsm.Record {
	g.t.Helper()
	rec := g.record(key)
	if rec.GetState() != state {
		g.t.Fatalf("record of %s is %v, want %v", key, rec.GetState(), state)
	}
	return rec
}

// hit is one request as the upstream saw it.
type hit struct {
	method, uri, body, host string
	header                  http.Header
}

// upstreamServer is a real HTTP service that counts what reaches it. Its paths
// say how it behaves; see behave.
type upstreamServer struct {
	t    testing.TB
	url  *url.URL
	stop func()

	mu   sync.Mutex
	hits []hit
	gate chan struct{} // what /held waits for
	come chan struct{} // a value for each request that came to /held
}

func startUpstream(t testing.TB) *upstreamServer {
	t.Helper()
	u := &upstreamServer{t: t, gate: make(chan struct{}), come: make(chan struct{}, 256)}
	server := httptest.NewServer(http.HandlerFunc(u.serve))
	u.url, _ = url.Parse(server.URL)
	u.stop = sync.OnceFunc(func() { u.open(); server.CloseClientConnections(); server.Close() })
	t.Cleanup(u.stop)
	return u
}

// open lets go on what came to /held, now and later.
func (u *upstreamServer) open() {
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-u.gate:
	default:
		close(u.gate)
	}
}

// awaitHeld waits until a request has come to /held.
func (u *upstreamServer) awaitHeld() {
	u.t.Helper()
	select {
	case <-u.come:
	case <-time.After(patience):
		u.t.Fatal("nothing came to the upstream")
	}
}

func (u *upstreamServer) seen() []hit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]hit(nil), u.hits...)
}

// wantsHits checks how many requests came, and returns them.
func (u *upstreamServer) wantsHits(n int) []hit {
	u.t.Helper()
	hits := u.seen()
	if len(hits) != n {
		u.t.Fatalf("the upstream was hit %d times, want %d: %+v", len(hits), n, hits)
	}
	return hits
}

func (u *upstreamServer) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.hits = append(u.hits, hit{r.Method, r.RequestURI, string(body), r.Host, r.Header.Clone()})
	count := len(u.hits)
	u.mu.Unlock()
	u.behave(w, r, count)
}

// raw writes an answer of its own making and breaks off.
func raw(w http.ResponseWriter, bytes string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, bytes)
}

func (u *upstreamServer) behave(w http.ResponseWriter, r *http.Request, count int) {
	switch path := r.URL.Path; {
	case path == "/held":
		u.come <- struct{}{}
		<-u.gate
		fmt.Fprintf(w, "run %d", count)
	case path == "/rich":
		h := w.Header()
		h["Link"] = []string{"<a>; rel=x", "<b>; rel=y"}
		h.Set("Content-Type", "application/pdf")
		h.Set("Location", "/charges/1")
		h.Set("X-Charge", "ch_1")
		h.Set("X-Request-Id", "r1")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Idempotent-Replayed", "true") // it has a store of its own
		h.Set("Idempotency-TTL", "5")
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "secret"})
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte("\x00\xffbinary"))
	case strings.HasPrefix(path, "/status/"):
		status, _ := strconv.Atoi(path[len("/status/"):])
		if after := r.URL.Query().Get("after"); after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		if status != 204 && status != 304 {
			fmt.Fprintf(w, "run %d", count)
		}
	case path == "/breaks-before":
		raw(w, "")
	case path == "/breaks-in-header":
		raw(w, "HTTP/1.1 200 OK\r\nContent-Le")
	case path == "/breaks-in-body":
		raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	case path == "/breaks-in-chunk":
		raw(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	case path == "/no-status":
		raw(w, "HTTP/1.1 000 Nothing\r\nContent-Length: 2\r\n\r\nok")
	case path == "/no-http":
		raw(w, "220 smtp.example.com ESMTP\r\n")
	case path == "/hints":
		w.Header().Set("Link", "</s.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprintf(w, "run %d", count)
	case path == "/events":
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		fmt.Fprintf(w, "data: %d\n\n", count)
	case path == "/large":
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		if r.URL.Query().Get("length") != "" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	case path == "/busy":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	case path == "/trailers":
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "run %d", count)
		w.Header().Set("X-Sum", "1")
	case path == "/switch":
		echo(w, r)
	default:
		fmt.Fprintf(w, "run %d", count)
	}
}

// echo switches protocols and then sends back what it gets.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}
