package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

func TestOpening(t *testing.T) {
	o := opening{process: 1<<64 - 1, number: 2}
	good := append(appendFrameHeader(nil, frameOpen, 0, 16), o.append(nil)...)
	if got, err := readOpening(bufio.NewReader(bytes.NewReader(good))); err != nil || got != o {
		t.Errorf("%v comes back as %v (%v)", o, got, err)
	}
	for name, in := range map[string][]byte{
		"another frame":   append(appendFrameHeader(nil, framePropose, 0, 16), o.append(nil)...),
		"one too short":   append(appendFrameHeader(nil, frameOpen, 0, 15), o.append(nil)[:15]...),
		"one too long":    append(appendFrameHeader(nil, frameOpen, 0, 17), o.append([]byte{0})...),
		"one without all": appendFrameHeader(nil, frameOpen, 0, 0),
	} {
		if got, err := readOpening(bufio.NewReader(bytes.NewReader(in))); !errors.Is(err, errOpening) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := readOpening(bufio.NewReader(bytes.NewReader(good[:9]))); err == nil || errors.Is(err, errOpening) {
		t.Errorf("a connection that broke: %v", err)
	}
}

func TestTheNewestConnectionAloneCounts(t *testing.T) {
	const before, now = 11, 5 // processes
	s := (&senders{byID: map[string]*sender{}}).of("n2")
	for _, step := range []struct {
		over             opening
		counts, proposes bool
	}{
		{opening{before, 1}, true, true},
		{opening{before, 3}, true, true},
		{opening{before, 2}, false, false},
		{opening{before, 3}, false, true},
		{opening{now, 1}, true, true},
		{opening{now, 2}, true, true},
		{opening{now, 1}, false, false},
		{opening{before, 4}, true, true}, // which came late
		{opening{now, 2}, false, false},
		{opening{now, 3}, true, true},
	} {
		if err := s.open(step.over); (err == nil) != step.counts {
			t.Errorf("%v is opened: %v", step.over, err)
		}
		proposed := false
		propose := func() {
			if proposed = true; s.mu.TryLock() {
				t.Errorf("%v: another may be opened while it is proposed", step.over)
				s.mu.Unlock()
			}
		}
		if err := s.propose(step.over, propose); (err == nil) != step.proposes || proposed != step.proposes {
			t.Errorf("over %v it is proposed: %v (%v)", step.over, proposed, err)
		}
	}
}

// TestACommandOverAConnectionThatWasLeftIsNotProposed: its sender has sent a copy of
// it over the next one, and may have been answered.
func TestACommandOverAConnectionThatWasLeftIsNotProposed(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader, follower := c.leader(), c.follower()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c.begin(follower, claimOf("other", "", time.Hour, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED) // its own connection comes first
	process := c.nodes[follower].links.process + 1
	connect := func(number uint64) *link {
		l := &link{id: c.peers[leader].ID, dial: c.nodes[follower].dialCommands, opening: opening{process, number - 1}}
		t.Cleanup(l.close)
		return l
	}
	claim := claimOf("left", "", time.Hour, fsm.OnLapse_BLOCK)
	claim.RequestId = []byte("sixteen bytes id")
	encoded, err := c.nodes[follower].encode(ctx, claim)
	if err != nil {
		t.Fatal(err)
	}
	first := connect(1)
	if _, err := first.ask(ctx, framePing, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	f, err := connect(2).ask(ctx, framePropose, encoded)
	if err != nil {
		t.Fatal(err)
	}
	granted, err := decodeResult(f.payload)
	if err != nil || granted.outcome.GetCode() != fsm.Code_GRANTED {
		t.Fatalf("it was answered %+v (%v)", granted, err)
	}
	if _, err := connect(1).ask(ctx, framePing, []byte("{}")); !errors.Is(err, errBroken) && !errors.Is(err, errNotSent) {
		t.Errorf("a connection that comes behind the next one is served: %v", err)
	}
	c.propose(leader, &fsm.Command{Kind: fsm.Kind_RELEASE, Namespace: claim.Namespace, Key: claim.Key, Fence: granted.outcome.Record.Fence}, fsm.Code_OK)
	if late, err := first.ask(ctx, framePropose, encoded); !errors.Is(err, errBroken) && !errors.Is(err, errNotSent) {
		t.Errorf("a copy over the connection before was answered %+v (%v)", late, err)
	}
	if rec := c.read(follower, "left"); rec != nil {
		t.Errorf("it left %v", rec)
	}
}

// TestACopyForWhoLedBeforeChangesNothing: it may come to be read when that node leads
// again, long after its sender was answered.
func TestACopyForWhoLedBeforeChangesNothing(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader, sender := c.leader(), c.follower()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	claim := claimOf("late", "", time.Hour, fsm.OnLapse_BLOCK)
	claim.RequestId = []byte("sixteen bytes id")
	encoded, err := c.nodes[sender].encode(ctx, claim)
	if err != nil {
		t.Fatal(err)
	}
	c.handOver(sender)
	var overLink, inLog result
	// If another is elected between two of these steps they show nothing.
	for tries, oneLed := 0, false; !oneLed; tries++ {
		if tries == 20 {
			t.Fatal("no leader led for as long as it takes")
		}
		c.handOver(leader)
		c.begin(sender, claimOf(fmt.Sprintf("other-%d", tries), "", time.Hour, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED) // it grants
		term := c.nodes[leader].term()
		to, changed := c.nodes[sender].leadership.leader()
		overLink = c.nodes[sender].send(ctx, to, changed, encoded)
		here := make(chan result, 1)
		c.nodes[leader].proposer.propose(proposal{command: encoded, done: func(r result) { here <- r }})
		inLog = <-here
		oneLed = c.leader() == leader && c.nodes[leader].term() == term
	}
	if overLink.verdict != notApplied {
		t.Errorf("the leader answered %+v", overLink)
	}
	if inLog.outcome.GetCode() != fsm.Code_TOO_LATE {
		t.Errorf("in the log it was answered %+v", inLog)
	}
	if rec := c.read(sender, "late"); rec != nil {
		t.Errorf("it left %v", rec)
	}
	// Who waits is served: a command is sent again in the term of the day.
	c.begin(sender, claim, 0, fsm.Code_GRANTED)
}
