// Package simulation runs a whole cluster in one process, in time that costs
// nothing, over a network, disks and clocks that fail by a seed: the product's
// HTTP handlers, its package cluster, hashicorp/raft and the state machine, as
// they are. Built for wasip1 and run with clocks and chance of the seed's, a run
// can be had again, bit for bit. See docs/simulation.md.
package simulation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/cluster"
)

const (
	nodes   = 3
	clients = 5

	requestTimeout = 2 * time.Second // of a node
	clientTimeout  = 3 * time.Second
	longTTL        = time.Hour

	// honest is how far a clock that no fault has touched may be off.
	honest = 10 * time.Millisecond
	// mostLate is the most that a fault makes a message later.
	mostLate = 300 * time.Millisecond
)

// Options say what is run.
type Options struct {
	Seed uint64
	// Faults is how many are injected.
	Faults int
	// Plant is a bug that is put into the run, to see that it is found.
	Plant Plant
	// Told takes the trace line by line, if it is set.
	Told func(line string)
}

// Report is what came of a run.
type Report struct {
	Seed uint64
	// Tried is how many faults were injected, and Bitten how many of each kind
	// have evidence that they bit.
	Tried  int
	Bitten map[string]int
	Calls  int // of clients
	Acked  int // answered with success
	// Simulated is how long it took in the simulation.
	Simulated time.Duration
	Terms     int // in which there was a leader
	Installs  int // snapshots sent
	// Lines are all that happened, in order, and Trace is the digest of that.
	Trace string
	Lines []string
	// Violations say what the run broke, none if nothing.
	Violations []string
	// Spared is how many early ends were let pass, because no majority of the
	// clocks was right.
	Spared int
	// History is that of the clients' calls, and Margin how much sooner than its
	// time a thing may have ended in it.
	History *history.History
	Margin  time.Duration
	// Examined is how much of it the rules of package check were applied to.
	Examined int
	// Keys is how many keys the history has, and Undecided for how many of them
	// the search for an order was given up: only the rules have judged those.
	Keys, Undecided int
}

// Faults is how many have evidence.
func (r *Report) Faults() int {
	sum := 0
	for _, n := range r.Bitten {
		sum += n
	}
	return sum
}

// Fault is one fault that was injected.
type Fault struct {
	Kind, Target string
	bites        atomic.Int64
}

// bite counts an effect of the fault. One without any is not counted.
func (f *Fault) bite() {
	if f != nil {
		f.bites.Add(1)
	}
}

// trace is all that happened, in order.
type trace struct {
	start time.Time
	told  func(string)

	mu    sync.Mutex
	sum   hash.Hash
	lines []string
}

func (t *trace) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf("%12.6f ", time.Since(t.start).Seconds()) + fmt.Sprintf(format, args...)
	t.sum.Write([]byte(line + "\n"))
	t.lines = append(t.lines, line)
	if t.told != nil {
		t.told(line)
	}
}

// world is one run.
type world struct {
	o       Options
	start   time.Time
	trace   *trace
	log     *slog.Logger
	plant   planted
	net     *network
	logs    *logs
	peers   []cluster.Peer
	running sync.WaitGroup
	newID   func() string

	mu         sync.Mutex
	hosts      []*host // one for each place; it is replaced when its disk is lost
	made       int     // hosts, ever
	faults     []*Fault
	rotten     map[string]bool // hosts whose disks were spoilt: they may say that they failed
	absences   []span          // when a node was down, cut off or replaced
	slow       []span          // when a clock was behind, or lost time
	violations []string
	spared     int
	calls      []*call
}

func newWorld(o Options) *world {
	start := time.Now()
	w := &world{
		o: o, start: start, log: quiet(), plant: planted{o.Plant},
		trace: &trace{start: start, told: o.Told, sum: sha256.New()},
		net:   newNetwork(newDice(o.Seed, 1)), rotten: map[string]bool{},
	}
	w.logs = &logs{world: w, entries: map[place][32]byte{}, leaders: map[uint64]string{}}
	w.net.watch = w.logs.seen
	var ids atomic.Uint64
	w.newID = func() string { return fmt.Sprintf("r%d", ids.Add(1)) }
	if o.Told != nil {
		w.log = slog.New(slog.NewTextHandler(teller{w.trace}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	for range nodes {
		h := w.newHost("")
		w.hosts = append(w.hosts, h)
		w.peers = append(w.peers, cluster.Peer{ID: h.name, Addr: h.addr})
	}
	return w
}

// teller shows what the nodes log beside the trace; it is no part of that.
type teller struct{ *trace }

func (t teller) Write(b []byte) (int, error) {
	t.told("      " + strings.TrimSpace(string(b)))
	return len(b), nil
}

func (w *world) newHost(join string) *host {
	w.made++
	name := fmt.Sprintf("n%d", w.made)
	h := &host{world: w, name: name, addr: name + ":7000", join: join}
	h.disk = newDisk(newDice(w.o.Seed, 100+uint64(w.made)))
	h.disk.liar = w.o.Plant == LyingDisk
	h.rightClock()
	return h
}

// rightClock sets a clock as right as an honest one is.
func (h *host) rightClock() {
	h.clock.set(h.world.net.dice.between(-honest, honest), 0, nil)
}

// place in the cluster.
func (w *world) host(i int) *host {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hosts[i]
}

func (w *world) all() []*host {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*host(nil), w.hosts...)
}

func (w *world) violate(format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	w.trace.add("VIOLATION %s", v)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, v)
}

func (w *world) at(t time.Time) time.Duration { return t.Sub(w.start) }

// span is a while.
type span struct{ begin, end time.Duration }

func (s span) overlaps(t span) bool { return s.begin < t.end && t.begin < s.end }

// during notes when f ran, in the list that into points to.
func (w *world) during(into *[]span, f func()) {
	began := w.at(time.Now())
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	*into = append(*into, span{began, w.at(time.Now())})
}

// timeMayStandStill tells whether in a span one clock was behind while another
// was missing. Then no two clocks that are right are to be had, and a leader
// that nobody has told the time goes by the one that is wrong: what is granted
// meanwhile ends early once the third is back.
func (w *world) timeMayStandStill(s span) bool {
	for _, slow := range w.slow {
		for _, absent := range w.absences {
			if slow.overlaps(s) && slow.overlaps(absent) {
				return true
			}
		}
	}
	return false
}

// place of an entry: no two may differ in both.
type place struct{ index, term uint64 }

// logs watches what raft promises: one leader in a term, and one entry at an
// index of a term.
type logs struct {
	world *world

	mu       sync.Mutex
	entries  map[place][32]byte
	leaders  map[uint64]string
	term     uint64
	leader   string
	installs int
}

func (l *logs) stored(host string, e *raft.Log) {
	sum := sha256.Sum256(e.Data)
	at := place{e.Index, e.Term}
	l.mu.Lock()
	known, ok := l.entries[at]
	l.entries[at] = sum
	l.mu.Unlock()
	if ok && known != sum {
		l.world.violate("entry %d of term %d is another on %s than elsewhere", e.Index, e.Term, host)
	}
}

func (l *logs) seen(m message) {
	var term uint64
	switch r := m.request.(type) {
	case *raft.AppendEntriesRequest:
		term = r.Term
	case *raft.InstallSnapshotRequest:
		term = r.Term
		l.mu.Lock()
		l.installs++
		l.mu.Unlock()
		l.world.trace.add("%s sends %s a snapshot up to %d", m.from, m.to, r.LastLogIndex)
	default:
		return
	}
	l.mu.Lock()
	known, ok := l.leaders[term]
	if !ok {
		l.leaders[term] = m.from
	}
	newer := term > l.term
	if newer {
		l.term, l.leader = term, m.from
	}
	l.mu.Unlock()
	if newer {
		l.world.trace.add("%s leads in term %d", m.from, term)
	}
	if ok && known != m.from {
		l.world.violate("both %s and %s lead in term %d", known, m.from, term)
	}
}

// leading is the host that led last.
func (l *logs) leading() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader
}

// Run runs a cluster through the faults that follow from the seed, and judges
// it. It must be called in a bubble of testing/synctest.
func Run(o Options) *Report {
	w := newWorld(o)
	stopClients := func() {}
	if w.begin() {
		stopClients = w.startClients()
		w.injectAll()
		w.heal()
	}
	stopClients()
	if len(w.violations) == 0 {
		w.readBack()
		w.compare()
	}
	for _, h := range w.all() {
		h.crash(false)
	}
	w.net.running.Wait()
	w.running.Wait()
	w.judge()
	return w.report()
}

func (w *world) report() *Report {
	r := &Report{
		Seed: w.o.Seed, Tried: len(w.faults), Bitten: map[string]int{}, Calls: len(w.calls), Simulated: time.Since(w.start),
		Terms: len(w.logs.leaders), Installs: w.logs.installs, Spared: w.spared, History: w.history(), Margin: w.margin(), Violations: w.violations,
		Trace: hex.EncodeToString(w.trace.sum.Sum(nil)), Lines: w.trace.lines,
	}
	for _, f := range w.faults {
		if f.bites.Load() > 0 {
			r.Bitten[f.Kind]++
		}
	}
	for _, c := range w.calls {
		if c.answer != nil && c.answer.status/100 == 2 {
			r.Acked++
		}
	}
	return r
}

// begin starts the nodes and waits until the cluster has formed.
func (w *world) begin() bool {
	for _, h := range w.all() {
		if err := h.start(); err != nil {
			w.violate("%v", err)
			return false
		}
	}
	return w.await("the cluster has not formed", time.Minute, w.allReady)
}

func (w *world) allReady() bool {
	for _, h := range w.all() {
		p := h.up()
		if p == nil || p.node.Ready() != nil {
			return false
		}
	}
	return true
}

// await waits for cond, looking every 20 ms.
func (w *world) await(otherwise string, limit time.Duration, cond func() bool) bool {
	for began := time.Now(); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > limit {
			why := ""
			for _, h := range w.all() {
				if p := h.up(); p == nil {
					why += "; " + h.name + " is down"
				} else if err := p.node.Ready(); err != nil {
					why += "; " + h.name + ": " + err.Error()
				}
			}
			w.violate("%s in %v%s", otherwise, limit, why)
			return false
		}
	}
	return true
}

// heal starts what is down, and waits until every node serves again.
func (w *world) heal() {
	for _, h := range w.all() {
		if err := h.start(); err != nil {
			w.violate("%v", err)
			return
		}
	}
	w.trace.add("healed")
	w.await("the cluster does not come back", 30*time.Second, w.allReady)
}

// compare compares the states of all nodes, as of one place in the log.
func (w *world) compare() {
	w.await("the nodes do not come to the same place in the log", 20*time.Second, func() bool {
		var index []uint64
		var sums []string
		for _, h := range w.all() {
			p := h.up()
			if p == nil {
				return false
			}
			before := p.node.Meta().AppliedIndex
			sum, err := p.node.Hash()
			if err != nil || p.node.Meta().AppliedIndex != before {
				return false
			}
			index, sums = append(index, before), append(sums, hex.EncodeToString(sum[:]))
		}
		for i := range index {
			if index[i] != index[0] {
				return false
			}
			if sums[i] != sums[0] {
				w.violate("at entry %d the state of %s is not that of %s", index[0], w.host(i).name, w.host(0).name)
			}
		}
		w.trace.add("all nodes hold state %s at entry %d", sums[0][:16], index[0])
		return true
	})
}
