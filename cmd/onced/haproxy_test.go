package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// haproxyConfig is what users get. Tests set its addresses as users do.
const haproxyConfig = "../../deploy/haproxy/haproxy.cfg"

// balancer is HAProxy in front of three nodes.
type balancer struct {
	gateway, api string // where clients reach it
	log          *logBuffer
	process      *exec.Cmd
}

// startBalancer runs HAProxy until the test ends.
func startBalancer(t *testing.T, gateways, apis []string) *balancer {
	t.Helper()
	b := &balancer{gateway: freeAddr(t), api: freeAddr(t), log: &logBuffer{}}
	b.process = exec.Command(haproxy(t), "-db", "-f", haproxyConfig)
	b.process.Env = append(os.Environ(), "ONCED_GATEWAY_BIND="+b.gateway, "ONCED_API_BIND="+b.api)
	for i := range gateways {
		b.process.Env = append(b.process.Env, fmt.Sprintf("ONCED_N%d_GATEWAY_PORT=%s", i+1, portOf(t, gateways[i])),
			fmt.Sprintf("ONCED_N%d_API_PORT=%s", i+1, portOf(t, apis[i])))
	}
	b.process.Stdout, b.process.Stderr = b.log, b.log
	if err := b.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.process.Process.Kill() // it keeps nothing
		_ = b.process.Wait()
		if t.Failed() {
			t.Logf("HAProxy said:\n%s", b.log)
		}
	})
	for _, addr := range []string{b.gateway, b.api} {
		await(t, "HAProxy to listen", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return b
}

func haproxy(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatal("haproxy is not installed, and this test is about it: apt-get install haproxy")
	}
	return path
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestTheHAProxyConfigurationNeedsNoSettings(t *testing.T) {
	if said, err := exec.Command(haproxy(t), "-c", "-f", haproxyConfig).CombinedOutput(); err != nil || bytes.Contains(said, []byte("WARNING")) {
		t.Errorf("%v\n%s", err, said)
	}
}

// dying is a node that is ready, and dies of each request before it answers.
func dying(t *testing.T, requests *atomic.Int64) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			return
		}
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestWhatHAProxySendsAgainWhenANodeDiesOfIt(t *testing.T) {
	const once, again = 1, 4 // the first time and three retries
	var requests atomic.Int64
	var nodes []string
	for range 3 {
		nodes = append(nodes, dying(t, &requests))
	}
	b := startBalancer(t, nodes, nodes)
	for name, tc := range map[string]struct {
		to, method, path, key string
		body                  io.Reader
		want                  int64
	}{
		"POST with a key":                   {b.gateway, "POST", "/charges", "k", strings.NewReader(`{}`), again},
		"PATCH with a key":                  {b.gateway, "PATCH", "/charges/1", "k", strings.NewReader(`{}`), again},
		"a key and no body":                 {b.gateway, "POST", "/charges", "k", nil, again},
		"a key and much of a body":          {b.gateway, "POST", "/charges", "k", strings.NewReader(strings.Repeat("x", 40<<10)), again},
		"a key and a body in chunks":        {b.gateway, "POST", "/charges", "k", io.MultiReader(strings.NewReader(`{`), strings.NewReader(`}`)), again},
		"a key and more than can be held":   {b.gateway, "POST", "/charges", "k", strings.NewReader(strings.Repeat("x", 100<<10)), once},
		"POST without a key":                {b.gateway, "POST", "/charges", "", strings.NewReader(`{}`), once},
		"PUT with a key that onced ignores": {b.gateway, "PUT", "/charges/1", "k", strings.NewReader(`{}`), once},
		"GET":                               {b.gateway, "GET", "/charges", "", nil, again},
		"create":                            {b.api, "POST", "/create", "", strings.NewReader(`{}`), again},
		"claim":                             {b.api, "POST", "/v1/keys/k%2F1/claim", "", strings.NewReader(`{}`), again},
		"complete":                          {b.api, "POST", "/v1/keys/k/complete", "", strings.NewReader(`{}`), again},
		"resolve, which an operator does":   {b.api, "POST", "/v1/keys/k/resolve", "", strings.NewReader(`{}`), once},
		"change of the cluster":             {b.api, "POST", "/v1/cluster/transfer", "", strings.NewReader(`{}`), once},
		"look at a key":                     {b.api, "GET", "/v1/keys/k", "", nil, again},
	} {
		t.Run(name, func(t *testing.T) {
			requests.Store(0)
			r, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+tc.to+tc.path, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			if tc.key != "" {
				r.Header.Set("Idempotency-Key", tc.key)
			}
			r.GetBody = nil // or net/http may send it again itself
			r.Close = true
			res, err := client.Do(r)
			if err == nil {
				res.Body.Close()
				if res.StatusCode < 500 {
					t.Errorf("status %d from nodes that do not answer", res.StatusCode)
				}
			}
			if got := requests.Load(); got != tc.want {
				t.Errorf("sent %d times; want %d", got, tc.want)
			}
		})
	}
}

func TestHAProxyTriesAnotherNodeWhereNoneListens(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	t.Cleanup(server.Close)
	nodes := []string{freeAddr(t), server.Listener.Addr().String(), freeAddr(t)}
	b := startBalancer(t, nodes, nodes)
	for range 20 {
		res, err := client.Post("http://"+b.gateway+"/charges", "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("POST without a key: %d", res.StatusCode)
		}
	}
}

// countingUpstream is a service that answers at once, another answer each time,
// and knows how often each key came.
type countingUpstream struct {
	url string

	mu   sync.Mutex
	runs map[string]int
}

func newCountingUpstream(t *testing.T) *countingUpstream {
	t.Helper()
	u := &countingUpstream{runs: map[string]int{}}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	u.url = server.URL
	return u
}

func (u *countingUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	key := r.Header.Get("Idempotency-Key")
	u.mu.Lock()
	u.runs[key]++
	run := u.runs[key]
	u.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"key":%q,"run":%d}`, key, run)
}

func (u *countingUpstream) ran(key string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.runs[key]
}

// service is an upstream behind the gateways of three nodes behind HAProxy.
type service struct {
	*processes
	*balancer
	upstream *countingUpstream
	gateways []string
}

func startService(t *testing.T) *service {
	t.Helper()
	s := &service{processes: newProcesses(t, 3), upstream: newCountingUpstream(t)}
	var apis []string
	for i, p := range s.nodes {
		s.gateways = append(s.gateways, freeAddr(t))
		apis = append(apis, p.http)
		s.startNode(i)
	}
	s.awaitReady()
	s.balancer = startBalancer(t, s.gateways, apis)
	return s
}

// startNode starts a node with its gateway. The lease is longer than a request
// to onced takes at most, so that no claim lapses before it is used.
func (s *service) startNode(i int) {
	s.t.Helper()
	s.run(s.nodes[i], "--peers", s.peers(), "--gateway-addr", s.gateways[i], "--upstream", s.upstream.url,
		"--gateway-lease", "11s", "--drain-delay", "3s")
}

// passage is one request and what its client saw.
type passage struct {
	key      string
	begun    time.Time
	status   int
	body     string
	replayed bool
	err      error
}

// charge sends a request with a key, once.
func (s *service) charge(key string) passage {
	p := passage{key: key, begun: time.Now()}
	r, err := http.NewRequest(http.MethodPost, "http://"+s.gateway+"/charges", strings.NewReader(`{"amount":1}`))
	if err != nil {
		p.err = err
		return p
	}
	r.GetBody = nil // or net/http may send it again itself
	r.Header.Set("Idempotency-Key", key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Prefer", "wait=30")
	res, err := client.Do(r)
	if err != nil {
		p.err = err
		return p
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	p.status, p.body, p.err = res.StatusCode, string(body), err
	p.replayed = res.Header.Get("Idempotent-Replayed") == "true"
	return p
}

func (p passage) String() string {
	return fmt.Sprintf("%s: %d %.300s, error %v", p.key, p.status, p.body, p.err)
}

// problem is the type of the problem that was answered, if it was one.
func (p passage) problem() string {
	var of struct{ Type string }
	_ = json.Unmarshal([]byte(p.body), &of)
	return strings.TrimPrefix(of.Type, "urn:onced:")
}

// traffic is clients that send one new key after the other, and nothing twice.
type traffic struct {
	s       *service
	clients int
	stop    chan struct{}
	wg      sync.WaitGroup

	mu   sync.Mutex
	seen []passage
}

func (s *service) traffic(name string, clients int) *traffic {
	l := &traffic{s: s, clients: clients, stop: make(chan struct{})}
	for c := range clients {
		l.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				default:
				}
				p := s.charge(fmt.Sprintf("%s-%d-%d", name, c, n))
				l.mu.Lock()
				l.seen = append(l.seen, p)
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *traffic) awaitMore(n int) {
	l.s.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.seen)
	}
	want := count() + n
	await(l.s.t, fmt.Sprintf("%d more answers", n), func() bool { return count() >= want })
}

func (l *traffic) end() {
	close(l.stop)
	l.wg.Wait()
}

// allRanOnce fails the test unless each key ran once and its client got the
// answer. Only a run that was in the hands of the node that died may have come
// to nothing that anyone can know: its client is told so, it ran at most once,
// and nobody runs it again. died is when that node was gone, zero if none was.
func (l *traffic) allRanOnce(died time.Time) {
	s := l.s
	s.t.Helper()
	unknown := 0
	for _, p := range l.seen {
		ran := s.upstream.ran(p.key)
		switch {
		case p.err == nil && p.status == http.StatusCreated:
			if ran != 1 || p.body != fmt.Sprintf(`{"key":%q,"run":1}`, p.key) {
				s.t.Errorf("ran %d times: %v", ran, p)
			}
		case p.err == nil && p.problem() == "outcome-unknown" && p.begun.Before(died):
			unknown++
			if again := s.charge(p.key); again.problem() != "outcome-unknown" || ran > 1 || s.upstream.ran(p.key) != ran {
				s.t.Errorf("ran %d times, and after a retry %d: %v, then %v", ran, s.upstream.ran(p.key), p, again)
			}
		default:
			s.t.Errorf("failed, and ran %d times: %v", ran, p)
		}
	}
	if unknown > l.clients {
		s.t.Errorf("%d outcomes are unknown; no more than %d requests were in hand", unknown, l.clients)
	}
	s.t.Logf("%d requests, %d of them with an unknown outcome", len(l.seen), unknown)
}

// allStand fails the test unless every answer is given again, and nothing runs.
func (l *traffic) allStand() {
	l.s.t.Helper()
	for _, p := range l.seen {
		if p.status != http.StatusCreated {
			continue
		}
		if again := l.s.charge(p.key); again.body != p.body || !again.replayed || l.s.upstream.ran(p.key) != 1 {
			l.s.t.Errorf("first %v, then %v", p, again)
		}
	}
}

func TestANodeThatDiesBehindHAProxyFailsNoKeyedRequest(t *testing.T) {
	t.Parallel()
	const clients = 12
	s := startService(t)
	for _, round := range []string{"leader", "follower"} {
		victim := s.leader()
		if round == "follower" {
			victim = s.others(victim)[0]
		}
		l := s.traffic(round, clients)
		l.awaitMore(200)
		s.kill(victim)
		died := time.Now()
		l.awaitMore(200)
		l.end()
		l.allRanOnce(died)
		l.allStand()
		s.startNode(victim)
		s.awaitReady()
		if t.Failed() {
			t.Fatalf("when the %s died", round)
		}
	}
	s.agree()
}

func TestANodeThatIsStoppedBehindHAProxyLeavesNoOutcomeUnknown(t *testing.T) {
	t.Parallel()
	s := startService(t)
	for i := range s.nodes {
		l := s.traffic(s.nodes[i].id, 12)
		l.awaitMore(100)
		if status := s.terminate(i); status != 0 {
			t.Errorf("%s exited with %d", s.nodes[i].id, status)
		}
		l.awaitMore(100)
		s.startNode(i)
		s.awaitReady()
		l.awaitMore(100)
		l.end()
		l.allRanOnce(time.Time{})
		if t.Failed() {
			t.FailNow()
		}
	}
	s.agree()
}
