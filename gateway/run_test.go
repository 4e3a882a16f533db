package gateway

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

func TestAKeyedRequestRunsOnceAndIsReplayed(t *testing.T) {
	g := startRig(t, 3, func(c *Config) { c.Default.KeepHeaders = []string{"x-charge"} })
	first := g.send(0, post("/rich?b=2&a=1", "k1", `{"amount":1}`)).wants(201).first().
		wantsHeader("Set-Cookie", "session=secret").wantsHeader("X-Request-Id", "r1").wantsHeader("X-Hop").
		wantsHeader("Idempotency-Key", "k1").wantsHeader("Idempotency-TTL", "86400")
	for i := range 3 {
		again := g.send(i, post("/rich?a=1&b=2", `"k1"`, `{"amount":1}`)).wants(201).replay().wantsBody(first.body).
			wantsHeader("Link", "<a>; rel=x", "<b>; rel=y").wantsHeader("Content-Type", "application/pdf").
			wantsHeader("Location", "/charges/1").wantsHeader("X-Charge", "ch_1").wantsHeader("Idempotency-Key", `"k1"`).
			wantsHeader("Set-Cookie").wantsHeader("X-Request-Id").wantsHeader("X-Hop")
		if again.header.Get("Content-Length") != strconv.Itoa(len(first.body)) {
			t.Errorf("Content-Length is %q", again.header.Get("Content-Length"))
		}
	}
	hits := g.upstream.wantsHits(1)
	rec := g.wantsState("k1", fsm.State_COMPLETED)
	if got := hits[0].header.Get("Onced-Fence"); got != strconv.FormatUint(rec.Fence, 10) {
		t.Errorf("the upstream saw fence %q, the record has %d", got, rec.Fence)
	}
	if hits[0].header.Get("Onced-Attempt") != "1" || hits[0].header.Get("Idempotency-Key") != "k1" {
		t.Errorf("the upstream saw %v", hits[0].header)
	}
}

func TestEveryStatusIsRecordedButThoseThatSayNothingWasDone(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.NotRecorded = []int{418} })
	for _, c := range []struct {
		path string
		runs int
	}{
		{"/status/200", 1}, {"/status/204", 1}, {"/status/303", 1}, {"/status/304", 1}, {"/status/400", 1}, {"/status/404", 1},
		{"/status/409", 1}, {"/status/500", 1}, {"/status/502", 1}, {"/status/503", 1}, {"/status/429", 1},
		{"/status/429?after=3", 2}, {"/status/503?after=3", 2}, {"/status/418", 2}, {"/status/500?after=3", 1},
	} {
		t.Run(c.path, func(t *testing.T) {
			before := len(g.upstream.seen())
			status, _ := strconv.Atoi(c.path[8:11])
			one := g.send(0, post(c.path, c.path, "x")).wants(status).first()
			two := g.send(0, post(c.path, c.path, "x")).wants(status)
			if runs := len(g.upstream.seen()) - before; runs != c.runs {
				t.Errorf("it ran %d times, want %d", runs, c.runs)
			}
			if c.runs == 1 {
				two.replay().wantsBody(one.body)
				return
			}
			two.first()
			if g.record(c.path) != nil {
				t.Error("a record was left")
			}
		})
	}
}

func TestALongAnswerThatNothingWasDoneFreesTheKeyToo(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.MaxResponse = 1000 })
	for range 2 {
		g.send(0, post("/busy?size=100000", "k", "x")).wants(503).first().wantsHeader("Retry-After", "1").wantsBody(strings.Repeat("x", 100000))
		if rec := g.record("k"); rec != nil {
			t.Fatalf("a record was left: %v", rec)
		}
	}
	g.upstream.wantsHits(2)
}

func TestAnAnswerThatBreaksOffLeavesTheOutcomeUnknown(t *testing.T) {
	g := startRig(t, 1, func(c *Config) {
		c.Routes = []Route{{Path: "/{rest:.*}", Methods: []string{"PATCH"}, Settings: Settings{OnLapse: "retry"}}}
	})
	for _, path := range []string{"/breaks-before", "/breaks-in-header", "/breaks-in-body", "/breaks-in-chunk", "/no-http", "/no-status"} {
		t.Run(path, func(t *testing.T) {
			before := len(g.upstream.seen())
			g.send(0, post(path, path, "x")).wantsProblem(504, "outcome-unknown")
			g.send(0, post(path, path, "x")).wantsProblem(409, "outcome-unknown")
			g.wantsState(path, fsm.State_UNKNOWN)
			if runs := len(g.upstream.seen()) - before; runs != 1 {
				t.Errorf("it ran %d times", runs)
			}
		})
		t.Run(path+" where the policy is retry", func(t *testing.T) {
			before := len(g.upstream.seen())
			c := post(path, path+"-retry", "x")
			c.method = http.MethodPatch
			g.send(0, c).wantsProblem(504, "outcome-unknown")
			g.send(0, c).wantsProblem(504, "outcome-unknown")
			hits := g.upstream.seen()[before:]
			if len(hits) != 2 || hits[1].header.Get("Onced-Attempt") != "2" {
				t.Fatalf("the upstream saw %+v", hits)
			}
			if fence(t, hits[0]) >= fence(t, hits[1]) {
				t.Errorf("fences %d and %d do not grow", fence(t, hits[0]), fence(t, hits[1]))
			}
		})
	}
}

func fence(t *testing.T, h hit) int {
	t.Helper()
	n, err := strconv.Atoi(h.header.Get("Onced-Fence"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAnUpstreamThatCannotBeReachedFreesTheKey(t *testing.T) {
	g := startRig(t, 1, nil)
	g.upstream.stop()
	g.send(0, post("/x", "k", "x")).wantsProblem(502, "upstream-unreachable")
	if rec := g.record("k"); rec != nil {
		t.Errorf("a record was left: %v", rec)
	}
	g.send(0, post("/x", "", "x")).wantsProblem(502, "upstream-unreachable")
}

func TestAnUpstreamThatNeverAnswersIsGivenUp(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.Timeout = 300 * time.Millisecond })
	g.send(0, post("/held", "k", "x")).wantsProblem(504, "outcome-unknown")
	g.wantsState("k", fsm.State_UNKNOWN)
	g.send(0, post("/held", "k", "x")).wantsProblem(409, "outcome-unknown")
	g.upstream.wantsHits(1)
}

func TestAClientThatHangsUpCancelsNothing(t *testing.T) {
	g := startRig(t, 1, nil)
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan *reply)
	go func() { gone <- g.sendWithin(ctx, 0, post("/held", "k", "x")) }()
	g.upstream.awaitHeld()
	hangUp()
	if r := <-gone; r.err == nil {
		t.Fatal("the client did not hang up")
	}
	g.wantsState("k", fsm.State_CLAIMED)
	g.upstream.open()
	eventually(t, "the run to be recorded", func() bool { return g.record("k").GetState() == fsm.State_COMPLETED })
	g.send(0, post("/held", "k", "x")).wants(200).replay().wantsBody("run 1")
	g.upstream.wantsHits(1)
}

func TestOfManyClientsWithOneKeyOneRuns(t *testing.T) {
	g := startRig(t, 3, nil)
	const clients = 50
	replies := make([]*reply, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c := post("/held", "k", "x")
			if i%2 == 0 {
				c.header.Set("Prefer", "wait=30")
			}
			replies[i] = g.send(i%3, c)
		})
	}
	g.upstream.awaitHeld()
	eventually(t, "those that do not wait to be refused", func() bool {
		return g.gateways[0].inHand.Load()+g.gateways[1].inHand.Load()+g.gateways[2].inHand.Load() <= clients/2+1
	})
	g.upstream.open()
	all.Wait()
	ran := 0
	for i, r := range replies {
		switch {
		case r.err != nil:
			t.Errorf("client %d: %v", i, r.err)
		case r.status == http.StatusConflict && i%2 == 1:
			r.wantsProblem(409, "in-progress")
			if after, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || after < 1 || after > 15 {
				t.Errorf("Retry-After is %q", r.header.Get("Retry-After"))
			}
		default:
			r.wants(200).wantsBody("run 1")
			if r.header.Get("Idempotent-Replayed") == "" {
				ran++
			}
			if i%2 == 0 {
				r.wantsHeader("Preference-Applied", "wait=30")
			}
		}
	}
	if ran != 1 {
		t.Errorf("%d clients were answered as the first", ran)
	}
	g.upstream.wantsHits(1)
}

func TestClosingCutsOffTheRunInHandAndRecordsThatItsOutcomeIsUnknown(t *testing.T) {
	g := startRig(t, 1, nil)
	done := make(chan *reply)
	go func() { done <- g.send(0, post("/held", "k", "x")) }()
	g.upstream.awaitHeld()
	g.gateways[0].settleGrace = patience
	g.gateways[0].Close()
	g.wantsState("k", fsm.State_UNKNOWN)
	(<-done).wantsProblem(504, "outcome-unknown")
	g.send(0, post("/held", "k2", "x")).wantsProblem(503, "unavailable")
	g.upstream.wantsHits(1)
	if rec := g.record("k2"); rec != nil {
		t.Errorf("it was claimed: %v", rec)
	}
}

func TestTheLeaseIsRenewedWhileTheUpstreamWorks(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.Lease = time.Second })
	done := make(chan *reply)
	go func() { done <- g.send(0, post("/held", "k", "x")) }()
	g.upstream.awaitHeld()
	granted := g.wantsState("k", fsm.State_CLAIMED).LeaseExpiresAt
	eventually(t, "the lease to be renewed past its first end", func() bool {
		rec := g.record("k")
		return rec.GetState() == fsm.State_CLAIMED && g.nodes[0].Now() > granted && rec.LeaseExpiresAt > granted
	})
	g.upstream.open()
	(<-done).wants(200).first()
}

func TestAFencedOwnerNeverAnswersAsIfItWereStored(t *testing.T) {
	g := startRig(t, 1, nil)
	done := make(chan *reply)
	go func() { done <- g.send(0, post("/held", "k", "x")) }()
	g.upstream.awaitHeld()
	rec := g.wantsState("k", fsm.State_CLAIMED)
	if _, err := g.nodes[0].Propose(t.Context(), &fsm.Command{Kind: fsm.Kind_FORGET, Namespace: defaultNamespace, Key: "k", Fence: rec.Fence, Force: true}); err != nil {
		t.Fatal(err)
	}
	g.upstream.open()
	(<-done).wantsProblem(504, "outcome-unknown")
	if rec := g.record("k"); rec != nil {
		t.Errorf("it was recorded all the same: %v", rec)
	}
}

func TestWhatIsTooLargeOrAStreamIsPassedOnAndNotKept(t *testing.T) {
	g := startRig(t, 1, func(c *Config) { c.Default.MaxResponse = 1000 })
	for _, c := range []struct{ key, path, body string }{
		{"just-fits", "/large?size=1000", strings.Repeat("x", 1000)},
		{"one-byte-more-of-unknown-length", "/large?size=1001", strings.Repeat("x", 1001)},
		{"much-more-of-known-length", "/large?size=100000&length=1", strings.Repeat("x", 100000)},
		{"an-event-stream", "/events", ""},
	} {
		t.Run(c.key, func(t *testing.T) {
			before := len(g.upstream.seen())
			one := g.send(0, post(c.path, c.key, "x")).wants(200).first().wantsHeader("Idempotency-Key", c.key)
			if c.body != "" {
				one.wantsBody(c.body)
			}
			two := g.send(0, post(c.path, c.key, "x"))
			if runs := len(g.upstream.seen()) - before; runs != 1 {
				t.Errorf("it ran %d times", runs)
			}
			if len(c.body) == 1000 {
				two.wants(200).replay().wantsBody(c.body)
				return
			}
			two.wantsProblem(410, "response-not-kept")
			if !strings.Contains(two.body, `"original_status":200`) || strings.Contains(two.body, "original_digest") {
				t.Errorf("the problem says %s", two.body)
			}
			if state := g.record(c.key).GetState(); state != fsm.State_COMPLETED {
				t.Errorf("the record is %v", state)
			}
		})
	}
}

func TestInformationalAnswersAndTrailersAreNotRecorded(t *testing.T) {
	g := startRig(t, 1, nil)
	for _, path := range []string{"/hints", "/trailers"} {
		one := g.send(0, post(path, path, "x")).wants(200).first()
		g.send(0, post(path, path, "x")).wants(200).replay().wantsBody(one.body).wantsHeader("X-Sum").wantsHeader("Trailer")
	}
	g.upstream.wantsHits(2)
}

func TestAnotherRequestUnderTheKeyIsRefused(t *testing.T) {
	g := startRig(t, 1, nil)
	g.send(0, post("/x?a=1", "k", "x", "Content-Type", "text/plain")).wants(200)
	for name, c := range map[string]call{
		"another path":       post("/y?a=1", "k", "x", "Content-Type", "text/plain"),
		"another query":      post("/x?a=2", "k", "x", "Content-Type", "text/plain"),
		"another media type": post("/x?a=1", "k", "x", "Content-Type", "text/html"),
		"another body":       post("/x?a=1", "k", "y", "Content-Type", "text/plain"),
		"another method":     {http.MethodPatch, "/x?a=1", "x", http.Header{"Idempotency-Key": {"k"}, "Content-Type": {"text/plain"}}},
	} {
		t.Run(name, func(t *testing.T) { g.send(0, c).wantsProblem(422, "key-reused") })
	}
	g.send(0, post("/x?a=1", "k", "x", "Content-Type", "Text/Plain")).wants(200).replay()
	g.upstream.wantsHits(1)
}

func TestKeptHeadersAreReplayedByteForByte(t *testing.T) {
	g := startRig(t, 3, func(c *Config) { c.Default.KeepHeaders = []string{"X-Name"} })
	g.replaceUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Name"] = []string{"caf\xe9", "", "caf\u00e9", "a,b;c=\"d\""}
		w.Header()["Content-Encoding"] = []string{"gzip"}
		w.Header()["Etag"] = []string{`W/"x"`}
		w.WriteHeader(299)
		_, _ = w.Write([]byte("\x1f\x8b\x08\x00no gzip at all"))
	}))
	one := g.send(0, post("/x", "k", "")).wants(299).first()
	for i := range 3 {
		g.send(i, post("/x", "k", "")).wants(299).replay().wantsBody(one.body).wantsHeader("X-Name", one.header.Values("X-Name")...).
			wantsHeader("Content-Encoding", "gzip").wantsHeader("Etag", `W/"x"`)
	}
	if one.header.Values("X-Name")[0] != "caf\xe9" {
		t.Errorf("the first answer has %q", one.header.Values("X-Name"))
	}
}
