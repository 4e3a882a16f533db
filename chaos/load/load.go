// Package load is the clients of a run: over all nodes, with real sockets, they
// do what clients do and what they should not, and record every call and its
// answer. What they do follows from a seed; what comes of it does not.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onced/onced/chaos/history"
)

// Node is where the clients reach a node.
type Node struct {
	ID      string
	API     string // base URL
	Gateway string // base URL; empty without one
}

// Config is what the load is made of. All fields but those with a default are
// needed.
type Config struct {
	Nodes []Node
	// Dial reaches the nodes.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	History *history.Writer
	// Clock is the one clock of the history.
	Clock func() history.Nano
	Seed  uint64
	// Scripts is how many keys are worked on at a time. Default 24.
	Scripts int
	// Pause is the mean time between two calls of a client. Default 40 ms.
	Pause time.Duration
	// Timeout is how long a client waits for an answer. Default 3 s.
	Timeout time.Duration
	// TTL is the retention that the nodes were started with.
	TTL time.Duration
	// Keep is how many keys, and how many resources, are read back at the
	// end. Default 1000.
	Keep int
}

func (c Config) withDefaults() Config {
	if c.Scripts == 0 {
		c.Scripts = 24
	}
	if c.Pause == 0 {
		c.Pause = 40 * time.Millisecond
	}
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Second
	}
	if c.Keep == 0 {
		c.Keep = 1000
	}
	return c
}

// Load is a load that runs, or has run.
type Load struct {
	cfg    Config
	http   *http.Client
	ids    atomic.Uint64
	keys   atomic.Uint64
	answer atomic.Uint64 // calls that were answered

	mu        sync.Mutex
	known     []*script // some of those that ended, to be read back
	resources []resource
	seen      int // of known
	made      int // of resources
	chance    *rand.Rand
	emails    []string
}

// resource is one that was created.
type resource struct{ id, key string }

// New returns a load that has not begun.
func New(cfg Config) *Load {
	cfg = cfg.withDefaults()
	return &Load{
		cfg: cfg, chance: rand.New(rand.NewPCG(cfg.Seed, 1)),
		http: &http.Client{
			Transport: &http.Transport{
				DialContext: cfg.Dial, MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Calls returns how many calls were made so far, and how many were answered.
func (l *Load) Calls() (made, answered uint64) { return l.ids.Load(), l.answer.Load() }

// Run works until ctx ends, and returns once every client has its last answer,
// or has given up on it.
func (l *Load) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for worker := range l.cfg.Scripts {
		wg.Go(func() {
			chance := rand.New(rand.NewPCG(l.cfg.Seed, uint64(worker)+2))
			for ctx.Err() == nil {
				l.play(ctx, worker, chance)
			}
		})
	}
	wg.Wait()
}

// Close ends the clients' connections.
func (l *Load) Close() { l.http.CloseIdleConnections() }

// play works on one key, or on one key in several namespaces.
func (l *Load) play(ctx context.Context, worker int, chance *rand.Rand) {
	n := l.keys.Add(1)
	s := &script{Load: l, ctx: ctx, chance: &dice{rand: rand.New(rand.NewPCG(chance.Uint64(), n))}, client: worker, key: keyName(n)}
	switch d := chance.IntN(100); {
	case d < 30:
		s.playCreate()
	case d < 72 || l.cfg.Nodes[0].Gateway == "":
		s.playKey()
	default:
		s.playGateway()
	}
}

// keyName makes some keys that have to be escaped in a path.
func keyName(n uint64) string {
	if n%7 == 0 {
		return fmt.Sprintf("k/%d?#%%", n)
	}
	return fmt.Sprintf("k-%d", n)
}

// remember keeps a script, of many one at random, for the read-back.
func (l *Load) remember(s *script) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen++
	l.known = keepSome(l.known, s, l.seen, l.cfg.Keep, l.chance)
}

func (l *Load) rememberResource(id, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	l.resources = keepSome(l.resources, resource{id, key}, l.made, l.cfg.Keep, l.chance)
}

// keepSome is reservoir sampling: each of seen is kept with the same chance.
func keepSome[T any](kept []T, next T, seen, most int, chance *rand.Rand) []T {
	if len(kept) < most {
		return append(kept, next)
	}
	if i := chance.IntN(seen); i < most {
		kept[i] = next
	}
	return kept
}

// email returns the value of a unique field: most are new, some are taken.
func (l *Load) email(d *dice) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.emails) > 0 && d.is(40) {
		return l.emails[d.below(len(l.emails))]
	}
	email := fmt.Sprintf("user%d@example.com", d.uint64())
	if len(l.emails) < 200 {
		l.emails = append(l.emails, email)
	} else {
		l.emails[d.below(len(l.emails))] = email
	}
	return email
}

// dice is chance for several goroutines.
type dice struct {
	mu   sync.Mutex
	rand *rand.Rand
}

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.IntN(n)
}

func (d *dice) uint64() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Uint64()
}

// is reports true in percent of all cases.
func (d *dice) is(percent int) bool { return d.below(100) < percent }

// some returns up to twice the mean.
func (d *dice) some(mean time.Duration) time.Duration {
	return time.Duration(d.below(int(2*mean) + 1))
}
