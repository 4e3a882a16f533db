package client_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onced/onced/client"
)

func TestARunThatBreaksOffIsUnknown(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"a panic":           func(http.ResponseWriter, *http.Request) { panic("oh") },
		"a panic in answer": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done"); panic("oh") },
		"an abort":          func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"the goroutine":     func(http.ResponseWriter, *http.Request) { runtime.Goexit() },
		"less than said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "done")
		},
		"a status that is none": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(20) },
	} {
		t.Run(name, func(t *testing.T) {
			key := "broke-" + strings.ReplaceAll(name, " ", "-")
			s := serve(t, h)
			g := s.post(key, "a")
			if name == "the goroutine" {
				// net/http closes a connection whose goroutine ends.
				if g.err == nil {
					g.refused(504, client.ErrOutcomeUnknown)
				}
			} else {
				g.refused(504, client.ErrOutcomeUnknown)
			}
			s.post(key, "a").refused(409, client.ErrOutcomeUnknown)
			s.ran(1)
		})
	}
}

// TestAnUpstreamThatBreaksOff has a reverse proxy as the handler.
func TestAnUpstreamThatBreaksOff(t *testing.T) {
	b := serveBad(t, breakOff)
	target, err := url.Parse(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	s := serve(t, proxy.ServeHTTP)
	s.post("proxy", "a").refused(504, client.ErrOutcomeUnknown)
	s.post("proxy", "a").refused(409, client.ErrOutcomeUnknown)
	s.ran(1)
}

func TestAHandlerOutOfTime(t *testing.T) {
	limit := func(cfg *client.MiddlewareConfig) { cfg.TimeLimit = 300 * time.Millisecond }
	t.Run("that returns", func(t *testing.T) {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, limit)
		s.post("late-returns", "a").refused(504, client.ErrOutcomeUnknown)
		s.post("late-returns", "a").refused(409, client.ErrOutcomeUnknown)
		s.ran(1)
	})
	t.Run("that answers", func(t *testing.T) {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			http.Error(w, "late", http.StatusServiceUnavailable)
		}, limit)
		s.post("late-answers", "a").refused(504, client.ErrOutcomeUnknown)
		s.post("late-answers", "a").refused(409, client.ErrOutcomeUnknown)
		s.ran(1)
	})
	t.Run("that goes on", func(t *testing.T) {
		release, ended := make(chan struct{}), make(chan error, 1)
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			<-release
			_, err := io.WriteString(w, "too late")
			ended <- err
		}, limit)
		// The client has its answer while the handler still runs.
		s.post("late-goes-on", "a").refused(504, client.ErrOutcomeUnknown)
		s.post("late-goes-on", "a").refused(409, client.ErrOutcomeUnknown)
		close(release)
		if err := <-ended; err == nil {
			t.Error("the late answer was taken")
		}
		s.ran(1)
	})
}

func TestAnAnswerThatNothingWasDone(t *testing.T) {
	for _, status := range []int{429, 503} {
		var s *service
		s = serve(t, func(w http.ResponseWriter, r *http.Request) {
			if s.runs.Load() == 1 {
				w.Header().Set("Retry-After", "7")
				http.Error(w, "busy", status)
				return
			}
			created(w, r)
		})
		key := "declined-" + http.StatusText(status)[:3]
		s.post(key, "a").is(status, "busy\n", false).has("Retry-After", "7").has("Idempotency-TTL", "")
		s.post(key, "a").is(201, "order a", false)
		s.post(key, "a").is(201, "order a", true)
		s.ran(2)
	}
}

func TestAResponseThatIsNotKept(t *testing.T) {
	large := strings.Repeat("0123456789", 300<<10)
	tests := map[string]struct {
		h      http.HandlerFunc
		status int
		body   string
	}{
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			for i := 0; i < len(large); i += 1 << 10 {
				io.WriteString(w, large[i:min(i+1<<10, len(large))])
			}
		}, 201, large},
		"too large at once": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, large) }, 200, large},
		"too large by its length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "3072000")
			io.WriteString(w, large)
		}, 200, large},
		"an event stream": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			io.WriteString(w, "data: 1\n\n")
			io.WriteString(w, "data: 2\n\n")
		}, 200, "data: 1\n\ndata: 2\n\n"},
		"a status that the cluster does not take": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(777)
			io.WriteString(w, "odd")
		}, 777, "odd"},
		"a header that is not UTF-8": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/\xe9")
			io.WriteString(w, "latin")
		}, 200, "latin"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			key := "large-" + strings.ReplaceAll(name, " ", "-")
			s := serve(t, tt.h)
			first := s.post(key, "a").is(tt.status, tt.body, false).has("Idempotency-Key", key).has("Idempotency-TTL", "86400")
			if first.header.Get("Content-Type") == "" {
				t.Error("it has no Content-Type")
			}
			again := s.post(key, "a").refused(410, client.ErrResponseNotKept).has("Idempotent-Replayed", "")
			if !strings.Contains(again.body, `"original_status":`+strconv.Itoa(tt.status)) {
				t.Errorf("the answer is %s", again.body)
			}
			s.ran(1)
		})
	}
}

// TestAClusterThatTakesLess keeps only that a response was given where the
// nodes' limit is below the middleware's.
func TestAClusterThatTakesLess(t *testing.T) {
	nodes := cluster(t, 1, "--max-body", "2KiB")
	s := serveOn(t, dial(t, nodes.urls()), func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 3000)) })
	s.post("less", "a").is(200, strings.Repeat("x", 3000), false)
	s.post("less", "a").refused(410, client.ErrResponseNotKept)
	s.ran(1)
}

func TestAStreamThatBreaksOff(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		panic("oh")
	})
	if g := s.post("stream", "a"); g.status != 200 || g.err == nil {
		t.Errorf("the client saw a whole answer: %+v", g)
	}
	s.post("stream", "a").refused(410, client.ErrResponseNotKept)
	s.ran(1)
}

func TestTheWriterHidesTheRealOne(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := w.(http.Flusher); ok {
			t.Error("it flushes")
		}
		if _, ok := w.(http.Hijacker); ok {
			t.Error("it can be hijacked")
		}
		if _, ok := w.(io.ReaderFrom); ok {
			t.Error("it reads from")
		}
		if _, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
			t.Error("it unwraps")
		}
		c := http.NewResponseController(w)
		if !errors.Is(c.Flush(), http.ErrNotSupported) || !errors.Is(c.SetWriteDeadline(time.Now()), http.ErrNotSupported) {
			t.Error("a controller reaches the real one")
		}
		_, _ = io.Copy(w, strings.NewReader("copied"))
	})
	s.post("hides", "a").is(200, "copied", false)
	s.post("hides", "a").is(200, "copied", true)
}

// TestAFencedOutcomeIsNotAnswered has the record removed while the handler
// runs: what it did is no longer this key's.
func TestAFencedOutcomeIsNotAnswered(t *testing.T) {
	for name, write := range map[string]func(http.ResponseWriter){
		"completed":  func(w http.ResponseWriter) { io.WriteString(w, "2xx") },
		"not kept":   func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat("x", 600<<10)) },
		"broken off": func(http.ResponseWriter) { panic("oh") },
	} {
		t.Run(name, func(t *testing.T) {
			var s *service
			s = serve(t, func(w http.ResponseWriter, r *http.Request) {
				claim, _ := client.ClaimFromContext(r.Context())
				if err := s.c.Forget(r.Context(), claim.Key, client.ForgetOptions{Force: true}); err != nil {
					t.Error(err)
				}
				write(w)
			})
			s.post("fenced-"+name[:3], "a").refused(504, client.ErrOutcomeUnknown)
			s.ran(1)
		})
	}
}

func TestAnOutcomeThatCannotBeCommitted(t *testing.T) {
	nodes := cluster(t, 1)
	c := dial(t, nodes.urls(), func(cfg *client.Config) { cfg.Timeout = time.Second })
	s := serveOn(t, c, func(w http.ResponseWriter, r *http.Request) {
		nodes.kill(0)
		created(w, r)
	}, func(cfg *client.MiddlewareConfig) { cfg.ClaimTimeout = 2 * time.Second })
	s.post("lost", "a").refused(504, client.ErrOutcomeUnknown)
	// Without a cluster nothing runs.
	g := s.post("other", "a").refused(503, client.ErrUnavailable)
	if g.header.Get("Retry-After") == "" || strings.Contains(g.body, "127.0.0.1") {
		t.Errorf("the answer is %v %s", g.header, g.body)
	}
	s.ran(1)
}

// TestTheLeaseIsRenewed lets a handler run until its lease was renewed for
// longer than it was granted.
func TestTheLeaseIsRenewed(t *testing.T) {
	var s *service
	s = serve(t, func(w http.ResponseWriter, r *http.Request) {
		claim, _ := client.ClaimFromContext(r.Context())
		eventually(t, "the lease to be renewed", func() bool {
			record, err := s.c.Get(r.Context(), claim.Key, client.Linearizable)
			return err == nil && record.LeaseExpiresAt.Sub(claim.LeaseExpiresAt) > 3*time.Second
		})
		created(w, r)
	}, func(cfg *client.MiddlewareConfig) { cfg.Lease = 3 * time.Second })
	s.post("renewed", "a").is(201, "order a", false)
	s.post("renewed", "a").is(201, "order a", true)
}

// TestAClaimThatWasNotLearntOfIsGivenBack cuts off every answer to a claim until
// the client was refused.
func TestAClaimThatWasNotLearntOfIsGivenBack(t *testing.T) {
	target, err := url.Parse(shared()[0])
	if err != nil {
		t.Fatal(err)
	}
	var cutting, claims atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(resp *http.Response) error {
		if strings.HasSuffix(resp.Request.URL.Path, "/claim") && cutting.Load() == 1 {
			claims.Add(1)
			return errors.New("cut off")
		}
		return nil
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)

	cutting.Store(1)
	s := serveOn(t, dial(t, []string{front.URL}), created, func(cfg *client.MiddlewareConfig) {
		cfg.ClaimTimeout, cfg.Lease = 500*time.Millisecond, 30*time.Second
	})
	if g := s.post("back", "a").refused(503, client.ErrUnavailable); !g.closes {
		t.Error("the connection is held while the claim is given back")
	}
	if claims.Load() == 0 {
		t.Fatal("no claim was cut off")
	}
	cutting.Store(0)
	// Where it stayed claimed, this would find it so until the lease ends, and
	// unknown from then on.
	s.post("back", "a", "Prefer: wait=30").is(201, "order a", false)
	s.ran(1)
}

// TestTheLeaderDiesWhileHandlersRun kills a node of three between the claims
// and their completion.
func TestTheLeaderDiesWhileHandlersRun(t *testing.T) {
	nodes := cluster(t, 3)
	killed := make(chan struct{})
	s := serveOn(t, dial(t, nodes.urls()), func(w http.ResponseWriter, r *http.Request) {
		<-killed
		created(w, r)
	})
	answers := make(chan *got)
	for i := range 8 {
		go func() { answers <- s.post("dies-"+strconv.Itoa(i), "a") }()
	}
	eventually(t, "eight runs", func() bool { return s.runs.Load() == 8 })
	nodes.kill(nodes.leader(t))
	close(killed)
	for range 8 {
		(<-answers).is(201, "order a", false)
	}
	for i := range 8 {
		s.post("dies-"+strconv.Itoa(i), "a").is(201, "order a", true)
	}
	s.ran(8)
}

// leader returns the place of the node that leads.
func (c *nodes) leader(t *testing.T) int {
	t.Helper()
	at := -1
	eventually(t, "a leader", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		id, err := leaderID(ctx, c.urls()[0])
		for i := range c.all {
			if err == nil && id == "n"+strconv.Itoa(i+1) {
				at = i
			}
		}
		return at >= 0
	})
	return at
}
