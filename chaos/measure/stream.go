//go:build linux

package measure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/onced/onced/chaos/fault"
	"github.com/onced/onced/chaos/node"
)

const (
	// callWithin is above what a node takes before it gives up on a request.
	callWithin = 20 * time.Second
	// every is between two calls of a client: they begin by the clock, however
	// long those before take.
	every = 20 * time.Millisecond
	// settledAfter is how many calls of each client succeed before what is seen
	// is taken for normal.
	settledAfter  = 10
	settledWithin = 60 * time.Second
	lookEvery     = 5 * time.Millisecond
)

// stream is a light and steady load. Each client makes a call with a new key
// every 20 ms, and never makes one twice.
type stream struct {
	began   time.Time
	clients []client
	ended   func()
	running sync.WaitGroup

	mu      sync.Mutex
	calls   []call
	waiting []map[time.Duration]int // calls under way by when they were sent, for each client
}

// client sends one request and returns what went wrong.
type client func(ctx context.Context, key string) error

func create(ctx context.Context, m *fault.Member, key string) error {
	_, err := m.Call(ctx, http.MethodPost, "/create", request(key))
	return err
}

func request(key string) string { return fmt.Sprintf(`{"idempotencyKey":%q,"data":1}`, key) }

// clientsOf are one client for each node that knows no other.
func clientsOf(members []*fault.Member) (clients []client) {
	for _, m := range members {
		clients = append(clients, func(ctx context.Context, key string) error { return create(ctx, m, key) })
	}
	return clients
}

// balanced is a client that takes the nodes by turns, and the next one where a
// connection is refused: what a load balancer does.
func balanced(members []*fault.Member) client {
	var mu sync.Mutex
	turn := 0
	return func(ctx context.Context, key string) (err error) {
		mu.Lock()
		turn++
		first := turn
		mu.Unlock()
		for i := range members {
			err = create(ctx, members[(first+i)%len(members)], key)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
		}
		return err
	}
}

// startStream starts the clients; stop ends them.
func startStream(ctx context.Context, name string, clients ...client) *stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{began: time.Now(), clients: clients, ended: cancel}
	for range clients {
		s.waiting = append(s.waiting, map[time.Duration]int{})
	}
	for i := range clients {
		s.running.Go(func() { s.run(ctx, i, name) })
	}
	return s
}

func (s *stream) run(ctx context.Context, client int, name string) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
			s.running.Go(func() { s.call(ctx, client, fmt.Sprintf("%s-%d-%d", name, client, n)) })
		case <-ctx.Done():
			return
		}
	}
}

func (s *stream) call(ctx context.Context, client int, key string) {
	bound, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	sent := s.now()
	s.mu.Lock()
	s.waiting[client][sent]++
	s.mu.Unlock()
	err := s.clients[client](bound, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[client][sent]--; s.waiting[client][sent] == 0 {
		delete(s.waiting[client], sent)
	}
	if ctx.Err() == nil { // else it was broken off here
		s.calls = append(s.calls, call{client, sent, s.now(), failureOf(err)})
	}
}

// failureOf names what a client saw go wrong.
func failureOf(err error) string {
	var refused *node.Refusal
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return fmt.Sprintf("status %d", refused.Status)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return "connection broken"
}

func (s *stream) now() time.Duration { return time.Since(s.began) }

// stop ends the load and waits for it.
func (s *stream) stop() {
	s.ended()
	s.running.Wait()
}

// of are the calls so far of some clients.
func (s *stream) of(clients ...int) []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c call) bool { return !slices.Contains(clients, c.client) })
}

// settle waits until some calls of each of the clients that were sent after
// since have succeeded, and none sent before that is under way.
func (s *stream) settle(ctx context.Context, since time.Duration, clients ...int) error {
	ctx, cancel := context.WithTimeout(ctx, settledWithin)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !s.settled(since, clients) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for successes of every client: %w", ctx.Err())
		}
	}
	return nil
}

func (s *stream) settled(since time.Duration, clients []int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	successes := map[int]int{}
	for _, c := range slices.Backward(s.calls) {
		if c.done < since {
			break // they are in the order of their ends
		}
		if c.sent >= since && c.failure == "" {
			successes[c.client]++
		}
	}
	for _, c := range clients {
		if successes[c] < settledAfter {
			return false
		}
		for sent := range s.waiting[c] {
			if sent < since {
				return false
			}
		}
	}
	return true
}
