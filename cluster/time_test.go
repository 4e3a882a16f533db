package cluster

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/fsm"
)

func TestAClockAnHourOffEndsNothingEarly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		skew time.Duration
	}{
		{"ahead", time.Hour},
		{"behind", -time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := startCluster(t, 3, nil)
			off := c.leader()
			right := (off + 1) % 3
			claim := claimOf("done", "", time.Minute, fsm.OnLapse_RETRY)
			claim.Ttl = (30 * time.Minute).Milliseconds()
			granted := c.begin(right, claim, 0, fsm.Code_GRANTED)
			c.complete(right, "done", granted.Record.Fence, "x")
			c.begin(right, claimOf("held", "A", 30*time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)

			standing := func(when string) {
				t.Helper()
				for i := range c.nodes {
					c.begin(i, claimOf("done", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
					c.begin(i, claimOf("held", "B", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)
				}
				for _, n := range c.nodes {
					if err := n.Barrier(t.Context()); err != nil {
						t.Fatal(err)
					}
					if m := n.Meta(); m.Completed != 1 || m.Claimed != 1 {
						t.Errorf("%s, %s has %d completed and %d claimed", when, n.cfg.NodeID, m.Completed, m.Claimed)
					}
					if lag := time.Duration(time.Now().UnixMilli()-n.Meta().Time) * time.Millisecond; lag.Abs() > 10*time.Minute {
						t.Errorf("%s, cluster time on %s is %v from true time", when, n.cfg.NodeID, lag)
					}
				}
			}
			c.skews[off].Store(int64(tt.skew))
			eventually(t, "the leader to see its own skew", func() bool {
				skew, ok := c.nodes[off].clock.skew()
				return ok && skew.Abs() > 30*time.Minute
			})
			standing("while the leader's clock is off")
			c.handOver(right)
			standing("while a follower's clock is off")
			c.handOver(off)
			standing("after the node whose clock is off was elected")
			c.restart(off)
			c.awaitReady()
			c.leader()
			standing("after the node whose clock is off restarted")
		})
	}
}

func TestARecordEndsOnceAMajorityOfClocksHasPassedItsTime(t *testing.T) {
	c := startCluster(t, 3, nil)
	claim := claimOf("k", "", time.Minute, fsm.OnLapse_RETRY)
	claim.Ttl = (30 * time.Minute).Milliseconds()
	granted := c.begin(0, claim, 0, fsm.Code_GRANTED)
	c.complete(0, "k", granted.Record.Fence, "x")
	c.agree()
	c.skews[0].Store(int64(time.Hour))
	c.begin(1, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
	c.skews[1].Store(int64(time.Hour))
	eventually(t, "the record to be swept", func() bool { return c.nodes[2].Meta().Completed == 0 })
	c.begin(2, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
}

// While a voter is away time must not wait for it: what was granted meanwhile
// would end too early when it is back, and time goes on at once from where it is
// in truth.
func TestTimeGoesOnWhileOneClockIsAnHourBehindAndAnotherVoterIsAway(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	away, behind := c.leader(), c.follower()
	c.skews[behind].Store(int64(-time.Hour))
	c.stop(away)
	other := 3 - away - behind
	now := func() int64 {
		o, err := c.nodes[other].Propose(t.Context(), &fsm.Command{Kind: fsm.Kind_READ, Namespace: "default", Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		return o.Time
	}
	begun := now()
	eventually(t, "time to go on", func() bool { return now() > begun+time.Second.Milliseconds() })
	granted := c.begin(other, claimOf("k", "A", 30*time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	c.start(away)
	c.awaitReady()
	c.begin(away, claimOf("k", "B", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)
	if rec := c.read(behind, "k"); rec.LeaseExpiresAt != granted.Record.LeaseExpiresAt {
		t.Errorf("the lease ends at %d, was granted until %d", rec.LeaseExpiresAt, granted.Record.LeaseExpiresAt)
	}
}

// Else it would answer for a record that ended while the node was down, and
// whose key has been claimed anew.
func TestANodeAnswersNothingByAClockThatIsKnownToBeBehind(t *testing.T) {
	c := startCluster(t, 3, func(cfg *Config) { cfg.RequestTimeout = time.Second })
	claim := func() *fsm.Command { return claimOf("k", "", time.Minute, fsm.OnLapse_RETRY) }
	granted := c.begin(0, claim(), 0, fsm.Code_GRANTED)
	c.complete(0, "k", granted.Record.Fence, "x")
	c.agree()
	c.stop(1)
	c.stop(2)
	c.restart(0)
	c.begin(0, claim(), 0, fsm.Code_REPLAY)
	c.skews[0].Store(int64(-time.Hour))
	c.restart(0)
	if o, err := c.nodes[0].Begin(t.Context(), claim(), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a claim at a node that has not been told the time: %v %v, want ErrUnavailable", o.GetCode(), err)
	}
	c.start(1)
	c.start(2)
	c.awaitReady()
	c.begin(0, claim(), 0, fsm.Code_REPLAY)
}

func TestANewLeaderGrantsNothingBeforeItHasHeardAMajorityOfClocks(t *testing.T) {
	c := startCluster(t, 3, func(cfg *Config) { cfg.RequestTimeout = 2 * time.Second })
	at := c.follower()
	c.handOver(at) // it has heard them all in this term
	c.handOver((at + 1) % 3)
	n := c.nodes[at]
	reconnect := n.links.cut()
	if err := c.nodes[(at+1)%3].raft.LeadershipTransferToServer(raft.ServerID(c.peers[at].ID), raft.ServerAddress(c.peers[at].Addr)).Error(); err != nil {
		t.Fatal(err)
	}
	if o, err := n.Begin(t.Context(), claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a claim before a majority of clocks is known: %v %v, want ErrUnavailable", o.GetCode(), err)
	}
	reconnect()
	eventually(t, "the claim to be granted", func() bool {
		o, err := n.Begin(t.Context(), claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0)
		return err == nil && o.Code == fsm.Code_GRANTED
	})
}

// cut breaks all connections, and lets no new one come about until reconnect.
func (ls *links) cut() (reconnect func()) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	before := ls.byID
	refuse := func(context.Context, string) (net.Conn, error) { return nil, errNotSent }
	ls.byID = map[string]*link{}
	for id, l := range before {
		l.close()
		ls.byID[id] = &link{id: id, dial: refuse}
	}
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		clear(ls.byID)
	}
}

func TestAReplayIsLocalOnlyWhileTheRecordDoesNotEndSoon(t *testing.T) {
	c := startCluster(t, 3, nil)
	claim := claimOf("k", "", time.Minute, fsm.OnLapse_RETRY)
	claim.Ttl = (30 * time.Minute).Milliseconds()
	granted := c.begin(0, claim, 0, fsm.Code_GRANTED)
	c.complete(0, "k", granted.Record.Fence, "x")
	c.agree()
	local := func(skew time.Duration) bool {
		t.Helper()
		c.skews[0].Store(int64(skew))
		before := counted(t, c.nodes[0].met.localReplays)
		c.begin(0, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_REPLAY)
		return counted(t, c.nodes[0].met.localReplays) > before
	}
	if !local(0) {
		t.Error("a replay cost a commit")
	}
	if local(time.Hour) {
		t.Error("a node answers alone from a record that has ended by its own clock")
	}
}

func counted(t *testing.T, counter prometheus.Counter) float64 {
	t.Helper()
	all := prometheus.NewRegistry()
	all.MustRegister(counter)
	families, err := all.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func TestAnElectionExtendsNoLease(t *testing.T) {
	c := startCluster(t, 3, nil)
	granted := c.begin(0, claimOf("k", "A", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	c.handOver(c.follower())
	if rec := c.read(0, "k"); rec.LeaseExpiresAt != granted.Record.LeaseExpiresAt {
		t.Errorf("the lease ends at %d after an election, %d before", rec.LeaseExpiresAt, granted.Record.LeaseExpiresAt)
	}
}
