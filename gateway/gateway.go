package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// Cluster is what the gateway needs of a node. *cluster.Node is one.
type Cluster interface {
	// Begin runs a CLAIM. If the key is in flight it waits up to wait for that
	// to end. cluster.ErrUnavailable: nothing was claimed.
	Begin(ctx context.Context, c *fsm.Command, wait time.Duration) (*fsm.Outcome, error)
	// Propose runs any other command. It fills in request id and not_after.
	// cluster.ErrUnavailable: the command may have been applied.
	Propose(ctx context.Context, c *fsm.Command) (*fsm.Outcome, error)
	// Meta has the cluster's id.
	Meta() *fsm.Meta
	// Now is this node's estimate of cluster time, in milliseconds.
	Now() int64
}

// Config is what a gateway is made of. The zero value of a field takes the
// default that is named with it.
type Config struct {
	// Cluster holds the keys. It must be set.
	Cluster Cluster
	// Upstreams are the base URLs, http or https, of one service. At least one.
	Upstreams []*url.URL
	// HealthPath, if set, is asked of each upstream every two seconds: one that
	// does not answer below 500 gets no requests while another does.
	HealthPath string
	// Routes are tried in their order; the first that matches says how a
	// request is treated. Requests that none matches are treated as Default
	// says if they are POST or PATCH, and passed through if not.
	Routes []Route
	// Default are the settings of requests that no route matches, and those
	// of a route where it has none of its own.
	Default Settings
	// MaxInHand is how many requests may be in hand at once, those that wait
	// counted; more are shed. Default 4096.
	MaxInHand int
	// MaxBuffered is how many bytes of bodies and answers may be held at once;
	// what would not fit is shed. Default 256 MiB.
	MaxBuffered int64
	// MaxWait caps Prefer: wait. Default 30 s; whole seconds.
	MaxWait time.Duration
	// MaxWaiters is how many requests may wait at once for one in flight, and
	// MaxWaitersPerKey how many of them for one key; more are answered as if
	// they had not asked to wait. Defaults 1024 and 128.
	MaxWaiters, MaxWaitersPerKey int
	// IdleTimeout is how long a connection to the upstream is kept unused. It
	// should be shorter than the upstream's own, or a request may meet a
	// connection that is just being closed, and its outcome is then unknown.
	// Default 4 s.
	IdleTimeout time.Duration
	// UpstreamHost sends the upstream its own name as Host, not the one that
	// the client asked for.
	UpstreamHost bool
	// Metrics takes the metrics; nil keeps them to itself.
	Metrics prometheus.Registerer
	// Log takes the failures that are not the client's. Default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Default = c.Default.withDefaults(builtin)
	if c.MaxInHand == 0 {
		c.MaxInHand = 4096
	}
	if c.MaxBuffered == 0 {
		c.MaxBuffered = 256 << 20
	}
	if c.MaxWait == 0 {
		c.MaxWait = 30 * time.Second
	}
	if c.MaxWaiters == 0 {
		c.MaxWaiters = 1024
	}
	if c.MaxWaitersPerKey == 0 {
		c.MaxWaitersPerKey = 128
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 4 * time.Second
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Validate reports everything that is wrong with c at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(c.Cluster == nil, "there is no cluster to keep the keys")
	wrong(len(c.Upstreams) == 0, "there is no upstream: name the service behind the gateway")
	for _, u := range c.Upstreams {
		errs = append(errs, CheckUpstream(u))
	}
	wrong(c.HealthPath != "" && c.HealthPath[0] != '/', "health path %q: begin it with /", c.HealthPath)
	wrong(c.MaxInHand < 1, "limit of requests in hand %d: use at least 1", c.MaxInHand)
	wrong(c.MaxBuffered < 1<<20, "limit of buffered bytes %d: use at least 1 MiB", c.MaxBuffered)
	wrong(c.MaxWait < time.Second || c.MaxWait > time.Hour, "wait limit %v: use 1s to 1h", c.MaxWait)
	wrong(c.IdleTimeout < time.Millisecond, "idle timeout %v: use at least 1ms", c.IdleTimeout)
	for _, err := range c.Default.Mistakes() {
		errs = append(errs, fmt.Errorf("default settings: %w", err))
	}
	for i, r := range c.Routes {
		for _, err := range r.Mistakes(c.Default) {
			errs = append(errs, fmt.Errorf("route %d (%s): %w", i+1, r.Path, err))
		}
		place, hidden := r.HiddenBy(c.Routes[:i])
		wrong(hidden, "route %d (%s): route %d has its path and methods, so that it never matches", i+1, r.Path, place+1)
	}
	return errors.Join(errs...)
}

// CheckUpstream says what is wrong with an upstream's URL, or nil.
func CheckUpstream(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("upstream %q: begin it with http:// or https://", u.Redacted())
	case u.Host == "" || u.Hostname() == "":
		return fmt.Errorf("upstream %q names no host", u.Redacted())
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return fmt.Errorf("upstream %q: leave user, query and fragment out", u.Redacted())
	}
	return nil
}

// Gateway is the handler of the gateway's listener.
type Gateway struct {
	// Set by New, never changed after.
	cfg       Config
	cluster   Cluster
	router    *mux.Router
	fallback  *route
	upstreams *upstreams
	pass      http.Handler
	met       *metrics
	log       *slog.Logger

	// writeTimeout bounds the time in which a client takes a piece of its answer.
	writeTimeout time.Duration
	// settleGrace is how long Close waits for an outcome to be committed.
	settleGrace time.Duration

	inHand   atomic.Int64
	buffered atomic.Int64
	waiters  waiters

	// context ends when Close is called; running are the keyed requests, the
	// goroutines that settle what could not be committed in time, and the health
	// checks.
	context context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex // guards closed against goes
	closed  bool
	running sync.WaitGroup
}

// New returns a gateway, which must be closed.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure gateway: %w", err)
	}
	cfg = cfg.withDefaults()
	met, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	g := &Gateway{cfg: cfg, cluster: cfg.Cluster, met: met, log: cfg.Log, writeTimeout: writeTimeout, settleGrace: settleGrace, waiters: waiters{keys: map[fsm.Key]int{}}}
	g.context, g.cancel = context.WithCancel(context.Background())
	g.upstreams = newUpstreams(cfg)
	g.router, g.fallback = newRouter(cfg)
	g.pass = g.newPass()
	if cfg.HealthPath != "" {
		g.goes(g.checkHealth)
	}
	return g, nil
}

// Close cuts off the runs that are left, and waits until it is recorded that
// their outcome is unknown, or a second, and for what the gateway started itself.
// The server in front of it is shut down first.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.running.Wait()
	g.upstreams.close()
}

// enter begins a keyed request, which Close waits for until g.running.Done is
// called. It reports false once the gateway closes.
func (g *Gateway) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Add(1)
	}
	return !g.closed
}

// goes runs f in a goroutine that Close waits for. Once the gateway closes it
// runs nothing more.
func (g *Gateway) goes(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Go(f)
	}
}

// pseudonym names this cluster's gateways in Via (RFC 9110, section 7.6.3): a
// request that comes with it has been here before.
func (g *Gateway) pseudonym() string {
	id, err := uuid.FromBytes(g.cluster.Meta().ClusterId)
	if err != nil {
		return "onced"
	}
	return "onced-" + id.String()[:8]
}

// NewHTTPServer returns a server for a gateway with the limits on headers and
// time that an open port needs. Bodies may stream for as long as they like; one
// that is held whole has a time limit of its own.
func NewHTTPServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    wire.MaxHeader,
		// What it reports are clients that break off, and handshakes that fail.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
