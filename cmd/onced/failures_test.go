package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestARetryOnAnotherNodeSeesTheSameAnswer(t *testing.T) {
	c := startProcesses(t, 3)
	first := c.mustCreate(0, "order-7", `{"name":"Alice","email":"alice@example.com"}`)
	for i := range c.nodes {
		again := c.mustCreate(i, "order-7", `{"name":"Alice","email":"alice@example.com"}`)
		if !again.replayed || again.body != first.body {
			t.Errorf("retry on %s: %+v, first was %+v", c.nodes[i].id, again, first)
		}
		other, err := c.create(i, "order-7", `{"name":"Bob"}`)
		if err != nil || other.status != http.StatusUnprocessableEntity {
			t.Errorf("another payload on %s: %v %+v", c.nodes[i].id, err, other)
		}
	}
}

func TestKillingTheLeaderUnderLoadFailsNoRequestOfTheOthers(t *testing.T) {
	c := startProcesses(t, 3)
	for round := range 3 {
		leader := c.leader()
		l := c.load(8, c.others(leader)...)
		l.awaitMore(200)
		c.kill(leader)
		l.awaitMore(200)
		l.end()
		l.noFailures()
		c.start(leader)
		c.awaitReady()
		l.allStand()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	c.agree()
}

func TestStoppingAnyNodeUnderLoadFailsNoRequestOfTheOthers(t *testing.T) {
	t.Parallel()
	c := startProcesses(t, 3)
	for i := range c.nodes {
		l := c.load(8, c.others(i)...)
		l.awaitMore(100)
		if status := c.terminate(i); status != 0 {
			t.Errorf("%s exited with %d\n%s", c.nodes[i].id, status, c.nodes[i].log)
		}
		l.awaitMore(100)
		c.start(i)
		c.awaitReady()
		l.awaitMore(100)
		l.end()
		l.noFailures()
		l.allStand()
	}
	// And once more the node that leads for certain.
	leader := c.leader()
	l := c.load(8, c.others(leader)...)
	l.awaitMore(100)
	if status := c.terminate(leader); status != 0 {
		t.Errorf("the leader exited with %d", status)
	}
	l.awaitMore(100)
	l.end()
	l.noFailures()
	c.start(leader)
	c.awaitReady()
	c.agree()
}

func TestWithAMajorityGoneNewKeysGet503AndCompletedOnesAreReplayed(t *testing.T) {
	t.Parallel()
	c := startProcesses(t, 3, "--request-timeout", "2s")
	first := c.mustCreate(0, "kept", `1`)
	c.eventually("every node to have applied it", func() bool {
		for i := range c.nodes {
			if a := c.mustCreate(i, "kept", `1`); !a.replayed {
				return false
			}
		}
		return true
	})
	c.agree()
	c.kill(1)
	c.kill(2)
	claimed, err := client.Post("http://"+c.nodes[0].http+"/v1/keys/new/claim", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	claimed.Body.Close()
	if claimed.StatusCode != http.StatusServiceUnavailable || claimed.Header.Get("Retry-After") == "" {
		t.Errorf("claim without a majority: %d, Retry-After %q", claimed.StatusCode, claimed.Header.Get("Retry-After"))
	}
	a, err := c.create(0, "new", `1`)
	if err != nil || a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "urn:onced:unavailable") {
		t.Errorf("create without a majority: %v %+v", err, a)
	}
	again := c.mustCreate(0, "kept", `1`)
	if !again.replayed || again.body != first.body {
		t.Errorf("replay without a majority: %+v, first was %+v", again, first)
	}
	c.start(1)
	c.start(2)
	c.awaitReady()
	c.mustCreate(2, "later", `1`)
}

func TestKillingAllNodesAtOnceUnderLoadLosesNoAnswer(t *testing.T) {
	c := startProcesses(t, 3)
	l := c.load(12, 0, 1, 2)
	l.awaitMore(300)
	if a := c.call(0, "POST", "/v1/keys/last/claim", `{"lease":"1h"}`); a.status != http.StatusCreated {
		t.Fatalf("claim: %+v", a)
	}
	var wg sync.WaitGroup
	for i := range c.nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c.signal(i, syscall.SIGKILL)
		}()
	}
	wg.Wait()
	for i := range c.nodes {
		c.awaitExit(i)
	}
	l.end()
	for i := range c.nodes {
		c.start(i)
	}
	for i, p := range c.nodes {
		c.eventually(p.id+" to be ready", func() bool { return c.ready(i) })
		// A node that is ready has all that was acknowledged in its own state.
		if a := c.call(i, "GET", "/v1/keys/last?consistency=local", ""); a.status != http.StatusOK {
			t.Errorf("%s is ready and has no record of what was claimed before: %+v", p.id, a)
		}
	}
	l.allStand()
	c.agree()
}

func TestANodeKilledWhileWritingCatchesUpAndIsRight(t *testing.T) {
	t.Parallel()
	c := startProcesses(t, 3)
	follower := c.others(c.leader())[0]
	l := c.load(8, c.others(follower)...)
	for range 3 {
		l.awaitMore(100)
		c.kill(follower)
		l.awaitMore(100)
		c.start(follower)
		c.awaitReady()
	}
	l.end()
	l.noFailures()
	l.allStand()
	c.agree()
}

func TestAPausedLeaderIsReplacedAndServesNothingStaleWhenItWakes(t *testing.T) {
	c := startProcesses(t, 3)
	paused := c.leader()
	others := c.others(paused)
	c.signal(paused, syscall.SIGSTOP)
	c.eventually("another leader", func() bool {
		a, err := c.create(others[0], "while-paused", `1`)
		return err == nil && a.status == http.StatusCreated
	})
	first := c.mustCreate(others[1], "while-paused", `1`)
	// A request parked in the socket of the paused node is answered when it
	// wakes: with the truth.
	parked := make(chan answer, 1)
	go func() {
		a, _ := c.create(paused, "while-paused", `1`)
		parked <- a
	}()
	c.signal(paused, syscall.SIGCONT)
	if got := <-parked; got.status != http.StatusCreated || got.body != first.body || !got.replayed {
		t.Errorf("the woken node answered %+v, first answer was %+v", got, first)
	}
	c.awaitReady()
	c.agree()
}

func TestAWipedNodeIsRefusedAndNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	c := startProcesses(t, 3)
	// n3 is down while 5 keys are acknowledged by n1 and n2 alone; then n2
	// loses its disk, and n1 goes: n2 and n3 must not make a majority.
	c.kill(2)
	want := map[string]answer{}
	for i := range 5 {
		key := fmt.Sprintf("kept-%d", i)
		want[key] = c.mustCreate(0, key, `{"n":1}`)
	}
	c.kill(1)
	c.kill(0)
	if err := os.RemoveAll(c.nodes[1].dir); err != nil {
		t.Fatal(err)
	}
	c.start(1)
	c.start(2)
	c.eventually("the wiped node to say what to do", func() bool {
		return strings.Contains(c.nodes[1].log.String(), "--join")
	})
	if c.ready(1) {
		t.Error("the wiped node is ready")
	}
	if a, err := c.create(2, "lost?", `1`); err == nil && a.status == http.StatusCreated {
		t.Error("a wiped node made a majority with one that lagged")
	}
	c.start(0)
	c.eventually("n1 and n3 to serve", func() bool { return c.ready(0) && c.ready(2) })
	for key, first := range want {
		if got := c.mustCreate(2, key, `{"n":1}`); !got.replayed || got.body != first.body {
			t.Errorf("%s after the wipe: %+v, first was %+v", key, got, first)
		}
	}
	if c.ready(1) {
		t.Error("the wiped node is ready")
	}
}

func TestANodeWipedBeforeAnotherHadEverStartedLosesNothing(t *testing.T) {
	c := newProcesses(t, 3, "--request-timeout", "1s")
	c.start(0)
	c.start(1)
	c.eventually("n1 to serve", func() bool {
		status, _, err := c.get(0, "/livez")
		return err == nil && status == http.StatusOK
	})
	if a, err := c.create(0, "early", `1`); err != nil || a.status != http.StatusServiceUnavailable {
		t.Errorf("a create before the third node ever started: %v %+v, want 503", err, a)
	}
	c.kill(1)
	if err := os.RemoveAll(c.nodes[1].dir); err != nil {
		t.Fatal(err)
	}
	c.start(1)
	c.start(2)
	c.awaitReady()
	c.mustCreate(1, "early", `1`)
	c.agree()
}

func TestADataDirectoryOfAnotherClusterEndsTheNode(t *testing.T) {
	c := startProcesses(t, 3)
	for i := range c.nodes {
		c.terminate(i)
	}
	other := c.nodes[0].dir
	for _, p := range c.nodes {
		p.dir += "-new"
	}
	for i := range c.nodes {
		c.start(i)
	}
	c.awaitReady()
	c.terminate(0)
	c.nodes[0].dir = other
	c.start(0)
	c.awaitExit(0)
	if status := c.nodes[0].cmd.ProcessState.ExitCode(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	said := strings.TrimSpace(c.nodes[0].log.String())
	last := said[strings.LastIndexByte(said, '\n')+1:]
	if !strings.HasPrefix(last, "onced: node n1 cannot go on: its data directory is of another cluster") || !strings.Contains(last, "--data-dir") {
		t.Errorf("its last line: %s", last)
	}
	c.mustCreate(1, "unharmed", `1`)
}
