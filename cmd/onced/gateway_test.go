package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// retryRoute is one on which a claim that lapsed may be taken over.
const retryRoute = `
routes:
  - path: /held/retry/{rest:.*}
    on-lapse: retry
    lease: 3s
`

func TestOfFiftyClientsWithOneKeyOnThreeNodesOneRuns(t *testing.T) {
	g := startGated(t, 3, retryRoute)
	const clients, path, key = 50, "/held/a", "order-1"
	replies := make([]*reply, clients)
	var all sync.WaitGroup
	var refused atomic.Int64
	for i := range clients {
		all.Go(func() {
			if i%2 == 0 {
				replies[i] = g.send(i%3, path, key, "Prefer", "wait=30")
				return
			}
			replies[i] = g.send(i%3, path, key)
			refused.Add(1)
		})
	}
	g.awaitHits(key, 1)
	// One of those that do not wait may be the one that runs.
	g.eventually("those that do not wait to be refused", func() bool { return refused.Load() >= clients/2-1 })
	g.up.open(path)
	all.Wait()
	ran := 0
	for i, r := range replies {
		if i%2 == 1 && r.status == http.StatusConflict {
			r.wantsProblem(http.StatusConflict, "in-progress")
			continue
		}
		r.wants(http.StatusCreated, "run 1 of order-1")
		if r.header.Get("Idempotent-Replayed") == "" {
			ran++
		} else {
			r.wantsReplay(http.StatusCreated, "run 1 of order-1")
		}
		if applied := r.header.Get("Preference-Applied"); i%2 == 0 && applied != "wait=30" {
			t.Errorf("client %d: Preference-Applied is %q", i, applied)
		}
	}
	if ran != 1 {
		t.Errorf("%d clients were answered as the first", ran)
	}
	g.ranAs(0, key, "completed", 1, 1)
}

func TestAClientThatHangsUpLeavesARunThatIsRecorded(t *testing.T) {
	g := startGated(t, 3, retryRoute)
	const path, key = "/held/a", "order-1"
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan *reply, 1)
	go func() { gone <- g.sendWithin(ctx, 0, path, key) }()
	g.awaitHits(key, 1)
	hangUp()
	if r := <-gone; r.err == nil {
		t.Fatalf("the client was answered with %d", r.status)
	}
	g.ranAs(1, key, "claimed", 1, 1)
	g.up.open(path)
	g.awaitState(1, key, "completed")
	for i := range 3 {
		g.until(i, path, key).wantsReplay(http.StatusCreated, "run 1 of order-1")
	}
	g.ranAs(2, key, "completed", 1, 1)
}

// eachHolder runs a test with the claim held through the leader, and through a
// follower.
func eachHolder(t *testing.T, test func(t *testing.T, g *gated, holder int, rest []int)) {
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel() // each mostly waits
			g := startGated(t, 3, retryRoute, "--gateway-lease", "3s")
			holder := g.leader()
			if role == "follower" {
				holder = g.others(holder)[0]
			}
			test(t, g, holder, g.others(holder))
		})
	}
}

func TestAHolderThatIsKilledLeavesTheOutcomeUnknownWhereThePolicyIsBlock(t *testing.T) {
	t.Parallel()
	eachHolder(t, func(t *testing.T, g *gated, holder int, rest []int) {
		const path, key = "/held/a", "order-1"
		first := g.holding(holder, path, key)
		g.send(rest[0], path, key).wantsProblem(http.StatusConflict, "in-progress")
		g.kill(holder)
		if r := <-first; r.err == nil {
			t.Fatalf("a killed node answered %d", r.status)
		}
		g.until(rest[0], path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		g.up.open(path)
		g.send(rest[1], path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		g.start(holder)
		g.awaitReady()
		g.send(holder, path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		g.ranAs(rest[0], key, "unknown", 1, 1)
	})
}

func TestAHolderThatIsKilledIsTakenOverWhereThePolicyIsRetry(t *testing.T) {
	t.Parallel()
	eachHolder(t, func(t *testing.T, g *gated, holder int, rest []int) {
		const path, key = "/held/retry/a", "order-1"
		first := g.holding(holder, path, key)
		g.send(rest[0], path, key).wantsProblem(http.StatusConflict, "in-progress")
		g.kill(holder)
		if r := <-first; r.err == nil {
			t.Fatalf("a killed node answered %d", r.status)
		}
		second := make(chan *reply, 1)
		go func() { second <- g.until(rest[0], path, key) }()
		g.grow(g.awaitHits(key, 2))
		g.up.open(path)
		(<-second).wantsFirst(http.StatusCreated, "run 2 of order-1")
		g.send(rest[1], path, key).wantsReplay(http.StatusCreated, "run 2 of order-1")
		g.ranAs(rest[1], key, "completed", 2, 2)
	})
}

// grow checks that fences grow, and attempts by one.
func (g *gated) grow(hits []hit) {
	g.t.Helper()
	last := 0
	for i, h := range hits {
		fence, err := strconv.Atoi(h.Fence)
		if err != nil || fence <= last || h.Attempt != strconv.Itoa(i+1) {
			g.t.Fatalf("fences or attempts do not grow: %+v", hits)
		}
		last = fence
	}
}

func TestAPausedHolderThatWasTakenOverNeverAnswersAsIfItWereStored(t *testing.T) {
	t.Parallel()
	eachHolder(t, func(t *testing.T, g *gated, holder int, rest []int) {
		const path, key = "/held/retry/a", "order-1"
		first := g.holding(holder, path, key)
		g.signal(holder, syscall.SIGSTOP)
		second := make(chan *reply, 1)
		go func() { second <- g.until(rest[0], path, key) }()
		g.grow(g.awaitHits(key, 2))
		g.up.open(path)
		(<-second).wantsFirst(http.StatusCreated, "run 2 of order-1")
		g.signal(holder, syscall.SIGCONT)
		(<-first).wantsProblem(http.StatusGatewayTimeout, "outcome-unknown")
		for _, i := range rest {
			g.send(i, path, key).wantsReplay(http.StatusCreated, "run 2 of order-1")
		}
		g.until(holder, path, key).wantsReplay(http.StatusCreated, "run 2 of order-1")
		g.ranAs(rest[0], key, "completed", 2, 2)
	})
}

func TestAPausedHolderThatNoOneFollowedCompletesWhenItWakes(t *testing.T) {
	t.Parallel()
	eachHolder(t, func(t *testing.T, g *gated, holder int, rest []int) {
		const path, key = "/held/a", "order-1"
		first := g.holding(holder, path, key)
		g.signal(holder, syscall.SIGSTOP)
		g.until(rest[0], path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		g.up.open(path)
		g.send(rest[1], path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		g.signal(holder, syscall.SIGCONT)
		(<-first).wantsFirst(http.StatusCreated, "run 1 of order-1")
		for i := range 3 {
			g.until(i, path, key).wantsReplay(http.StatusCreated, "run 1 of order-1")
		}
		g.ranAs(rest[0], key, "completed", 1, 1)
	})
}

func TestAHolderThatIsCutOffAnswers504AndItsOutcomeIsCommittedLater(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel() // each mostly waits
			g := startGated(t, 3, "", "--request-timeout", "2s")
			const path, key = "/held/a", "order-1"
			holder := g.leader()
			if role == "follower" {
				holder = g.others(holder)[0]
			}
			first := g.holding(holder, path, key)
			for _, i := range g.others(holder) {
				g.signal(i, syscall.SIGSTOP)
			}
			g.up.open(path)
			(<-first).wantsProblem(http.StatusGatewayTimeout, "outcome-unknown")
			for _, i := range g.others(holder) {
				g.signal(i, syscall.SIGCONT)
			}
			g.awaitState(g.others(holder)[0], key, "completed")
			for i := range 3 {
				g.until(i, path, key).wantsReplay(http.StatusCreated, "run 1 of order-1")
			}
			g.ranAs(holder, key, "completed", 1, 1)
		})
	}
}

func TestALeaderThatDiesBetweenClaimAndCompletionIsNotNoticed(t *testing.T) {
	g := startGated(t, 3, "")
	const path, key = "/held/a", "order-1"
	leader := g.leader()
	rest := g.others(leader)
	first := g.holding(rest[0], path, key)
	g.kill(leader)
	g.up.open(path)
	(<-first).wantsFirst(http.StatusCreated, "run 1 of order-1")
	g.send(rest[1], path, key).wantsReplay(http.StatusCreated, "run 1 of order-1")
	g.start(leader)
	g.awaitReady()
	g.send(leader, path, key).wantsReplay(http.StatusCreated, "run 1 of order-1")
	g.ranAs(leader, key, "completed", 1, 1)
}

func TestAStopCutsOffARunThatTakesTooLongAndItIsNotRunAgain(t *testing.T) {
	t.Parallel()
	g := startGated(t, 3, "")
	const path, key = "/held/a", "order-1"
	first := g.holding(0, path, key)
	if status := g.terminate(0); status != 0 {
		t.Errorf("it exited with %d", status)
	}
	if r := <-first; r.err == nil {
		r.wantsProblem(http.StatusGatewayTimeout, "outcome-unknown")
	}
	g.until(1, path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
	g.ranAs(2, key, "unknown", 1, 1)
}

func TestAStopWaitsForTheGatewayRequestInHand(t *testing.T) {
	g := startGated(t, 3, "")
	for i := range g.nodes {
		path, key := fmt.Sprintf("/held/%d", i), fmt.Sprintf("order-%d", i)
		first := g.holding(i, path, key)
		g.signal(i, syscall.SIGTERM)
		g.eventually("the node to drain", func() bool { return !g.ready(i) })
		if !g.nodes[i].up() {
			t.Fatalf("%s ended with a request in hand\n%s", g.nodes[i].id, g.nodes[i].log)
		}
		g.up.open(path)
		(<-first).wantsFirst(http.StatusCreated, "run 1 of "+key)
		g.awaitExit(i)
		if status := g.nodes[i].cmd.ProcessState.ExitCode(); status != 0 {
			t.Errorf("%s exited with %d\n%s", g.nodes[i].id, status, g.nodes[i].log)
		}
		other := g.others(i)[0]
		g.until(other, path, key).wantsReplay(http.StatusCreated, "run 1 of "+key)
		g.ranAs(other, key, "completed", 1, 1)
		g.start(i)
		g.awaitReady()
	}
}
