package simulation

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// call is one call of a client.
type call struct {
	client int
	node   string
	verb   string // create, claim, renew, complete, release, fail, get, local
	key    string

	variant string // of the payload, or the fingerprint
	attempt string
	fence   uint64
	lease   time.Duration
	ttl     time.Duration
	block   bool
	sent    string // body of the response sent

	begin, end time.Duration
	answer     *answer // nil: none came
	record     record  // of a 2xx of the Key API
	worked     string  // how the work that it was granted was to end; "": there was none
}

func (c *call) ok() bool { return c.answer != nil && c.answer.status/100 == 2 }

func (c *call) is(problem string) bool { return c.answer != nil && c.answer.problem == problem }

func (c *call) String() string {
	s := fmt.Sprintf("c%d %s %s %s", c.client, c.node, c.verb, c.key)
	if c.variant != "" {
		s += " as " + c.variant
	}
	if c.fence != 0 {
		s += fmt.Sprintf(" fence %d", c.fence)
	}
	if c.sent != "" {
		s += " " + brief(c.sent)
	}
	s += fmt.Sprintf(" since %.6f:", c.begin.Seconds())
	switch {
	case c.answer == nil:
		return s + " no answer"
	case c.answer.problem != "":
		return s + " " + strconv.Itoa(c.answer.status) + " " + c.answer.problem
	}
	s += " " + strconv.Itoa(c.answer.status)
	if c.record.Fence != 0 {
		s += fmt.Sprintf(" %s fence %d", c.record.State, c.record.Fence)
	}
	if c.record.Response != nil {
		s += " " + brief(c.record.Response.Body)
	}
	if c.verb == "create" {
		s += " " + string(c.answer.body)
	}
	return s
}

// brief shortens a long body.
func brief(s string) string {
	if len(s) > 40 {
		s = s[:20] + "…" + s[len(s)-12:]
	}
	return s
}

// client makes calls, one after the other.
type client struct {
	*world
	n     int
	dice  *dice
	stop  <-chan struct{}
	epoch *atomic.Int64 // moves on, and the keys with it
}

// startClients starts the load and returns what ends it and waits.
func (w *world) startClients() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var epoch atomic.Int64
	for i := range clients {
		c := &client{world: w, n: i, dice: newDice(w.o.Seed, 1000+uint64(i)), stop: ctx.Done(), epoch: &epoch}
		running.Go(func() {
			for !isClosed(c.stop) {
				c.step()
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// do makes a call and notes what came of it.
func (c *client) do(call *call, r request) *call {
	h := c.host(c.dice.n(nodes))
	call.client, call.node = c.n, h.name
	call.begin = c.at(time.Now())
	call.answer = c.send(h, r)
	call.end = c.at(time.Now())
	if call.ok() && call.verb != "create" && len(call.answer.body) > 0 {
		call.record = c.world.record(call.answer)
	}
	c.trace.add("%v", call)
	c.mu.Lock()
	c.calls = append(c.calls, call)
	c.mu.Unlock()
	return call
}

// pause is a client's, and ends early when the load does.
func (c *client) pause(low, high time.Duration) {
	timer := time.NewTimer(c.dice.between(low, high))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.stop:
	}
}

// number of a key that is in use now: clients meet on the same ones.
func (c *client) number() int64 {
	at := c.epoch.Load()
	if c.dice.happens(0.12) {
		at = c.epoch.Add(1)
	}
	return max(0, at-int64(c.dice.n(6)))
}

func (c *client) step() {
	n := c.number()
	switch p := c.dice.float(); {
	case p < 0.35:
		c.create(n)
	case p < 0.75:
		c.claimAndWork(n)
	default:
		c.read(n)
	}
	c.pause(5*time.Millisecond, 80*time.Millisecond)
}

// create creates a resource, by one of two payloads of a key; two keys in
// eight have the same unique value.
func (c *client) create(n int64) {
	key := fmt.Sprintf("c%d", n)
	variant := "a"
	if c.dice.happens(0.15) {
		variant = "b"
	}
	email := n
	if n%8 == 7 {
		email = n - 1
	}
	data := map[string]any{"email": fmt.Sprintf("e%d@example.org", email), "of": key + variant}
	r := request{method: http.MethodPost, path: "/create", key: key, body: map[string]any{"data": data}}
	for range 3 {
		call := c.do(&call{verb: "create", key: key, variant: variant}, r)
		if call.answer != nil && !call.is("unavailable") || isClosed(c.stop) {
			return
		}
		c.pause(5*time.Millisecond, 50*time.Millisecond)
	}
}

// terms of a key are the same for all who claim it.
func terms(n int64) (lease, ttl time.Duration, block bool) {
	lease = []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond}[n%3]
	ttl = longTTL
	if n%4 == 3 {
		ttl = 4 * time.Second
	}
	return lease, ttl, n%5 == 4
}

// claimAndWork claims a key and does what a worker may do.
func (c *client) claimAndWork(n int64) {
	lease, ttl, block := terms(n)
	claim := &call{verb: "claim", key: fmt.Sprintf("k%d", n), variant: "a", lease: lease, ttl: ttl, block: block}
	if c.dice.happens(0.1) {
		claim.variant = "b"
	}
	body := map[string]any{"fingerprint": claim.variant, "lease": millis(lease), "ttl": ttl.String()}
	if block {
		body["on_lapse"] = "block"
	}
	if c.dice.happens(0.5) {
		claim.attempt = fmt.Sprintf("t%d-%d", c.n, c.dice.n(1<<30))
		body["attempt_id"] = claim.attempt
	}
	r := request{method: http.MethodPost, path: keyPath(claim.key, "claim"), body: body}
	if c.dice.happens(0.3) {
		r.prefer = "wait=2"
	}
	got := c.do(claim, r)
	if got.answer == nil && claim.attempt != "" {
		again := *claim
		got = c.do(&again, r) // the same attempt, perhaps at another node
	}
	if got.ok() && got.answer.status == http.StatusCreated {
		c.work(got)
	}
}

// work renews, and ends the claim in one of the ways there are, or in none.
func (c *client) work(claim *call) {
	fence := claim.record.Fence
	c.pause(0, claim.lease*5/4)
	if c.dice.happens(0.3) {
		c.write(claim, "renew", map[string]any{"fence": fence, "lease": millis(claim.lease)}, "")
		c.pause(0, claim.lease*5/4)
	}
	switch p := c.dice.float(); {
	case p < 0.70:
		claim.worked = "complete"
		c.complete(claim)
	case p < 0.80:
		claim.worked = "release"
		c.write(claim, "release", map[string]any{"fence": fence}, "")
	case p < 0.85:
		claim.worked = "fail"
		c.write(claim, "fail", map[string]any{"fence": fence}, "")
	default:
		claim.worked = "nothing"
	}
}

func (c *client) complete(claim *call) {
	fence := claim.record.Fence
	body := func(sent string) map[string]any {
		return map[string]any{"fence": fence, "response": map[string]any{"status": 200, "body": sent}}
	}
	sent := fmt.Sprintf("done-%s-%d-%d", claim.key, fence, c.n)
	if fence%7 == 0 {
		sent += fmt.Sprintf("-%01200d", fence) // long enough to be compressed
	}
	for range 3 {
		done := c.write(claim, "complete", body(sent), sent)
		if done.answer != nil && !done.is("unavailable") || isClosed(c.stop) {
			break
		}
	}
	if c.dice.happens(0.1) {
		sent += "-other"
		c.write(claim, "complete", body(sent), sent)
	}
}

func (c *client) write(claim *call, verb string, body map[string]any, sent string) *call {
	w := &call{verb: verb, key: claim.key, fence: claim.record.Fence, lease: claim.lease, ttl: claim.ttl, sent: sent}
	return c.do(w, request{method: http.MethodPost, path: keyPath(claim.key, verb), body: body})
}

func (c *client) read(n int64) {
	_, ttl, _ := terms(n)
	get := &call{verb: "get", key: fmt.Sprintf("k%d", n), ttl: ttl}
	path := keyPath(get.key, "")
	if c.dice.happens(0.3) {
		get.verb = "local"
		path += "?consistency=local"
	}
	c.do(get, request{method: http.MethodGet, path: path})
}

// readBack asks every node for every key that has a long retention, once all is
// well again: what was acknowledged must be there.
func (w *world) readBack() {
	last := int64(-1)
	for _, c := range w.calls {
		var n int64
		if _, err := fmt.Sscanf(c.key[1:], "%d", &n); err == nil {
			last = max(last, n)
		}
	}
	reader := &client{world: w, n: clients, dice: newDice(w.o.Seed, 2000), stop: make(chan struct{})}
	for n := range last + 1 {
		key := fmt.Sprintf("k%d", n)
		_, ttl, _ := terms(n)
		get := reader.do(&call{verb: "get", key: key, ttl: ttl}, request{method: http.MethodGet, path: keyPath(key, "")})
		if get.answer == nil || get.is("unavailable") {
			w.violate("with all well again %s does not answer for %s", get.node, key)
			return
		}
		reader.create(n)
	}
}
