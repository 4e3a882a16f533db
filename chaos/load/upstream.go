package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/gateway"
)

// The routes of the gateway, by their policy: what is sent to /block/… blocks
// where the outcome is unknown, and what is sent to /retry/… may run again.
const (
	blockTTL, retryTTL     = time.Hour, 6 * time.Second
	blockLease, retryLease = 2 * time.Second, time.Second
	upstreamTimeout        = 4 * time.Second
)

// Routes are those that the nodes are to be started with.
func Routes() []gateway.Route {
	route := func(policy string, ttl, lease time.Duration) gateway.Route {
		return gateway.Route{Path: "/" + policy + "/{rest}", Settings: gateway.Settings{
			OnLapse: policy, TTL: ttl, Lease: lease, Timeout: upstreamTimeout, Namespace: "header:" + TenantHeader,
		}}
	}
	return []gateway.Route{route(history.Block, blockTTL, blockLease), route(history.Retry, retryTTL, retryLease)}
}

// NodeConfig is the configuration file that says the same.
func NodeConfig() string {
	b := "routes:\n"
	for _, r := range Routes() {
		b += fmt.Sprintf("  - path: %q\n    on-lapse: %s\n    ttl: %v\n    lease: %v\n    timeout: %v\n    namespace: %q\n",
			r.Path, r.OnLapse, r.TTL, r.Lease, r.Timeout, r.Namespace)
	}
	return b
}

// gatewayNamespace is that of the gateway's keys of a tenant.
func gatewayNamespace(tenant string) string {
	sum := sha256.Sum256([]byte(tenant))
	return "header:" + strings.ToLower(TenantHeader) + ":" + hex.EncodeToString(sum[:16])
}

// Moods of the upstream, as a client asks for them.
const (
	moodSlow     = "slow"     // longer than the lease
	moodBroken   = "broken"   // no whole answer
	moodDeclines = "declines" // 503 with Retry-After: nothing was done
	moodFails    = "fails"    // 500, which is recorded
)

// Upstream is the service behind the gateways. It counts: every request that
// reaches it is an effect in the history.
type Upstream struct {
	history *history.Writer
	clock   func() history.Nano
	server  *http.Server
	served  sync.WaitGroup
	closing context.Context
	close   context.CancelFunc

	mu    sync.Mutex
	count int
}

// StartUpstream serves on the listener until Close.
func StartUpstream(on net.Listener, to *history.Writer, clock func() history.Nano) *Upstream {
	u := &Upstream{history: to, clock: clock}
	u.closing, u.close = context.WithCancel(context.Background())
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: 10 * time.Second}
	u.served.Go(func() { _ = u.server.Serve(on) })
	return u
}

// Close ends every request, and waits.
func (u *Upstream) Close() {
	u.close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := u.server.Shutdown(ctx); err != nil {
		_ = u.server.Close()
	}
	u.served.Wait()
}

// ServeHTTP does the work: it records it, and answers in the mood it is asked
// to be in.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := u.clock()
	_, _ = io.Copy(io.Discard, r.Body)
	u.mu.Lock()
	u.count++
	count := u.count
	u.mu.Unlock()
	e := &history.Effect{
		Where: "upstream", Namespace: gatewayNamespace(r.Header.Get(TenantHeader)), Key: unquoted(r.Header.Get("Idempotency-Key")),
		Policy: strings.Split(r.URL.Path, "/")[1], Begin: begin, Result: history.Answered,
	}
	e.Call, _ = strconv.ParseUint(r.Header.Get(callHeader), 10, 64)
	e.Fence, _ = strconv.ParseUint(r.Header.Get("Onced-Fence"), 10, 64)
	e.Attempt, _ = strconv.Atoi(r.Header.Get("Onced-Attempt"))
	mood := r.Header.Get(moodHeader)
	if mood == moodSlow {
		u.dawdle(3 * retryLease / 2)
	}
	status := http.StatusCreated
	switch mood {
	case moodDeclines:
		e.Result = history.Declined
		w.Header().Set("Retry-After", "1")
		status = http.StatusServiceUnavailable
	case moodFails:
		status = http.StatusInternalServerError
	case moodBroken:
		e.Result, e.End = history.Broken, u.clock()
		u.history.Effect(e)
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "half of it")
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", fmt.Sprintf("%q", strconv.Itoa(count)))
	body, _ := json.Marshal(map[string]any{"owner": e.Of().String(), "fence": e.Fence, "count": count})
	if e.Result == history.Answered {
		e.Digest = Digest(status, w.Header(), body)
	}
	e.End = u.clock()
	u.history.Effect(e)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// dawdle is what a slow service does.
func (u *Upstream) dawdle(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-u.closing.Done():
	}
}

func unquoted(key string) string {
	if s, err := strconv.Unquote(key); err == nil {
		return s
	}
	return key
}
