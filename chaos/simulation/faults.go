package simulation

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// kind is one kind of fault: it begins, holds for a while, and is healed when
// inject returns.
type kind struct {
	name   string
	weight int
	inject func(*lane, *Fault)
	absent bool // a node is missing meanwhile
}

// lane injects faults one after the other; two lanes, beside one another, make
// every mixture of what is between the nodes with what befalls one of them.
type lane struct {
	*world
	dice  *dice // decides the plan alone: what, to whom, how long
	kinds []kind
}

func (l *lane) hold(least, most time.Duration) { time.Sleep(l.dice.between(least, most)) }

// injectAll injects the faults of the run.
func (w *world) injectAll() {
	lanes := []*lane{
		{w, newDice(w.o.Seed, 10), between},
		{w, newDice(w.o.Seed, 11), within},
	}
	var running sync.WaitGroup
	for i, l := range lanes {
		share := (w.o.Faults + i) / len(lanes)
		running.Go(func() {
			for range share {
				if w.broken() {
					return
				}
				l.hold(0, 150*time.Millisecond)
				l.next()
			}
		})
	}
	running.Wait()
}

func (w *world) broken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

func (l *lane) next() {
	sum := 0
	for _, k := range l.kinds {
		sum += k.weight
	}
	at := l.dice.n(sum)
	for _, k := range l.kinds {
		if at -= k.weight; at < 0 {
			f := &Fault{Kind: k.name}
			l.mu.Lock()
			l.faults = append(l.faults, f)
			l.mu.Unlock()
			l.trace.add("fault %s", f.Kind)
			if k.absent {
				l.during(&l.absences, func() { k.inject(l, f) })
			} else {
				k.inject(l, f)
			}
			l.trace.add("fault %s over %s, %d times", f.Kind, f.Target, f.bites.Load())
			return
		}
	}
}

// somebody is the leader as often as not.
func (l *lane) somebody() *host {
	chosen, leader := l.dice.n(nodes), l.dice.happens(0.4)
	if leading := l.logs.leading(); leader {
		for _, h := range l.all() {
			if h.name == leading {
				return h
			}
		}
	}
	return l.host(chosen)
}

// misled is the host whose clock goes wrong, the same throughout a run: what it
// showed may count on in a leader that has not heard it since, and with another
// one wrong beside it no majority would be right.
func (l *lane) misled() *host { return l.host(int(l.o.Seed % nodes)) }

// two hosts, in an order by chance.
func (l *lane) two() (a, b string) {
	i := l.dice.n(nodes)
	j := (i + 1 + l.dice.n(nodes-1)) % nodes
	return l.host(i).name, l.host(j).name
}

// ruled holds rules in force for a while.
func (l *lane) ruled(least, most time.Duration, rules ...*rule) {
	remove := l.net.add(rules...)
	l.hold(least, most)
	remove()
}

// cut is ruled for rules that keep hosts from one another.
func (l *lane) cut(rules ...*rule) {
	l.during(&l.absences, func() { l.ruled(50*time.Millisecond, 2*time.Second, rules...) })
}

// lastReading is how long a leader may go by what a clock showed before it was
// set right.
const lastReading = 700 * time.Millisecond

// wrongClock sets a clock wrong for a while.
func (l *lane) wrongClock(f *Fault, h *host, ahead time.Duration, rate float64) {
	f.Target = fmt.Sprintf("%s by %v and %+.2f", h.name, ahead, rate)
	l.trace.add("the clock of %s is wrong", f.Target)
	wrong := func() {
		h.clock.set(ahead, rate, f)
		l.hold(100*time.Millisecond, 2*time.Second)
		h.rightClock()
	}
	if ahead < 0 || rate < 0 {
		l.during(&l.slow, wrong)
		l.mu.Lock()
		l.slow[len(l.slow)-1].end += lastReading
		l.mu.Unlock()
	} else {
		wrong()
	}
}

// between are the faults of links and clocks.
var between = []kind{
	{"isolate", 10, func(l *lane, f *Fault) {
		h := l.somebody()
		f.Target = h.name
		l.cut(&rule{from: h.name, cut: true, fault: f}, &rule{to: h.name, cut: true, fault: f})
	}, false},
	{"deafen", 6, func(l *lane, f *Fault) {
		h := l.somebody()
		f.Target = h.name
		l.cut(&rule{to: h.name, cut: true, fault: f})
	}, false},
	{"mute", 6, func(l *lane, f *Fault) {
		h := l.somebody()
		f.Target = h.name
		l.cut(&rule{from: h.name, cut: true, fault: f})
	}, false},
	{"cut-link", 8, func(l *lane, f *Fault) {
		a, b := l.two()
		f.Target = a + "-" + b
		l.cut(&rule{from: a, to: b, cut: true, fault: f}, &rule{from: b, to: a, cut: true, fault: f})
	}, false},
	{"delay", 10, func(l *lane, f *Fault) {
		l.ruled(100*time.Millisecond, time.Second, &rule{late: l.dice.between(5*time.Millisecond, mostLate), fault: f})
	}, false},
	{"delay-link", 8, func(l *lane, f *Fault) {
		a, b := l.two()
		f.Target = a + ">" + b
		l.ruled(100*time.Millisecond, time.Second, &rule{from: a, to: b, late: l.dice.between(5*time.Millisecond, mostLate), fault: f})
	}, false},
	{"lose", 10, func(l *lane, f *Fault) {
		l.ruled(100*time.Millisecond, time.Second, &rule{lose: 0.02 + 0.3*l.dice.float(), fault: f})
	}, false},
	{"double", 10, func(l *lane, f *Fault) {
		l.ruled(100*time.Millisecond, time.Second, &rule{double: 0.5, late: 20 * time.Millisecond, fault: f})
	}, false},
	{"spoil", 6, func(l *lane, f *Fault) {
		l.ruled(100*time.Millisecond, 500*time.Millisecond, &rule{spoil: 0.3, fault: f})
	}, false},
	{"reset", 10, func(l *lane, f *Fault) {
		a, b := l.two()
		f.Target = a + "-" + b
		f.bites.Add(int64(l.net.reset(func(from, to string) bool { return from == a && to == b || from == b && to == a })))
	}, false},
	{"clock-step", 8, func(l *lane, f *Fault) {
		h := l.misled()
		by := []time.Duration{-time.Hour, -time.Second, time.Second, time.Hour, 25 * time.Hour}[l.dice.n(5)]
		l.wrongClock(f, h, by, 0)
	}, false},
	{"clock-drift", 5, func(l *lane, f *Fault) {
		h := l.misled()
		l.wrongClock(f, h, 0, 2*l.dice.float()-1)
	}, false},
}

// within are the faults of processes, disks and membership.
var within = []kind{
	{"kill", 14, func(l *lane, f *Fault) { l.down(f, false, l.somebody()) }, true},
	{"power-cut", 12, func(l *lane, f *Fault) { l.down(f, true, l.somebody()) }, true},
	{"kill-all", 3, func(l *lane, f *Fault) { l.down(f, false, l.all()...) }, true},
	{"power-cut-all", 5, func(l *lane, f *Fault) { l.down(f, true, l.all()...) }, true},
	{"stop", 6, func(l *lane, f *Fault) {
		h := l.somebody()
		f.Target = h.name
		if h.up() == nil {
			return
		}
		f.bite()
		if err := h.stop(); err != nil {
			l.trace.add("%s stops: %v", h.name, err)
		}
		l.hold(0, time.Second)
		l.restart(h)
	}, true},
	{"stall-disk", 12, func(l *lane, f *Fault) {
		l.onDisk(f, func(t *trouble) { t.stall, t.over = f, make(chan struct{}) }, 100*time.Millisecond, 3*time.Second)
	}, true},
	{"slow-disk", 10, func(l *lane, f *Fault) {
		l.onDisk(f, func(t *trouble) { t.slow, t.slowed = 60*time.Millisecond, f }, 100*time.Millisecond, time.Second)
	}, false},
	{"fail-disk", 8, func(l *lane, f *Fault) {
		h := l.onDisk(f, func(t *trouble) { t.failing = f }, 100*time.Millisecond, 600*time.Millisecond)
		l.restart(h)
	}, true},
	{"transfer", 10, func(l *lane, f *Fault) {
		h := l.somebody()
		before := l.logs.leading()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if p := h.up(); p != nil {
			_ = p.node.Transfer(ctx, "") // a leader that is cut off cannot
		}
		if f.Target = l.logs.leading(); f.Target != before {
			f.bite()
		}
	}, false},
	{"lose-disk", 2, func(l *lane, f *Fault) { l.replace(f, func(*host) { f.bite() }) }, true},
	{"rot", 3, func(l *lane, f *Fault) { l.replace(f, nil) }, true},
}

// down ends processes at once, and starts them again after a while.
func (l *lane) down(f *Fault, power bool, hosts ...*host) {
	sum := 0
	for _, h := range hosts {
		bit, lost, broken := h.crash(power)
		if bit {
			f.bite()
			sum += lost
			l.trace.add("%s is down: %d writes lost, %d ends of connections", h.name, lost, broken)
		}
		f.Target += h.name
	}
	l.hold(0, 1500*time.Millisecond)
	for _, h := range hosts {
		l.restart(h)
		l.hold(0, 50*time.Millisecond)
	}
}

// restart starts what is down on a disk that nobody has spoilt: it must start.
func (l *lane) restart(h *host) {
	if err := h.start(); err != nil {
		l.violate("%v", err)
	}
}

// onDisk has a host's disk suffer for a while. A process that has exited over
// it is started again.
func (l *lane) onDisk(f *Fault, trouble func(*trouble), least, most time.Duration) *host {
	h := l.somebody()
	f.Target = h.name
	h.mu.Lock()
	d := h.disk
	h.mu.Unlock()
	d.suffer(trouble)
	l.hold(least, most)
	d.heal()
	l.restart(h)
	return h
}

// heal ends what d suffers.
func (d *disk) heal() {
	d.suffer(func(t *trouble) {
		if t.over != nil && !isClosed(t.over) {
			close(t.over)
		}
		*t = (trouble{})
	})
}

const memberTimeout = 40 * time.Second

// replace takes the disk of a host away, or spoils it if lose is nil. What comes
// up on it must be refused, by the others or by itself; then it is removed, and
// a new host, with a new name and nothing on its disk, takes its place.
func (l *lane) replace(f *Fault, lose func(*host)) {
	place := l.dice.n(nodes)
	old := l.host(place)
	f.Target = old.name
	if !l.agreed() {
		return
	}
	old.crash(false)
	if lose == nil {
		if !old.disk.spoil() {
			l.restart(old)
			return
		}
		l.mu.Lock()
		l.rotten[old.name] = true
		l.mu.Unlock()
		if err := old.start(); err == nil {
			// What was spoilt is behind a snapshot, or is noticed only when it
			// is read: nothing of it may be served.
			l.hold(200*time.Millisecond, time.Second)
		} else {
			f.bite()
			l.trace.add("%v", err)
		}
	} else {
		old.disk = newDisk(old.disk.dice)
		if err := old.start(); err != nil {
			l.violate("%v", err)
			return
		}
		l.hold(500*time.Millisecond, 2*time.Second)
		if p := old.up(); p != nil {
			if err := p.node.Ready(); err == nil {
				l.violate("%s lost its disk, and serves", old.name)
			}
		}
		lose(old)
	}
	old.crash(false)
	l.takePlace(place, old)
}

// agreed waits a while until every node has applied the same member table, all
// of it, and reports whether that came about: a disk is lost for good only then.
// Before, the last change of members may be known to the one that is lost alone.
func (l *lane) agreed() bool {
	for range 100 {
		if l.allReady() && l.sameMembers() {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

func (l *lane) sameMembers() bool {
	first := ""
	for _, h := range l.all() {
		p := h.up()
		if p == nil {
			return false
		}
		names := ""
		for _, m := range p.node.Meta().Members {
			names += m.Id + " "
		}
		if first == "" {
			first = names
		}
		if names != first {
			return false
		}
	}
	for _, h := range l.all() {
		if !strings.Contains(first, h.name+" ") {
			return false
		}
	}
	return strings.Count(first, " ") == nodes
}

// takePlace removes old and adds a new host in its place.
func (l *lane) takePlace(place int, old *host) {
	others := []*host{l.host((place + 1) % nodes), l.host((place + 2) % nodes)}
	l.mu.Lock()
	next := l.newHost(others[0].addr)
	l.mu.Unlock()
	if err := next.start(); err != nil {
		l.violate("%v", err)
		return
	}
	l.admin("remove "+old.name, others, request{method: http.MethodDelete, path: "/v1/cluster/nodes/" + old.name}, 200, 204, 404)
	l.admin("add "+next.name, others, request{method: http.MethodPost, path: "/v1/cluster/nodes",
		body: map[string]any{"id": next.name, "raft_addr": next.addr, "voter": true}}, 200, 201, 204)
	l.mu.Lock()
	l.hosts[place] = next
	l.mu.Unlock()
	l.trace.add("%s takes the place of %s", next.name, old.name)
}

// admin repeats r at each of the hosts until it is answered with success.
func (l *lane) admin(what string, at []*host, r request, success ...int) {
	last := ""
	for began, i := time.Now(), 0; time.Since(began) < memberTimeout; i++ {
		if a := l.send(at[i%len(at)], r); a != nil {
			for _, status := range success {
				if a.status == status {
					return
				}
			}
			last = fmt.Sprintf("%d %s", a.status, a.body)
		}
		time.Sleep(100 * time.Millisecond)
	}
	l.violate("%s: not done in %v: %s", what, memberTimeout, last)
}
