package cluster

import (
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

func TestAClockAnHourOffEndsNothingEarly(t *testing.T) {
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

func TestAnElectionExtendsNoLease(t *testing.T) {
	c := startCluster(t, 3, nil)
	granted := c.begin(0, claimOf("k", "A", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	c.handOver(c.follower())
	if rec := c.read(0, "k"); rec.LeaseExpiresAt != granted.Record.LeaseExpiresAt {
		t.Errorf("the lease ends at %d after an election, %d before", rec.LeaseExpiresAt, granted.Record.LeaseExpiresAt)
	}
}
