// Package api is the HTTP surface of a node: the Resource API, the Key API and
// the Cluster API, as openapi.yaml describes them. It decides nothing about
// keys: it checks what was sent, hands a command to the cluster, and puts the
// outcome into words.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// Cluster is what the API needs of a node. *cluster.Node is one.
type Cluster interface {
	// Begin runs a CLAIM or a CREATE. If the key is in flight it waits up to
	// wait for that to end. cluster.ErrUnavailable: nothing was claimed.
	Begin(ctx context.Context, c *fsm.Command, wait time.Duration) (*fsm.Outcome, error)
	// Propose runs any other command. It fills in request id and not_after.
	// cluster.ErrUnavailable: the command may have been applied.
	Propose(ctx context.Context, c *fsm.Command) (*fsm.Outcome, error)
	// Barrier returns once this node has applied everything that was
	// committed before the call.
	Barrier(ctx context.Context) error

	// Lookup, List, Resource, Resources and Meta read the state that this
	// node has applied.
	Lookup(namespace, key string) (*fsm.Record, error)
	List(namespace string, q fsm.ListQuery) ([]fsm.Listed, bool, error)
	Resource(namespace, id string) (*fsm.Resource, error)
	Resources(namespace, after string, limit int) ([]fsm.ListedResource, bool, error)
	Meta() *fsm.Meta
	// Hash is the digest of the whole logical state.
	Hash() ([32]byte, error)
	// Now is this node's estimate of cluster time, in milliseconds.
	Now() int64

	// Status asks every node how it is.
	Status(ctx context.Context) (cluster.ClusterStatus, error)
	// Ready says why this node should get no requests; nil if it should.
	Ready() error
	// AddNode, RemoveNode and Transfer change who is in the cluster and who
	// leads. Their errors are those of cluster/errors.go.
	AddNode(ctx context.Context, id, raftAddr string, voter bool) error
	RemoveNode(ctx context.Context, id string) error
	Transfer(ctx context.Context, to string) error
	// Backup writes a consistent copy of the state, ended by its checksum.
	Backup(ctx context.Context, w io.Writer) error
}

// Config is what the API is made of. The zero value of a field takes the
// default that is named with it.
type Config struct {
	// Cluster runs the commands. It must be set.
	Cluster Cluster
	// TTL is how long a completed record is kept, and Lease how long a claim
	// stands, where the request does not say. Defaults 24 h and 30 s.
	TTL, Lease time.Duration
	// Unique are the members of the data of POST /create that only one
	// resource of a namespace may have. They must be the same on all nodes.
	Unique []string
	// MaxBody is the longest body of a request, in bytes. Default 1 MiB, at
	// most 32 MiB: a log entry cannot be larger than 64 MiB.
	MaxBody int64
	// MaxWait caps Prefer: wait. Default 30 s; whole seconds.
	MaxWait time.Duration
	// MaxInHand is how many requests may be in hand at once, those that wait
	// counted; more are shed with 503. Default 4096.
	MaxInHand int
	// MaxWaiters is how many requests may wait at once for one in flight;
	// more are answered as if they had not asked to. Default 1024.
	MaxWaiters int
	// Identify says who sent a request: wire.Unauthenticated if no one
	// knows. Default: everyone is an operator in the namespace "default".
	Identify func(*http.Request) (Caller, error)
	// Metrics takes the metrics, and Gatherer is what GET /metrics shows.
	// Default: a registry of the API's own.
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	// Log takes the failures that are not the client's. Default slog.Default().
	Log *slog.Logger
	// NewID makes the id of a resource: 1 to 64 letters, digits, '-' or '_',
	// never the same twice. Default: a UUID of version 7.
	NewID func() string
	// Version is the version of the program, shown with the cluster.
	Version string
}

// DefaultNamespace is that of callers without a credential.
const DefaultNamespace = "default"

// Role is what a caller may do.
type Role int

// A client works with keys and resources; an operator may do everything; a
// monitor may look at the cluster and its metrics.
const (
	Client Role = iota
	Operator
	Monitor
)

// Caller is who sent a request.
type Caller struct {
	Namespace string
	Role      Role
}

func (c Config) withDefaults() Config {
	if c.TTL == 0 {
		c.TTL = 24 * time.Hour
	}
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.MaxWait == 0 {
		c.MaxWait = 30 * time.Second
	}
	if c.MaxInHand == 0 {
		c.MaxInHand = 4096
	}
	if c.MaxWaiters == 0 {
		c.MaxWaiters = 1024
	}
	if c.Identify == nil {
		c.Identify = func(*http.Request) (Caller, error) { return Caller{DefaultNamespace, Operator}, nil }
	}
	if c.Metrics == nil || c.Gatherer == nil {
		own := prometheus.NewRegistry()
		c.Metrics, c.Gatherer = own, own
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.NewID == nil {
		c.NewID = func() string { return uuid.Must(uuid.NewV7()).String() }
	}
	return c
}

// Validate reports everything that is wrong with c at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Cluster == nil {
		wrong("there is no cluster to serve")
	}
	if c.TTL < minTTL || c.TTL > maxTTL {
		wrong("ttl %v: use 1s to 720h", c.TTL)
	}
	if c.Lease < minLease || c.Lease > maxLease {
		wrong("lease %v: use 100ms to 1h", c.Lease)
	}
	if c.MaxBody < 1 || c.MaxBody > 32<<20 {
		wrong("body limit %d: use 1 to 33554432 bytes", c.MaxBody)
	}
	if c.MaxWait < time.Second || c.MaxWait > time.Hour {
		wrong("wait limit %v: use 1s to 1h", c.MaxWait)
	}
	if c.MaxInHand < 1 || c.MaxWaiters < 0 {
		wrong("limits of requests in hand %d and of waiters %d: use at least 1 and 0", c.MaxInHand, c.MaxWaiters)
	}
	if len(c.Unique) > 64 {
		wrong("%d unique fields: use at most 64", len(c.Unique))
	}
	for i, field := range c.Unique {
		if field == "" || strings.IndexByte(field, 0) >= 0 || slices.Index(c.Unique, field) != i {
			wrong("unique field %q: name each once, without NUL", field)
		}
	}
	return errors.Join(errs...)
}

// server answers requests. Everything but the counters is set by New and never
// changed after.
type server struct {
	cfg     Config
	cluster Cluster
	router  *mux.Router
	origins *http.CrossOriginProtection
	met     *metrics
	unique  map[string]int // position in cfg.Unique
	quiet   throttle

	inHand, waiters atomic.Int64
}

// New returns the handler of everything that a node serves over HTTP.
func New(cfg Config) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure api: %w", err)
	}
	s := &server{cfg: cfg.withDefaults(), cluster: cfg.Cluster, origins: http.NewCrossOriginProtection(), unique: map[string]int{}}
	for i, field := range s.cfg.Unique {
		s.unique[field] = i
	}
	var err error
	if s.met, err = newMetrics(s.cfg.Metrics); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	s.router = s.newRouter()
	return s.router, nil
}

// NewHTTPServer returns a server for handler with the limits on headers and
// time that an open port needs. It sets no limit on writing, which would cut
// off those who wait. Have it serve a ProblemListener.
func NewHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    wire.MaxHeader,
		// What it reports are clients that break off, and handshakes that fail.
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
}
