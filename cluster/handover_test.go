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

// startWithHungFollower starts three, of which one hangs behind an entry that the others have
// committed: its place, and its disk.
func startWithHungFollower(t *testing.T) (c *trio, hung int, disk *hangingDisk) {
	t.Helper()
	disks := hangingDisks(3)
	c = startCluster(t, 3, func(cfg *Config) {
		cfg.logOptions = logstore.Options{FS: disks[cfg.NodeID], HangLimit: time.Hour}
	})
	at := c.leader()
	hung = (at + 1) % 3
	disk = disks[c.peers[hung].ID]
	disk.freeze(t)
	c.begin(at, claimOf("k1", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	disk.awaitHeld(t)
	return c, hung, disk
}

// What the heir is sent is not answered, for its disk hangs. A second transfer
// to it would wait in raft, and for ever once the leader has stepped down.
func TestALeaderThatCouldNotHandLeadershipOnTakesEntriesWhenItLeadsAgain(t *testing.T) {
	c, heir, disk := startWithHungFollower(t)
	at := c.leader()
	leader, other := c.nodes[at], 3-at-heir
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
	if err := leader.Transfer(ctx, c.peers[away].ID); !errors.Is(err, errAway) {
		t.Errorf("the transfer to a node that was stopped: %v, want that it is away", err)
	}
	eventually(t, "it to be handed to the other", func() bool { return leader.Transfer(ctx, "") == nil })
}

// Raft would wait for it, and take no entry meanwhile.
func TestLeadershipIsNotHandedToWhoIsBehind(t *testing.T) {
	c, behind, disk := startWithHungFollower(t)
	leader := c.nodes[c.leader()]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// After some seconds neither entries nor heartbeats have been answered.
	if err := leader.Transfer(ctx, c.peers[behind].ID); !errors.Is(err, errLags) && !errors.Is(err, errAway) {
		t.Errorf("the transfer to a node that hangs: %v, want that it is behind", err)
	}
	disk.thaw()
	c.handOver(behind)
}

// missed has a leader miss its peers, as if they had been away, until they answer again.
func (n *Node) missed(ids ...raft.ServerID) {
	for _, id := range ids {
		for _, heartbeat := range []bool{true, false} {
			n.raftTrans.absent.note(id, n.raft.CurrentTerm(), heartbeat, io.EOF)
		}
	}
}

// The leader hears of one that was away that it answers again only when it asks.
func TestLeadershipIsHandedToWhoHasJustComeBack(t *testing.T) {
	c := startCluster(t, 3, nil)
	for _, tt := range []struct {
		name  string
		named bool // and not the best one
		tried bool // the other one has been, in vain
	}{
		{"named", true, false},
		{"the best one", false, false},
		{"the only one that may be tried", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := c.leader()
			leader, heir, other := c.nodes[at], raft.ServerID(c.peers[(at+1)%3].ID), raft.ServerID(c.peers[(at+2)%3].ID)
			to := ""
			if tt.named {
				to = string(heir)
			}
			leader.missed(heir)
			if tt.tried {
				leader.handovers.begin(other, leader.raft.CurrentTerm())
			} else {
				leader.missed(other)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			eventually(t, "it to be handed on", func() bool {
				err := leader.Transfer(ctx, to)
				if errors.Is(err, errAway) || errors.Is(err, errLags) {
					t.Fatal(err)
				}
				return err == nil
			})
			if now := c.peers[c.leader()].ID; tt.tried && now != string(heir) {
				t.Errorf("%s leads", now)
			}
		})
	}
}

func TestWhoWasTriedInVainIsRefusedAtOnce(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader := c.nodes[c.leader()]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	heirs := leader.heirs()
	for _, heir := range heirs {
		leader.handovers.begin(heir.ID, leader.raft.CurrentTerm())
	}
	for _, to := range []string{"", string(heirs[0].ID)} {
		if err := leader.Transfer(ctx, to); !errors.Is(err, errTried) {
			t.Errorf("to %q: %v, want that it was tried", to, err)
		}
	}
}

func TestWhoDoesNotLeadHandsNothingOn(t *testing.T) {
	c := startCluster(t, 3, nil)
	eventually(t, "it to say that another leads", func() bool {
		return errors.Is(changed(c.nodes[c.follower()].handOver(t.Context(), "")), errMoved)
	})
}
