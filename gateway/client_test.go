package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

// dial opens a connection to the gateway at place i, for bytes as they are.
func (g *rig) dial(i int) (net.Conn, *bufio.Reader) {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.servers[i].Listener.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		g.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// ask sends a request as it stands, and returns the whole answer.
func (g *rig) ask(i int, request string) *reply {
	g.t.Helper()
	conn, in := g.dial(i)
	if _, err := io.WriteString(conn, request); err != nil {
		g.t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return &reply{t: g.t, err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return &reply{t: g.t, status: res.StatusCode, header: res.Header, body: string(b), err: err}
}

// more than the sockets between gateway and client take in.
const muchSize = 15 << 20

func large(key string) string {
	if key != "" {
		key = "Idempotency-Key: " + key + "\r\n"
	}
	return fmt.Sprintf("POST /large?size=%d HTTP/1.1\r\nHost: x\r\n%sContent-Length: 1\r\n\r\nx", muchSize, key)
}

func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	g := startRig(t, 1, func(c *Config) {
		c.Default.MaxResponse = maxBody
		c.Routes = []Route{{Path: "/large", Methods: []string{"PATCH"}, Settings: Settings{MaxResponse: 1000}}}
	})
	gateway := g.gateways[0]
	gateway.writeTimeout = 50 * time.Millisecond
	for name, request := range map[string]string{
		"of an answer that is kept":   large("kept"),
		"of an answer that is not":    strings.Replace(large("not-kept"), "POST", "PATCH", 1),
		"of one that passes through":  large(""),
		"of a replay":                 large("kept"),
		"of one that was made before": large("kept"),
	} {
		t.Run(name, func(t *testing.T) {
			before := len(g.upstream.seen())
			conn, _ := g.dial(0)
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the request to come", func() bool {
				return len(g.upstream.seen()) > before || g.record("kept").GetState() == fsm.State_COMPLETED
			})
			eventually(t, "the request to end", func() bool { return gateway.inHand.Load() == 0 && gateway.buffered.Load() == 0 })
		})
	}
}

func TestAClientThatReadsSlowlyGetsAllOfAnAnswerThatIsNotKept(t *testing.T) {
	const limit = 2 * time.Second
	g := startRig(t, 1, func(c *Config) { c.Default.MaxResponse = 1000; c.Default.Timeout = limit })
	conn, in := g.dial(0)
	fmt.Fprint(conn, large("k"))
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	// The upstream's time does not run while it waits for the client.
	begun := time.Now()
	eventually(t, "the upstream's time to be over", func() bool { return time.Since(begun) > 2*limit })
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n != muchSize {
		t.Errorf("%d bytes came, %v", n, err)
	}
	if state := g.record("k").GetState(); state != fsm.State_COMPLETED {
		t.Errorf("the record is %v", state)
	}
}

func TestAnAnswerThatStopsHalfwayIsGivenUpAndBreaksOff(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.MaxResponse = 1000; c.Default.Timeout = 2 * time.Second })
	gone := make(chan struct{})
	g.replaceUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 2000))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	if r := g.send(0, post("/x", "k", "")); r.err == nil || len(r.body) != 2000 {
		t.Errorf("%d bytes came, %v", len(r.body), r.err)
	}
	<-gone
	g.wantsState("k", fsm.State_COMPLETED)
}

func TestAnswersThatAreHeldCountAsBuffered(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.MaxResponse = maxBody; c.MaxBuffered = 4 << 20 })
	conn, _ := g.dial(0)
	fmt.Fprint(conn, large("k"))
	eventually(t, "the answer to be held", func() bool { return g.gateways[0].buffered.Load() > muchSize })
	g.send(0, post("/x", "other", "x")).wantsProblem(503, "overloaded")
	conn.Close()
	eventually(t, "the answer to be let go", func() bool { return g.gateways[0].buffered.Load() == 0 })
	g.send(0, post("/x", "other", "x")).wants(200)
}

func TestABodyThatIsAnnouncedAndDoesNotComeTakesUpLittle(t *testing.T) {
	g := startRig(t, 1, nil)
	conn, _ := g.dial(0)
	fmt.Fprint(conn, "POST /x HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 1000000\r\n\r\n")
	eventually(t, "the body to be waited for", func() bool { return g.gateways[0].buffered.Load() > 0 })
	if n := g.gateways[0].buffered.Load(); n > 64<<10 {
		t.Errorf("%d bytes count as buffered", n)
	}
	conn.Close()
	eventually(t, "it to be let go", func() bool { return g.gateways[0].buffered.Load() == 0 })
	for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, 3*firstRead + 1, 1 << 20} {
		g.send(0, post("/x", fmt.Sprintf("of-%d", size), strings.Repeat("b", size))).wants(200)
		hits := g.upstream.seen()
		if got := hits[len(hits)-1].body; got != strings.Repeat("b", size) {
			t.Errorf("of %d bytes %d reached the upstream", size, len(got))
		}
	}
}

func TestTargetsThatNameNoPathAreRefused(t *testing.T) {
	g := startRig(t, 1, nil)
	for _, target := range []string{"mailto:a", "http:a", "*"} {
		for _, method := range []string{"POST", "GET"} {
			g.ask(0, method+" "+target+" HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n").wantsProblem(400, "bad-request")
		}
	}
	g.ask(0, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").wantsProblem(405, "method-not-allowed").
		wantsHeader("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE")
	g.upstream.wantsHits(0)
	g.ask(0, "POST http://shop.example.com/x?a=1 HTTP/1.1\r\nHost: y\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n").wants(200)
	if hit := g.upstream.wantsHits(1)[0]; hit.uri != "/x?a=1" || hit.host != "shop.example.com" {
		t.Errorf("the upstream saw %s of %s", hit.uri, hit.host)
	}
}

func TestARequestWithoutHostIsNobodysWhereTheHostIsTheNamespace(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Routes = []Route{{Path: "/host", Settings: Settings{Namespace: "host"}}} })
	for _, path := range []string{"/host", "/x"} {
		a := g.ask(0, "POST "+path+" HTTP/1.0\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n")
		if path == "/host" {
			a.wantsProblem(400, "namespace-required")
			continue
		}
		a.wants(200)
		hit := g.upstream.wantsHits(1)[0]
		if _, ok := hit.header["X-Forwarded-Host"]; ok || !strings.HasPrefix(hit.header.Get("Via"), "1.0 onced-") {
			t.Errorf("the upstream saw %v", hit.header)
		}
	}
}

func TestABodyThatWasLookedIntoForAKeyIsPassedOnHoweverItCame(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Routes = []Route{{Path: "/may", Settings: Settings{KeyMember: "id"}}} })
	for name, c := range map[string]struct{ framing, body string }{
		"nothing":           {"Content-Length: 0\r\n\r\n", ""},
		"nothing, chunked":  {"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		"something":         {"Content-Length: 2\r\n\r\n{}", "{}"},
		"something chunked": {"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "{}"},
		"with trailers":     {"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(g.upstream.seen())
			g.ask(0, "POST /may HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+c.framing).wants(200)
			if hits := g.upstream.seen()[before:]; len(hits) != 1 || hits[0].body != c.body {
				t.Errorf("the upstream saw %+v", hits)
			}
		})
	}
	g.send(0, post("/may", "", "\x1f\x8b", "Content-Type", "application/json", "Content-Encoding", "gzip")).wants(200).wantsHeader("Idempotency-Key")
}

func TestUpgradesThatEndLeaveNothingInHand(t *testing.T) {
	g := startRig(t, 1, nil)
	up := g.gateways[0].upstreams.all[0]
	for _, key := range []string{"", "Idempotency-Key: k\r\n"} {
		conn, in := g.dial(0)
		fmt.Fprint(conn, "POST /switch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"+key+"Content-Length: 0\r\n\r\n")
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 101 {
			t.Fatalf("%v, %v", res, err)
		}
		if n := up.inHand.Load(); n != 1 {
			t.Errorf("%d requests in hand at the upstream", n)
		}
		conn.Close()
		eventually(t, "the upstream to have nothing in hand", func() bool { return up.inHand.Load() == 0 })
	}
	// It switches to what nobody asked for.
	g.send(0, post("/switch", "", "")).wantsProblem(502, "upstream-failed")
	g.send(0, post("/switch", "unasked", "")).wantsProblem(504, "outcome-unknown")
	g.send(0, post("/no-status", "", "")).wantsProblem(502, "upstream-failed")
	eventually(t, "the gateway to have nothing in hand", func() bool { return g.gateways[0].inHand.Load() == 0 })
	if n := up.inHand.Load(); n != 0 {
		t.Errorf("%d requests are left in hand at the upstream", n)
	}
}

func TestAnAnswerMayPauseForLongerThanAClientMayTakeForAPiece(t *testing.T) {
	g := startRig(t, 1, nil)
	const limit = 2 * time.Second
	g.gateways[0].writeTimeout = limit
	end := make(chan struct{})
	g.replaceUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		if r.URL.Path == "/trailers" {
			w.Header().Set("Trailer", "X-Sum")
		}
		fmt.Fprint(w, "x")
		_ = http.NewResponseController(w).Flush()
		<-end
		w.Header().Set("X-Sum", "1")
	}))
	calls := []call{post("/events", "k", ""), post("/events", "", ""), post("/trailers", "", "")}
	replies := make([]*reply, len(calls))
	var all sync.WaitGroup
	for i, c := range calls {
		all.Go(func() { replies[i] = g.send(0, c) })
	}
	began := time.Now()
	eventually(t, "a client's time to be over", func() bool {
		return g.gateways[0].inHand.Load() == int64(len(calls)) && time.Since(began) > limit+limit/2
	})
	close(end)
	all.Wait()
	for _, r := range replies {
		r.wants(200).wantsBody("x")
	}
}
