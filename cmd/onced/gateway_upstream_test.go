package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const upstreamRoutes = `
routes:
  - path: /never
    timeout: 300ms
  - path: /slow
    lease: 3s
  - path: /large
    max-response: 32KiB
`

func TestWhateverTheUpstreamDoesItIsHitOnceAndTheRecordSaysWhatCameOfIt(t *testing.T) {
	g := startGated(t, 3, upstreamRoutes)
	for _, c := range []struct {
		path          string
		status        int    // of the first answer
		first, replay string // bodies, or types of problems
		state         string
	}{
		{"/answers", 201, "run 1 of /answers", "", "completed"},
		{"/hints", 201, "run 1 of /hints", "", "completed"},
		{"/trailers", 201, "run 1 of /trailers", "", "completed"},
		{"/longer-than-it-says", 200, "run ", "", "completed"}, // the length is where an answer ends
		{"/shorter-than-it-says", 504, "outcome-unknown", "outcome-unknown", "unknown"},
		{"/breaks-before", 504, "outcome-unknown", "outcome-unknown", "unknown"},
		{"/breaks-in-the-middle", 504, "outcome-unknown", "outcome-unknown", "unknown"},
		{"/no-status", 504, "outcome-unknown", "outcome-unknown", "unknown"},
		{"/never", 504, "outcome-unknown", "outcome-unknown", "unknown"},
	} {
		t.Run(c.path[1:], func(t *testing.T) {
			first, again := g.send(0, c.path, c.path), g.send(1, c.path, c.path)
			first.t, again.t = t, t
			if c.state == "completed" {
				first.wantsFirst(c.status, c.first)
				again.wantsReplay(c.status, c.first)
			} else {
				first.wantsProblem(c.status, c.first)
				again.wantsProblem(http.StatusConflict, c.replay)
			}
			g.ranAs(2, c.path, c.state, 1, 1)
		})
	}
	// Nothing of an answer is logged, whoever wrote the line.
	for _, p := range g.nodes {
		for line := range strings.Lines(p.log.String()) {
			if !strings.HasPrefix(line, "time=") || strings.Contains(line, "longer-than") {
				t.Errorf("%s logged %q", p.id, line)
			}
		}
	}
}

func TestAnUpstreamThatIsSlowKeepsItsClaimForLongerThanALease(t *testing.T) {
	t.Parallel()
	g := startGated(t, 3, upstreamRoutes)
	first := g.sending(0, "/slow", "k")
	g.awaitHits("k", 1)
	begun := g.awaitState(1, "k", "claimed")
	g.eventually("the claim to stand after its lease would have ended", func() bool {
		g.send(2, "/slow", "k").wantsProblem(http.StatusConflict, "in-progress")
		end, err := time.Parse(time.RFC3339, begun.LeaseExpiresAt)
		if err != nil {
			t.Fatal(err)
		}
		now, err := time.Parse(time.RFC3339, g.record(1, "k").LeaseExpiresAt)
		return err == nil && now.After(end.Add(3*time.Second))
	})
	g.up.open("/slow")
	(<-first).wantsFirst(http.StatusOK, "run 1 of k")
	g.send(1, "/slow", "k").wantsReplay(http.StatusOK, "run 1 of k")
	g.ranAs(1, "k", "completed", 1, 1)
}

func TestAnUpstreamThatRefusesConnectionsLeavesTheKeyFree(t *testing.T) {
	g := startGated(t, 3, "")
	g.up.kill()
	for i := range 3 {
		g.send(i, "/answers", "k").wantsProblem(http.StatusBadGateway, "upstream-unreachable")
		if rec := g.record(i, "k"); rec.State != "" {
			t.Errorf("a record was left: %+v", rec)
		}
	}
	g.up.start()
	g.send(1, "/answers", "k").wantsFirst(http.StatusCreated, "run 1 of k")
	g.send(2, "/answers", "k").wantsReplay(http.StatusCreated, "run 1 of k")
	g.ranAs(0, "k", "completed", 1, 1)
}

// An upstream that was started again leaves connections behind that are dead.
func TestAnUpstreamThatStartsAgainUnderLoadRunsNoKeyTwice(t *testing.T) {
	g := startGated(t, 1, "")
	for round := range 5 {
		var keys []string
		for i := range 8 {
			keys = append(keys, fmt.Sprintf("k-%d-%d", round, i))
		}
		var busy []<-chan *reply
		for _, key := range keys {
			busy = append(busy, g.sending(0, fmt.Sprintf("/held/%d", round), key))
		}
		for _, key := range keys {
			g.awaitHits(key, 1)
		}
		g.up.open(fmt.Sprintf("/held/%d", round))
		for i, b := range busy {
			(<-b).wantsFirst(http.StatusCreated, "run 1 of "+keys[i])
		}
		g.up.kill()
		g.up.start()
	}
	g.send(0, "/answers", "last").wantsFirst(http.StatusCreated, "run 1 of last")
}

func TestWhatStreamsFlowsToTheFirstClientAsItComes(t *testing.T) {
	g := startGated(t, 3, upstreamRoutes)
	for _, c := range []struct{ path, early, rest string }{
		{"/events", "data: one\n\n", "data: two\n\n"},
		{"/large", strings.Repeat("x", 64<<10), "run 1 of /large"},
	} {
		t.Run(c.path[1:], func(t *testing.T) {
			res, err := g.begin(t.Context(), 0, c.path, c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			early := make([]byte, len(c.early))
			if _, err := io.ReadFull(res.Body, early); err != nil || string(early) != c.early {
				t.Fatalf("it began with %d bytes, %v", len(early), err)
			}
			// The record stands before the first byte is out, and says that no
			// body is kept.
			g.ranAs(1, c.path, "completed", 1, 1)
			again := g.send(2, c.path, c.path)
			again.t = t
			again.wantsProblem(http.StatusGone, "response-not-kept")
			g.up.open(c.path)
			if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != c.rest {
				t.Errorf("it ended with %q, %v", rest, err)
			}
			if res.Header.Get("Idempotency-Key") != c.path || res.Header.Get("Idempotency-TTL") == "" {
				t.Errorf("the answer is not marked as recorded: %v", res.Header)
			}
		})
	}
	// What comes in pieces, and is not too long in the end, is kept.
	first := g.sending(0, "/chunks", "/chunks")
	g.awaitHits("/chunks", 1)
	g.up.open("/chunks")
	(<-first).wantsFirst(http.StatusOK, "run 1 of /chunks, and done")
	g.send(1, "/chunks", "/chunks").wantsReplay(http.StatusOK, "run 1 of /chunks, and done")
	g.ranAs(2, "/chunks", "completed", 1, 1)
}

// dial opens a connection to the gateway of node i, for bytes as they are.
func (g *gated) dial(i int) (net.Conn, *bufio.Reader) {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addrs[i])
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		g.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func TestAnUpgradeIsTunnelledOnceAndNotKept(t *testing.T) {
	g := startGated(t, 3, "")
	conn, in := g.dial(0)
	fmt.Fprint(conn, "POST /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n\r\norder")
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "echo" {
		t.Fatalf("%v, %v", res, err)
	}
	// These bytes are of no HTTP: nothing looks at them.
	fmt.Fprint(conn, "\x00\r\n: no header\n")
	for _, want := range []string{"\x00\r\n", ": no header\n"} {
		if line, err := in.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q came back, %v", line, err)
		}
	}
	conn.Close()
	g.ranAs(1, "k", "completed", 1, 1)
	g.send(2, "/upgrade", "k", "Connection", "Upgrade", "Upgrade", "echo").wantsProblem(http.StatusGone, "response-not-kept")
}

func TestRequestsWithoutOneExtentAreRefusedAsProblemsAndReachNoUpstream(t *testing.T) {
	g := startGated(t, 1, "")
	const head = "POST /answers HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"both lengths":         {head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"two lengths":          {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\norder", 400},
		"a folded header":      {head + "X: 1\r\n 2\r\nContent-Length: 5\r\n\r\norder", 400},
		"no host":              {"POST /answers HTTP/1.1\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n\r\norder", 400},
		"two hosts":            {"POST /answers HTTP/1.1\r\nHost: x\r\nHost: y\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n\r\norder", 400},
		"a path without slash": {"POST answers HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n\r\norder", 400},
		"an opaque target":     {"POST mailto:a HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n\r\norder", 400},
		"a very long path":     {"POST /" + strings.Repeat("a", 40<<10) + " HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n\r\norder", 413},
	} {
		t.Run(name, func(t *testing.T) {
			conn, in := g.dial(0)
			fmt.Fprint(conn, c.request)
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.status || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %v %s, %v; want problem %d", res.StatusCode, res.Header, body, err, c.status)
			}
		})
	}
	if hits := g.up.hits(""); len(hits) > 0 {
		t.Errorf("the upstream saw %+v", hits)
	}
	if rec := g.record(0, "k"); rec.State != "" {
		t.Errorf("it was claimed: %+v", rec)
	}
}

func TestHeadersAreSpeltOnTheWireAsTheyAreDocumented(t *testing.T) {
	g := startGated(t, 1, "")
	for range 2 {
		conn, in := g.dial(0)
		fmt.Fprint(conn, "POST /answers HTTP/1.1\r\nHost: x\r\nIdempotency-Key: \"k\"\r\nContent-Length: 5\r\nConnection: close\r\n\r\norder")
		answer, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"\r\nIdempotency-TTL: 86", "\r\nIdempotency-Key: \"k\"\r\n"} {
			if !strings.Contains(string(answer), want) {
				t.Errorf("there is no %q in %q", want, answer)
			}
		}
	}
	// An absolute target names the host; what is asked for is the path.
	conn, in := g.dial(0)
	fmt.Fprint(conn, "POST http://shop.example.com/answers?a=1 HTTP/1.1\r\nHost: x\r\nIdempotency-Key: abs\r\nContent-Length: 5\r\n\r\norder")
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("an absolute target: %v, %v", res, err)
	}
	if hits := g.up.hits("abs"); len(hits) != 1 || hits[0].Path != "/answers" {
		t.Errorf("the upstream saw %+v", hits)
	}
}
