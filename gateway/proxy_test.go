package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

func TestTheUpstreamSeesWhatWasSentAndWhoSentIt(t *testing.T) {
	g := startRig(t, 1, nil)
	for _, key := range []string{"", "k"} {
		t.Run("key "+key, func(t *testing.T) {
			before := len(g.upstream.seen())
			g.send(0, post("/a%2Fb//c?x=1;y=%20&z", key, "body",
				"Host", "shop.example.com", "Connection", "X-Mine, close", "X-Mine", "1", "Keep-Alive", "300", "Te", "trailers",
				"Proxy-Authorization", "secret", "Upgrade-Insecure-Requests", "1", "Onced-Fence", "999", "Onced-Attempt", "9", "Onced_Fence", "999",
				"X-Forwarded-For", "203.0.113.7", "X-Forwarded-Proto", "https", "Forwarded", "for=203.0.113.7", "Via", "1.1 lb",
				"Accept-Encoding", "br", "X-Kept", "a", "X-Kept", "b")).wants(200)
			hits := g.upstream.seen()[before:]
			if len(hits) != 1 {
				t.Fatalf("%d hits", len(hits))
			}
			hit := hits[0]
			if hit.uri != "/a%2Fb//c?x=1;y=%20&z" || hit.host != "shop.example.com" || hit.body != "body" {
				t.Errorf("it saw %s of %s, body %q", hit.uri, hit.host, hit.body)
			}
			for name, want := range map[string]string{
				"Onced_fence": "", "X-Mine": "", "Keep-Alive": "", "Proxy-Authorization": "", "Connection": "",
				"X-Forwarded-For": "203.0.113.7, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example.com",
				"Forwarded": "for=203.0.113.7, for=127.0.0.1;host=shop.example.com;proto=http", "Accept-Encoding": "br", "X-Kept": "a|b",
				"Upgrade-Insecure-Requests": "1", "Idempotency-Key": key,
			} {
				if got := strings.Join(hit.header.Values(name), "|"); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if via := strings.Join(hit.header.Values("Via"), ", "); !strings.HasPrefix(via, "1.1 lb, 1.1 onced-") {
				t.Errorf("Via is %q", via)
			}
			if fence := hit.header.Get("Onced-Fence"); fence == "999" || (fence == "") != (key == "") {
				t.Errorf("Onced-Fence is %q", fence)
			}
		})
	}
}

func TestARequestThatComesBackIsRefused(t *testing.T) {
	var self url.URL
	g := startRig(t, 1, nil)
	self = url.URL{Scheme: "http", Host: g.servers[0].Listener.Addr().String()}
	g.gateways[0].upstreams.all[0].url = &self
	g.send(0, post("/x", "", "x")).wantsProblem(508, "loop-detected")
	// The first round holds the key; the second is refused before it looks. It
	// is no answer of the service: the key is free when the mistake is mended.
	g.send(0, post("/x", "k", "x")).wantsProblem(508, "loop-detected")
	if rec := g.record("k"); rec != nil {
		t.Errorf("a record was left: %v", rec)
	}
	g.upstream.wantsHits(0)
}

func TestOtherRequestsArePassedThrough(t *testing.T) {
	g := startRig(t, 1, nil)
	for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS"} {
		c := post("/x", "k", "")
		c.method = method
		g.send(0, c).wants(200).first().wantsHeader("Idempotency-Key")
		g.send(0, c).wants(200).first()
	}
	g.send(0, post("/x", "", "x")).wants(200)
	g.send(0, post("/x", "", "x")).wants(200)
	g.upstream.wantsHits(10)
	if rec := g.record("k"); rec != nil {
		t.Errorf("a key was recorded: %v", rec)
	}
	head := post("/x", "", "")
	head.method = "HEAD"
	g.send(0, head).wants(200).wantsBody("")
}

func TestBodiesThatArePassedThroughStream(t *testing.T) {
	g := startRig(t, 1, nil)
	came := make(chan string, 8)
	more := make(chan struct{})
	g.replaceUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			came <- lines.Text()
		}
		fmt.Fprintln(w, "three")
		_ = http.NewResponseController(w).Flush()
		<-more
		fmt.Fprintln(w, "four")
	}))
	out, in := io.Pipe()
	r, err := http.NewRequest(http.MethodPost, g.servers[0].URL+"/stream", out)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan *http.Response, 1)
	go func() {
		res, err := g.client.Do(r)
		if err != nil {
			t.Error(err)
		}
		answered <- res
	}()
	for _, line := range []string{"one", "two"} {
		fmt.Fprintln(in, line)
		if got := <-came; got != line {
			t.Fatalf("the upstream got %q", got)
		}
	}
	in.Close()
	res := <-answered
	if res == nil {
		t.FailNow()
	}
	defer res.Body.Close()
	for back := bufio.NewScanner(res.Body); ; {
		if !back.Scan() || back.Text() != "three" && back.Text() != "four" {
			t.Fatalf("it came back as %q, %v", back.Text(), back.Err())
		}
		if back.Text() == "four" {
			return
		}
		close(more)
	}
}

// replaceUpstream puts another service behind all gateways.
func (g *rig) replaceUpstream(h http.Handler) {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	g.t.Cleanup(func() { server.Close(); <-served })
	for _, gateway := range g.gateways {
		gateway.upstreams.all[0].url = &url.URL{Scheme: "http", Host: l.Addr().String()}
	}
}

// A connection that has been used breaks after the request was read: net/http
// would send a POST with Idempotency-Key once more.
func TestNoRequestIsSentTwiceOnAConnectionThatBreaks(t *testing.T) {
	g := startRig(t, 1, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.gateways[0].upstreams.all[0].url = &url.URL{Scheme: "http", Host: l.Addr().String()}
	var mu sync.Mutex
	var served []string
	go serveOnceThenBreak(l, func(line string) {
		mu.Lock()
		defer mu.Unlock()
		served = append(served, line)
	})
	for _, c := range []call{
		post("/empty", "empty", ""), post("/full", "full", "body"),
		post("/other-header", "other", "", "X-Idempotency-Key", "x"),
		post("/unkeyed", "", "", "X-Idempotency-Key", "x"),
		{"DELETE", "/passed", "", http.Header{"Idempotency-Key": {"k"}}},
	} {
		g.send(0, call{"GET", "/warm", "", http.Header{}}).wants(200)
		r := g.send(0, c)
		if r.err != nil || r.status < 500 {
			t.Errorf("%s: %d, %v", c.path, r.status, r.err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	count := map[string]int{}
	for _, line := range served {
		count[line]++
	}
	for _, line := range []string{"POST /empty", "POST /full", "POST /other-header", "POST /unkeyed", "DELETE /passed"} {
		if count[line] != 1 {
			t.Errorf("%s reached the upstream %d times: %q", line, count[line], served)
		}
	}
}

// serveOnceThenBreak answers the first request of each connection, and breaks
// off when it has read the second.
func serveOnceThenBreak(l net.Listener, seen func(string)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			for i := range 2 {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				seen(r.Method + " " + r.URL.Path)
				if i == 0 {
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}
		}()
	}
}

func TestAnIdleConnectionThatWasClosedIsNoFailure(t *testing.T) {
	g := startRig(t, 1, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.gateways[0].upstreams.all[0].url = &url.URL{Scheme: "http", Host: l.Addr().String()}
	closed := make(chan struct{}, 8)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
				conn.Close()
				closed <- struct{}{}
			}()
		}
	}()
	for i := range 5 {
		g.send(0, post("/x", fmt.Sprintf("k%d", i), "")).wants(200).wantsBody("ok")
		<-closed
	}
}

func TestWithSeveralUpstreamsOneThatIsDownIsPassedOver(t *testing.T) {
	g := startRig(t, 1, nil)
	down := &upstream{url: &url.URL{Scheme: "http", Host: freeAddrs(t, 1)[0]}}
	g.gateways[0].upstreams.all = append([]*upstream{down}, g.gateways[0].upstreams.all...)
	for i := range 10 {
		g.send(0, post("/x", fmt.Sprintf("k%d", i), "x")).wants(200).first()
		g.send(0, post("/x", "", "x")).wants(200)
	}
	g.upstream.wantsHits(20)
}

func TestAnUpstreamThatIsUnwellIsAskedWhereThereIsNoOther(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.HealthPath = "/status/503" })
	u := g.gateways[0].upstreams.all[0]
	eventually(t, "the upstream to be found unwell", u.unhealthy.Load)
	// It is all there is, so it is asked all the same.
	g.send(0, post("/x", "k", "x")).wants(200)
}

func TestAnUpgradeIsTunnelledAndNotKept(t *testing.T) {
	g := startRig(t, 1, nil)
	for _, key := range []string{"", "k"} {
		conn, err := net.Dial("tcp", g.servers[0].Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		header := ""
		if key != "" {
			header = "Idempotency-Key: k\r\n"
		}
		fmt.Fprintf(conn, "POST /switch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%sContent-Length: 0\r\n\r\n", header)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" || res.Header.Get("Idempotency-Key") != key {
			t.Fatalf("key %q: %v, %v", key, res, err)
		}
		fmt.Fprint(conn, "ping\n")
		if line, err := in.ReadString('\n'); err != nil || line != "ping\n" {
			t.Errorf("key %q: %q came back, %v", key, line, err)
		}
		conn.Close()
	}
	g.upstream.wantsHits(2)
	g.wantsState("k", fsm.State_COMPLETED)
	g.send(0, post("/switch", "k", "")).wantsProblem(410, "response-not-kept")
}
