package main

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// orders are clients that post under keys of their own through the gateways. A
// client that gets no answer, or is told to come again, does so on the next
// node, as a load balancer's would.
type orders struct {
	g    *gated
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	bodies   map[string]string // first answers, by key
	failures []string
	retries  int
}

func (g *gated) orders(workers int) *orders {
	o := &orders{g: g, stop: make(chan struct{}), bodies: map[string]string{}}
	for w := range workers {
		o.wg.Go(func() { o.work(w) })
	}
	return o
}

func (o *orders) work(w int) {
	for n := 0; ; n++ {
		select {
		case <-o.stop:
			return
		default:
		}
		key := fmt.Sprintf("order-%d-%d", w, n)
		r, tries := o.place(key, w+n)
		o.mu.Lock()
		o.retries += tries
		if r.err == nil && r.status == http.StatusCreated {
			o.bodies[key] = r.body
		} else {
			o.failures = append(o.failures, fmt.Sprintf("%s: %d %s, %v", key, r.status, r.body, r.err))
		}
		o.mu.Unlock()
	}
}

// place sends one order until it has an answer that is not to be retried.
func (o *orders) place(key string, node int) (r *reply, tries int) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); tries++ {
		r = o.g.send((node+tries)%len(o.g.nodes), "/answers", key)
		if r.err == nil && !r.is(http.StatusServiceUnavailable, "unavailable") && !r.is(http.StatusConflict, "in-progress") {
			return r, tries
		}
	}
	return r, tries
}

func (o *orders) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.bodies)
}

func (o *orders) awaitMore(n int) {
	o.g.t.Helper()
	want := o.count() + n
	o.g.eventually(fmt.Sprintf("%d more orders", n), func() bool { return o.count() >= want })
}

func (o *orders) end() {
	close(o.stop)
	o.wg.Wait()
}

func TestARollingRestartUnderKeyedLoadFailsNoClientAndRunsNoKeyTwice(t *testing.T) {
	g := startGated(t, 3, "")
	o := g.orders(8)
	for i := range g.nodes {
		o.awaitMore(100)
		if status := g.terminate(i); status != 0 {
			t.Errorf("%s exited with %d\n%s", g.nodes[i].id, status, g.nodes[i].log)
		}
		o.awaitMore(100)
		g.start(i)
		g.awaitReady()
	}
	o.awaitMore(100)
	o.end()
	t.Logf("%d orders, %d tries more", len(o.bodies), o.retries)
	for i, f := range o.failures {
		if i < 5 {
			t.Error(f)
		}
	}
	runs := map[string]int{}
	for _, h := range g.up.hits("") {
		runs[h.Key]++
		if h.Attempt != "1" {
			t.Errorf("the upstream saw %+v", h)
		}
	}
	if len(o.failures) > 0 || len(runs) != len(o.bodies) {
		t.Errorf("%d orders were answered, %d failed, and the upstream saw %d", len(o.bodies), len(o.failures), len(runs))
	}
	checked := 0
	for key, body := range o.bodies {
		if runs[key] != 1 || body != "run 1 of "+key {
			t.Errorf("%s ran %d times and was answered with %q", key, runs[key], body)
		}
		if checked++; checked%10 == 0 {
			g.send(checked%3, "/answers", key).wantsReplay(http.StatusCreated, body)
		}
	}
	g.agree()
}
