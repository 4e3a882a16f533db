// Package cluster is one process of a cluster: it keeps the replicated state,
// takes commands for it on any node, and leads when it is elected. What the
// commands do is decided by package fsm. See DESIGN.md.
package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/cluster/state"
	"github.com/onced/onced/fsm"
)

// Node is one member of a cluster: it holds the replicated state, takes
// commands for it, and leads when it is elected.
type Node struct {
	// Set by Open, never changed after.
	cfg      Config
	log      *slog.Logger
	met      *metrics
	settings string // digest of cfg.Settings
	ground   Ground
	context  context.Context
	cancel   context.CancelFunc
	stopped  chan struct{} // closed at the beginning of Close
	drained  chan struct{} // closed at the beginning of Drain: nobody waits for a key any more
	fatal    chan error    // depth 1: the first error after which this node must not go on

	dir        *peer.Dir
	peers      *peer.Transport
	state      *state.State
	logs       *logstore.Store
	links      *links
	senders    senders
	clock      *clock
	clockHeard chan struct{} // depth 1: a peer's clock was read
	pinging    inHand
	contacts   contacts
	handovers  handovers
	waiters    waiters
	progress   progress
	ready      readiness
	// current: as the leader, this node has applied an entry of its own term.
	current    atomic.Bool
	leadership leadership

	// raft and proposer are set before running is closed: when the cluster
	// has formed, or at once where it had before.
	running   chan struct{}
	started   chan struct{} // closed when start has ended, running or not
	raft      *raft.Raft
	term      func() uint64 // raft's
	raftTrans transport
	stable    StableStore
	proposer  *proposer

	// members are those that the transport was told of, and marked whether
	// the data directory is marked as in use; owned by the goroutine that
	// starts raft, and then by the one that applies.
	members []*fsm.Member
	marked  bool

	stopOnce  sync.Once
	drainOnce sync.Once
	fatalOnce sync.Once
	mu        sync.Mutex // guards closing against goes
	closing   bool
	wg        sync.WaitGroup
}

// Open opens the data directory, listens for peers and returns. Raft starts
// once the cluster has formed; until then commands wait and Ready says why.
// ctx bounds the opening only.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	n := newNode(cfg)
	if err := n.open(ctx); err != nil {
		n.closeFiles()
		return nil, err
	}
	n.met = newMetrics(n)
	go func() {
		defer close(n.started)
		n.start()
	}()
	return n, nil
}

func newNode(cfg Config) *Node {
	ctx, cancel := context.WithCancel(context.Background())
	digest := sha256.Sum256([]byte(cfg.Settings))
	n := &Node{
		cfg: cfg, log: cfg.Log.With("node", cfg.NodeID), settings: hex.EncodeToString(digest[:4]), ground: cfg.Ground,
		context: ctx, cancel: cancel, stopped: make(chan struct{}), drained: make(chan struct{}), fatal: make(chan error, 1),
		running:    make(chan struct{}),
		started:    make(chan struct{}),
		clock:      newClock(cfg.NodeID, cfg.Clock),
		clockHeard: make(chan struct{}, 1),
		pinging:    inHand{ids: map[string]bool{}},
		contacts:   contacts{last: map[string]contact{}},
		handovers:  handovers{tried: map[raft.ServerID]try{}},
		senders:    senders{byID: map[string]*sender{}},
		waiters:    waiters{keys: map[fsm.Key]map[chan struct{}]struct{}{}},
		progress:   progress{waiting: map[chan struct{}]uint64{}},
		leadership: leadership{changed: make(chan struct{})},
	}
	if n.ground == nil {
		n.ground = defaultGround(cfg)
	}
	n.ready = readiness{now: time.Now, applied: func() uint64 { i, _ := n.state.Applied(); return i }}
	n.links = &links{byID: map[string]*link{}, dial: n.dialCommands, process: rand.Uint64()}
	return n
}

// open opens everything that can fail for a reason the operator can mend.
func (n *Node) open(context.Context) (err error) {
	c := n.cfg
	if n.ground == nil {
		return errors.New("open node: this platform has no data directory to keep it in")
	}
	if n.dir, err = n.ground.Dir(c.NodeID); err != nil {
		return err
	}
	n.state, err = n.ground.State(state.Options{
		OnChange: n.waiters.changed,
		OnApply:  func(_, _ int, took time.Duration) { n.met.applySeconds.Observe(took.Seconds()); n.applied() },
		OnSnapshot: func(took time.Duration, wrote uint64) {
			n.met.snapshotSeconds.Observe(took.Seconds())
			n.met.snapshotBytes.Add(float64(wrote))
		},
		OnInstall: func(index uint64) {
			_ = n.logs.Forget(index) // a failure is reported there
			n.applied()
			n.waiters.wakeAll()
		},
		OnFatal: n.fail,
		Await:   func(index uint64) error { return n.logs.Await(index, n.stopped) },
		Closed:  n.stopped,
		Log:     n.log,
	})
	if err != nil {
		return err
	}
	n.clock.applied(n.state.Meta().Time)
	c.logOptions.OnFatal, c.logOptions.Deferred = n.fail, true
	c.logOptions.OnAppend = func(took time.Duration) { n.met.logWriteSeconds.Observe(took.Seconds()) }
	n.logs, err = n.ground.Log(c.logOptions)
	if err != nil {
		return err
	}
	if err := n.checkLog(); err != nil {
		return err
	}
	if n.stable, err = n.ground.Stable(); err != nil {
		return err
	}
	peers := make([]peer.Peer, len(c.Peers))
	for i, p := range c.Peers {
		peers[i] = peer.Peer{ID: p.ID, Addr: p.Addr}
	}
	n.peers, err = peer.Listen(peer.Config{
		Dir: n.dir, NodeID: c.NodeID, Addr: c.RaftAddr, Peers: peers, Join: c.Join, Log: n.log,
		Listen: n.ground.Listen(), Dial: n.ground.Dial(),
	})
	return err
}

// checkLog makes sure, before raft starts and would panic on it, that the log
// can be read and goes with the store.
func (n *Node) checkLog() error {
	if err := n.state.CheckLog(n.logs); err != nil {
		return err
	}
	applied, _ := n.state.Applied()
	first, err := n.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	if applied == 0 && first > 1 {
		return fmt.Errorf("the state is empty, and the log begins with entry %d: the state was lost, so this node must join anew under another id", first)
	}
	if err := n.logs.Verify(applied + 1); err != nil {
		return err
	}
	n.logs.Contained(n.state.Reached)
	return nil
}

// start waits for the cluster to form and starts raft.
func (n *Node) start() {
	if err := n.peers.Form(n.context); err != nil {
		if n.context.Err() == nil {
			n.fail(err)
		}
		return
	}
	n.goes(func() {
		if err := n.peers.CheckPlace(n.context); err != nil {
			n.fail(err)
		}
	})
	if err := n.startRaft(); err != nil {
		n.fail(err)
		return
	}
	n.proposer = newProposer(n.raft, n.clock.stamp, n.met, n.stopped)
	n.refreshMembers()
	close(n.running)
	n.peers.HandleCommands(n.serveCommands)
	n.follow()
	n.lead()
	n.watchClock()
}

func (n *Node) startRaft() error {
	logger := raftLogger(n.log)
	n.raftTrans = newTransport(n.ground.RaftTransport(foresight{n.peers.RaftLayer(), n}, logger), n.logs, n.state.Reached, n.raftIfRunning,
		func(took time.Duration) { n.met.replicateSeconds.Observe(took.Seconds()) })
	n.raftTrans.absent.back = n.handovers.postpone
	if err := n.checkStarted(n.stable); err != nil {
		return errors.Join(err, n.raftTrans.Close())
	}
	if err := n.bootstrap(n.stable, logger); err != nil {
		return errors.Join(err, n.raftTrans.Close())
	}
	r, err := raft.NewRaft(raftConfig(n.cfg, logger), n.state, n.logs, n.stable, n.state, n.raftTrans)
	if err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), n.raftTrans.Close())
	}
	n.raft, n.term = r, r.CurrentTerm
	return nil
}

// bootstrap writes the first configuration into an empty log: the same on
// every node of a new cluster, so it matters not which comes first. A node
// that joins gets its configuration from the leader.
func (n *Node) bootstrap(stable raft.StableStore, logger hclog.Logger) error {
	if n.peers.Joined() {
		return nil
	}
	var conf raft.Configuration
	_, members := n.peers.Roster()
	for _, m := range members {
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(m.Id), Address: raft.ServerAddress(m.RaftAddr)})
	}
	var logs raft.LogStore = n.logs
	var snapshots raft.SnapshotStore = n.state
	if n.dir.Seeded() {
		// The entry is in the restored content then, and must not be in the log.
		if err := n.state.Found(conf); err != nil {
			return err
		}
		logs, snapshots = raft.NewInmemStore(), raft.NewDiscardSnapshotStore()
	}
	err := raft.BootstrapCluster(raftConfig(n.cfg, logger), logs, stable, snapshots, n.raftTrans, conf)
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return n.markStarted()
}

// applied follows each batch that the state machine has applied, and each
// snapshot that was installed.
func (n *Node) applied() {
	if err := n.markStarted(); err != nil {
		n.fail(err)
	}
	meta := n.state.Meta()
	if !slices.EqualFunc(n.members, meta.Members, sameMember) {
		n.members = meta.Members
		n.refreshMembers()
	}
	n.clock.applied(meta.Time)
	n.progress.reached(meta.AppliedIndex)
}

func sameMember(a, b *fsm.Member) bool {
	return a.Id == b.Id && a.RaftAddr == b.RaftAddr && string(a.Incarnation) == string(b.Incarnation)
}

// goes runs f in a goroutine that Close waits for. Once the node closes it
// runs nothing more.
func (n *Node) goes(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return
	}
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		f()
	}()
}

// fail reports an error after which this node must not go on. The other
// members carry the service.
func (n *Node) fail(err error) {
	n.fatalOnce.Do(func() {
		n.ready.drain() // before anyone hears of it
		n.fatal <- err
	})
}

// Fatal yields the error after which this node must be stopped, if one comes.
func (n *Node) Fatal() <-chan error { return n.fatal }

// Ready says why this node should not be sent requests, or nil.
func (n *Node) Ready() error {
	select {
	case <-n.running:
	default:
		if err := n.peers.WhyNotFormed(); err != nil {
			return err
		}
		return errNotCaughtUp // formed, and raft is about to start
	}
	if err := n.ready.err(); err != nil {
		return err
	}
	if !n.bound() {
		return errNotBound
	}
	return nil
}

var errNotBound = errors.New("not every node of the list has started yet: the very first start needs all of them")

func (n *Node) bound() bool { return len(n.state.Meta().ClusterId) > 0 }

// Now estimates cluster time, in milliseconds since the Unix epoch.
func (n *Node) Now() int64 {
	if _, ok := n.clock.skew(); !ok {
		return n.state.Meta().Time
	}
	return n.clock.now()
}

// latest is the later of this node's wall clock and cluster time, and false
// while neither is to be relied on: until the leader has told this process the
// time, there is only the wall clock, and one that is behind an entry already
// applied is known to be wrong.
func (n *Node) latest() (int64, bool) {
	_, told := n.clock.skew()
	wall, now := n.cfg.Clock().UnixMilli(), n.Now()
	return max(wall, now), told || wall+n.cfg.MaxClockSkew.Milliseconds() >= now
}

// Drain makes the node not ready, ends the waits for keys in flight, and hands
// leadership on, if it leads, to one that answers and has caught up: it waits some seconds
// for that. The node goes on answering: what it no longer leads, it forwards.
func (n *Node) Drain(ctx context.Context) error {
	n.ready.drain()
	n.drainOnce.Do(func() { close(n.drained) })
	select {
	case <-n.running:
	default:
		return nil
	}
	var err error
	for range 3 {
		if n.raft.State() != raft.Leader || len(n.servers()) == 1 || ctx.Err() != nil {
			return ctx.Err()
		}
		if err = n.handOver(ctx, ""); err == nil {
			return nil
		}
	}
	return fmt.Errorf("hand leadership on: %w", err)
}

// closeTimeout bounds the wait for raft, which may never end a future or an
// RPC (hashicorp/raft#498). It is long: what raft has not ended by then goes on
// beside files that are closed. Who cannot wait bounds the wait for Close.
const closeTimeout = 20 * time.Second

// Close stops the node and waits for all that it started. While a disk hangs
// it does not return.
func (n *Node) Close() error {
	n.stopOnce.Do(func() {
		n.ready.drain()
		close(n.stopped)
		n.cancel()
	})
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	<-n.started
	n.links.close()
	var err error
	select {
	case <-n.running:
		// Raft waits for its RPCs before it closes its transport, so the
		// connections under them are closed first.
		f := n.raft.Shutdown()
		n.raftTrans.Close()
		n.peers.Close()
		ended := make(chan struct{})
		time.AfterFunc(closeTimeout, func() { close(ended) })
		err = await(f, ended)
	default:
		n.peers.Close()
	}
	n.wg.Wait()
	if n.proposer != nil {
		n.proposer.wg.Wait()
	}
	n.met.unregister()
	return errors.Join(err, n.closeFiles())
}

func (n *Node) closeFiles() error {
	var errs []error
	if n.peers != nil {
		errs = append(errs, n.peers.Close())
	}
	if n.logs != nil {
		errs = append(errs, n.logs.Close())
	}
	if n.stable != nil {
		errs = append(errs, n.stable.Close())
	}
	if n.state != nil {
		errs = append(errs, n.state.Close())
	}
	if n.dir != nil {
		errs = append(errs, n.dir.Close())
	}
	n.cancel()
	return errors.Join(errs...)
}
