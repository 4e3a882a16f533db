package cluster

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/fsm"
)

func TestNobodyIsTriedTwiceInATermUnlessLongAfter(t *testing.T) {
	timeout := errors.New("leadership transfer timeout")
	for _, tt := range []struct {
		name string
		err  error // of the first try, in term 1
		term uint64
		wait time.Duration
		want bool
	}{
		{"after a failure", timeout, 1, 0, false},
		{"after one whose end nobody waited for", context.Canceled, 1, 0, false},
		{"a while after a failure", timeout, 1, handOverAgain - time.Nanosecond, false},
		{"long after a failure", timeout, 1, handOverAgain, true},
		{"in another term", timeout, 2, 0, true},
		{"after a success", nil, 1, 0, true},
		{"after one that did not begin, with another under way", raft.ErrLeadershipTransferInProgress, 1, 0, true},
		{"after one that did not begin, as another led", raft.ErrNotLeader, 1, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := handovers{tried: map[raft.ServerID]try{}}
				if !h.begin("n2", 1) {
					t.Fatal("the first try is refused")
				}
				if h.begin("n2", 1) {
					t.Error("a second try is let begin before the first has ended")
				}
				time.Sleep(time.Minute) // the try takes its time
				h.end("n2", 1, tt.err)
				if !h.begin("n3", 1) {
					t.Error("another heir is refused")
				}
				time.Sleep(tt.wait)
				if got := h.begin("n2", tt.term); got != tt.want {
					t.Errorf("the second try may begin: %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// Its goroutine takes the request of the first try only then.
func TestWhoComesBackIsTriedAgainOnlyLongAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handovers{tried: map[raft.ServerID]try{}}
		h.postpone("n2") // of whom nothing is known
		h.begin("n2", 1)
		h.end("n2", 1, context.DeadlineExceeded)
		time.Sleep(time.Hour)
		h.postpone("n2")
		for _, want := range []bool{false, true} {
			if got := h.begin("n2", 1); got != want {
				t.Errorf("it may be tried: %v, want %v", got, want)
			}
			time.Sleep(handOverAgain)
		}
	})
}

// What the heir is sent is not answered, for its disk hangs. A second transfer
// to it would wait in raft, and for ever once the leader has stepped down.
func TestALeaderThatCouldNotHandLeadershipOnTakesEntriesWhenItLeadsAgain(t *testing.T) {
	disks := hangingDisks(3)
	c := startCluster(t, 3, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: time.Hour}
	})
	at := c.leader()
	leader, heir, other := c.nodes[at], (at+1)%3, (at+2)%3
	disk := disks[c.peers[heir].ID]
	disk.freeze(t)
	c.begin(at, claimOf("k1", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	disk.awaitHeld(t)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Transfer would wait until it has caught up.
	hanging := slices.DeleteFunc(leader.heirs(), func(s raft.Server) bool { return string(s.ID) != c.peers[heir].ID })
	for _, try := range []string{"first", "second"} {
		if err := leader.tryHeirs(ctx, hanging); !errors.Is(changed(err), ErrConflict) {
			t.Errorf("the %s transfer to a node that hangs: %v, want ErrConflict", try, err)
		}
	}

	c.stop(other) // and the majority is gone
	eventually(t, "the leader to step down", func() bool { return leader.raft.State() != raft.Leader })
	disk.thaw()
	c.start(other)
	c.handOver(at)
	c.begin(at, claimOf("k2", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
}

// A try would leave its request with who waits for the heir, which may be for ever.
func TestLeadershipIsNotHandedToWhoIsAway(t *testing.T) {
	c := startCluster(t, 3, nil)
	at := c.leader()
	leader, away := c.nodes[at], (at+1)%3
	c.stop(away)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	eventually(t, "the leader to miss it", func() bool {
		return errors.Is(leader.Transfer(ctx, c.peers[away].ID), errAway)
	})
	if err := leader.Transfer(ctx, ""); err != nil { // to the other
		t.Error(err)
	}
}

// Raft would wait for it, and take no entry meanwhile.
func TestLeadershipIsNotHandedToWhoIsBehind(t *testing.T) {
	disks := hangingDisks(3)
	c := startCluster(t, 3, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: time.Hour}
	})
	at := c.leader()
	leader, behind := c.nodes[at], (at+1)%3
	disk := disks[c.peers[behind].ID]
	disk.freeze(t)
	c.begin(at, claimOf("k1", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	disk.awaitHeld(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := leader.Transfer(ctx, c.peers[behind].ID); !errors.Is(err, errLags) {
		t.Errorf("the transfer to a node that hangs: %v, want that it is behind", err)
	}
	ended := make(chan error)
	go func() { ended <- leader.Transfer(ctx, c.peers[behind].ID) }()
	disk.thaw()
	if err := <-ended; err != nil {
		t.Errorf("the transfer to a node that catches up: %v", err)
	}
}

// The leader hears so of one that was away only when it asks again.
func TestLeadershipIsHandedToWhoHasJustComeBack(t *testing.T) {
	for _, named := range []bool{true, false} {
		c := startCluster(t, 3, nil)
		leader := c.nodes[c.leader()]
		to := ""
		for i, p := range c.peers {
			if i == c.leader() {
				continue
			}
			for _, heartbeat := range []bool{true, false} {
				leader.raftTrans.absent.note(raft.ServerID(p.ID), leader.raft.CurrentTerm(), heartbeat, io.EOF)
			}
			if named {
				to = p.ID
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := leader.Transfer(ctx, to); err != nil {
			t.Errorf("to %q, which answers again: %v", to, err)
		}
	}
}
