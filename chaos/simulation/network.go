package simulation

import (
	"math/rand/v2"
	"sync"
	"time"
)

// dice is chance, from the seed alone. It may be shared: under WebAssembly the
// order of those who throw it is the same in every run, too.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newDice(seed, stream uint64) *dice { return &dice{r: rand.New(rand.NewPCG(seed, stream))} }

func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64()
}

func (d *dice) happens(p float64) bool { return p > 0 && d.float() < p }

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// between is uniform in [low, high).
func (d *dice) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.float()*float64(high-low))
}

// rule is what a fault does to what goes from one host to another. An empty
// name is any host.
type rule struct {
	from, to string
	cut      bool          // nothing gets through
	late     time.Duration // how much later a thing comes at most
	lose     float64       // the share of raft's messages that is lost
	double   float64       // and that comes twice
	spoil    float64       // and whose entries have a bit flipped
	fault    *Fault        // whose evidence it is
}

func (r *rule) matches(from, to string) bool {
	return (r.from == "" || r.from == from) && (r.to == "" || r.to == to)
}

// network is all that is between the hosts.
type network struct {
	dice *dice

	mu      sync.Mutex
	rules   []*rule
	changed chan struct{} // closed, and replaced, when the rules change
	ports   map[string]*port
	conns   map[*pipe]struct{}
	serial  uint64        // of the last end of a connection
	watch   func(message) // sees every message of raft's that arrives

	running sync.WaitGroup // messages on their way a second time
}

func newNetwork(d *dice) *network {
	return &network{dice: d, changed: make(chan struct{}), ports: map[string]*port{}, conns: map[*pipe]struct{}{}}
}

// add puts rules in force and returns what ends them.
func (n *network) add(rules ...*rule) (remove func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules = append(n.rules, rules...)
	n.change()
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		kept := n.rules[:0:0]
		for _, r := range n.rules {
			ended := false
			for _, e := range rules {
				ended = ended || r == e
			}
			if !ended {
				kept = append(kept, r)
			}
		}
		n.rules = kept
		n.change()
	}
}

// change is called with mu held.
func (n *network) change() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// isCut tells whether nothing goes from one host to another now, and returns a
// channel that is closed when that may have changed.
func (n *network) isCut(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.rules {
		if r.cut && r.matches(from, to) {
			r.fault.bite()
			return true, n.changed
		}
	}
	return false, n.changed
}

// fate is what becomes of one message.
type fate struct {
	delay                 time.Duration
	lost, doubled, spoilt bool
}

// usual is how long anything takes from host to host.
const usualLeast, usualMost = 100 * time.Microsecond, time.Millisecond

func (n *network) fate(from, to string) fate {
	f := fate{delay: n.dice.between(usualLeast, usualMost)}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.rules {
		if !r.matches(from, to) {
			continue
		}
		bitten := r.cut
		f.lost = f.lost || r.cut
		if r.late > 0 {
			f.delay += n.dice.between(0, r.late)
			bitten = true
		}
		if n.dice.happens(r.lose) {
			f.lost, bitten = true, true
		}
		if n.dice.happens(r.double) {
			f.doubled, bitten = true, true
		}
		if n.dice.happens(r.spoil) {
			f.spoilt = true // it bites if there is an entry to spoil
		}
		if bitten {
			r.fault.bite()
		}
	}
	return f
}

// spoiler is the fault that spoils what goes from one host to another.
func (n *network) spoiler(from, to string) *Fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.rules {
		if r.spoil > 0 && r.matches(from, to) {
			return r.fault
		}
	}
	return nil
}

// reset breaks the connections for which broken returns true, and returns how
// many there were.
func (n *network) reset(broken func(from, to string) bool) int {
	n.mu.Lock()
	var all []*pipe
	for c := range n.conns {
		if broken(c.from, c.to) {
			all = append(all, c)
		}
	}
	n.mu.Unlock()
	sortPipes(all)
	for _, c := range all {
		c.kill()
	}
	return len(all)
}

func (n *network) port(addr string) *port {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ports[addr]
}
