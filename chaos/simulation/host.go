package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/api"
	"github.com/onced/onced/cluster"
	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/cluster/state"
)

// host is a machine: a disk, a clock, and the process that is up on it.
type host struct {
	world *world
	name  string // and the node's id
	addr  string
	join  string // an address of the cluster that it joined; empty: it is of the first

	clock wallClock

	mu      sync.Mutex
	disk    *disk
	process *process // nil: down
}

// process is one life of a node.
type process struct {
	host    *host
	disk    *disk
	port    *port
	node    *cluster.Node
	handler http.Handler
	dead    chan struct{} // closed when it died or was stopped
	once    sync.Once
	closing sync.Once

	intake sync.Mutex     // guards shut against inHand
	inHand sync.WaitGroup // requests
	shut   bool           // no more are taken
	ended  chan struct{}  // closed when nothing of it runs any more
}

// wallClock is a host's clock, which may be wrong.
type wallClock struct {
	mu    sync.Mutex
	ahead time.Duration // as of since
	rate  float64       // seconds gained in a second
	since time.Time
	fault *Fault
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.fault != nil {
		c.fault.bite()
	}
	return now.Add(c.ahead + time.Duration(c.rate*float64(now.Sub(c.since))))
}

// set sets the clock: ahead of true time, and drifting from there.
func (c *wallClock) set(ahead time.Duration, rate float64, f *Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead, c.rate, c.since, c.fault = ahead, rate, time.Now(), f
}

// ground is what a node stands on in a simulation.
type ground struct {
	*disk
	process *process
}

var _ cluster.Ground = ground{}

// Dir implements cluster.Ground.
func (g ground) Dir(nodeID string) (*peer.Dir, error) {
	g.mu.Lock()
	saved := g.identity
	g.mu.Unlock()
	return peer.NewDir(g.process.host.name, nodeID, saved, g.disk)
}

// State implements cluster.Ground.
func (g ground) State(o state.Options) (*state.State, error) {
	o.Disk = stores{g.disk}
	return state.Open("state", o)
}

// Log implements cluster.Ground.
func (g ground) Log(o logstore.Options) (*logstore.Store, error) {
	wrote := func(e *raft.Log) {
		if !isClosed(g.process.dead) {
			g.process.host.world.logs.stored(g.process.host.name, e)
		}
	}
	return logstore.New(log{g.disk, wrote}, markFile{g.disk}, o)
}

// Stable implements cluster.Ground.
func (g ground) Stable() (cluster.StableStore, error) { return stable{g.disk}, nil }

// Listen implements cluster.Ground.
func (g ground) Listen() func(string) (net.Listener, error) {
	return func(addr string) (net.Listener, error) {
		p := g.process
		p.port = p.host.world.net.listen(p.host.name, addr, p.dead)
		return p.port, nil
	}
}

// Dial implements cluster.Ground.
func (g ground) Dial() func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		p := g.process
		return p.host.world.net.dial(ctx, p.host.name, addr, p.dead)
	}
}

// RaftTransport implements cluster.Ground.
func (g ground) RaftTransport(layer raft.StreamLayer, _ hclog.Logger) cluster.RaftTransport {
	return newRaftTransport(g.process.host, g.process.port, layer)
}

// start starts a process on the host's disk, if none is up. One goroutine at a
// time may call it. No mutex is held while the disk is waited for: a bubble's
// time stands still as long as anybody waits for one.
func (h *host) start() error {
	if h.up() != nil {
		return nil
	}
	p := &process{host: h, disk: h.disk, dead: make(chan struct{}), ended: make(chan struct{})}
	w := h.world
	cfg := cluster.Config{
		NodeID: h.name, DataDir: h.name, RaftAddr: h.addr, HTTPAddr: h.name + ":80", Join: h.join,
		RequestTimeout: requestTimeout, SnapshotEntries: 16, SnapshotInterval: 300 * time.Millisecond, TrailingLogs: 4,
		Log: w.log, Clock: h.clock.now, Ground: ground{h.disk, p},
	}
	if h.join == "" {
		cfg.Peers = w.peers
	}
	node, err := cluster.Open(context.Background(), cfg)
	if err != nil {
		return fmt.Errorf("start %s: %w", h.name, err)
	}
	p.node = node
	p.handler, err = api.New(api.Config{
		Cluster: w.plant.wrap(node), Unique: []string{"email"}, TTL: longTTL, Log: w.log, NewID: w.newID,
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", h.name, err)
	}
	h.mu.Lock()
	h.process = p
	h.mu.Unlock()
	w.running.Go(func() { p.watch() })
	return nil
}

// watch ends the process when its node can go on no more.
func (p *process) watch() {
	select {
	case err := <-p.node.Fatal():
		p.host.world.trace.add("%s exits: %v", p.host.name, err)
		p.die(false)
	case <-p.dead:
	}
}

// up is the process, nil while there is none.
func (h *host) up() *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process
}

// crash ends the process, if it is up, as kill -9 or a power cut does, and
// returns what was lost and how many connections broke.
func (h *host) crash(power bool) (bit bool, lost, broken int) {
	p := h.up()
	if p == nil {
		return false, 0, 0
	}
	lost, broken, bit = p.die(power)
	return bit, lost, broken
}

// die ends a process at this moment: whatever its goroutines still do reaches
// neither disk, nor peers, nor clients.
func (p *process) die(power bool) (lost, broken int, died bool) {
	p.once.Do(func() {
		died = true
		h := p.host
		h.mu.Lock()
		var next *disk
		next, lost = p.disk.after(power)
		h.disk, h.process = next, nil
		h.mu.Unlock()
		p.disk.suffer(func(t *trouble) { *t = trouble{} })
		close(p.dead)
		if p.port != nil {
			_ = p.port.Close()
		}
		broken = h.world.net.reset(func(from, to string) bool { return from == h.name || to == h.name })
		h.world.running.Go(func() {
			defer close(p.ended)
			p.close()
		})
	})
	return lost, broken, died
}

// take counts a request in, unless the process takes no more.
func (p *process) take() bool {
	p.intake.Lock()
	defer p.intake.Unlock()
	if !p.shut {
		p.inHand.Add(1)
	}
	return !p.shut
}

// stop ends the process as SIGTERM does.
func (h *host) stop() error {
	p := h.up()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := p.node.Drain(ctx)
	p.intake.Lock()
	p.shut = true
	p.intake.Unlock()
	p.inHand.Wait()
	p.close()
	p.die(false)
	<-p.ended
	return err
}

// close closes the node and waits for all that it started.
func (p *process) close() { p.closing.Do(func() { _ = p.node.Close() }) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
