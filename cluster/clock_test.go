package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStampIsTheHighestTimeThatAMajorityHasReached(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name  string
		own   time.Duration // of the leader's clock from true time
		peers map[string]time.Duration
		want  time.Duration
		ok    bool
	}{
		{"all agree", 0, map[string]time.Duration{"b": 0, "c": 0}, 0, true},
		{"the leader is an hour ahead", hour, map[string]time.Duration{"b": 0, "c": 0}, 0, true},
		{"the leader is an hour behind", -hour, map[string]time.Duration{"b": 0, "c": 0}, 0, true},
		{"a follower is an hour ahead", 0, map[string]time.Duration{"b": hour, "c": 0}, 0, true},
		{"a follower is an hour behind", 0, map[string]time.Duration{"b": 0, "c": -hour}, 0, true},
		{"one peer is not heard", 0, map[string]time.Duration{"b": -hour}, -hour, true},
		{"no peer is heard: grant nothing", 0, nil, 0, false},
		{"one that is no voter does not count", 0, map[string]time.Duration{"d": hour}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				c := newClock("a", func() time.Time { return time.Now().Add(tt.own) })
				c.setVoters([]string{"a", "b", "c"})
				for id, skew := range tt.peers {
					c.read(id, now.Add(skew).UnixMilli())
				}
				time.Sleep(lately) // readings run on by themselves
				got, ok := c.stamp()
				if ok != tt.ok {
					t.Fatalf("stamp ok = %v, want %v", ok, tt.ok)
				}
				if want := time.Now().Add(tt.want).UnixMilli(); ok && got != want {
					t.Errorf("stamp is %v from true time, want %v", time.Duration(got-time.Now().UnixMilli())*time.Millisecond, tt.want)
				}
			})
		})
	}
}

func TestAVoterThatIsAwayIsWhereClusterTimeWas(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name  string
		own   time.Duration
		other time.Duration // the voter that is heard
		told  time.Duration // cluster time, as the leader before told it
		want  time.Duration
	}{
		{"the other is an hour behind", 0, -hour, 0, 0},
		{"the other is an hour ahead", 0, hour, 0, 0},
		{"the leader is an hour behind", -hour, 0, 0, 0},
		{"the leader is an hour ahead", hour, 0, 0, 0},
		{"cluster time was behind", 0, 0, -hour, 0},
		{"cluster time was ahead", 0, 0, hour, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClock("a", func() time.Time { return time.Now().Add(tt.own) })
				c.setVoters([]string{"a", "b", "away"})
				c.hear(time.Now().Add(tt.told).UnixMilli())
				time.Sleep(10 * time.Minute) // without a leader: all clocks run on
				c.reset()
				if _, ok := c.stamp(); ok {
					t.Error("stamp has a time before a majority was heard")
				}
				c.read("b", time.Now().Add(tt.other).UnixMilli())
				got, ok := c.stamp()
				if want := time.Now().Add(tt.want).UnixMilli(); !ok || got != want {
					t.Errorf("stamp is %v from true time (%v), want %v", time.Duration(got-time.Now().UnixMilli())*time.Millisecond, ok, tt.want)
				}
			})
		})
	}
}

func TestAClockThatIsNotHeardAnyMoreCountsForAWhileOnly(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name string
		own  time.Duration // of the leader's clock from true time, later on
		was  time.Duration // of the clock that is not heard any more
		b    bool          // the other is heard
	}{
		{"it was ahead, and the leader's goes ahead later", hour, hour, true},
		{"it was behind, and the leader's falls behind later", -hour, -hour, true},
		{"nobody is heard, and the leader's goes ahead", hour, 0, false},
		{"nobody is heard, and the leader's falls behind", -hour, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				own := time.Duration(0)
				c := newClock("a", func() time.Time { return time.Now().Add(own) })
				c.setVoters([]string{"a", "b", "gone"})
				c.read("gone", time.Now().Add(tt.was).UnixMilli())
				c.read("b", time.Now().UnixMilli())
				began := time.Now()
				for time.Since(began) < time.Hour { // as the leader does
					if tt.b {
						c.read("b", time.Now().UnixMilli())
					}
					got, ok := c.stamp()
					if off := time.Duration(got-time.Now().UnixMilli()) * time.Millisecond; !ok || off != 0 {
						t.Fatalf("after %v stamp is %v from true time (%v)", time.Since(began), off, ok)
					}
					c.hear(got)
					time.Sleep(pingEvery + 700*time.Microsecond)
					if time.Since(began) > 10*time.Second {
						own = tt.own
					}
				}
			})
		})
	}
}

func TestAfterAStartAVoterThatIsAwayIsWhereTheLastEntryWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock("a", time.Now)
		c.setVoters([]string{"a", "b", "away"})
		c.applied(time.Now().Add(-time.Minute).UnixMilli())
		time.Sleep(time.Second)
		if _, ok := c.stamp(); ok {
			t.Error("stamp has a time before a majority was heard")
		}
		c.read("b", time.Now().Add(-time.Hour).UnixMilli())
		if got, ok := c.stamp(); !ok || got != time.Now().Add(-time.Minute).UnixMilli() {
			t.Errorf("stamp is %v from true time (%v), want a minute behind: a clock an hour behind holds time back",
				time.Duration(got-time.Now().UnixMilli())*time.Millisecond, ok)
		}
	})
}

func TestANewTermForgetsTheClocksOfTheLast(t *testing.T) {
	c := newClock("a", time.Now)
	c.setVoters([]string{"a", "b", "c"})
	c.read("b", time.Now().UnixMilli())
	if _, ok := c.stamp(); !ok {
		t.Fatal("two of three clocks are known, and stamp has no time")
	}
	c.reset()
	if _, ok := c.stamp(); ok {
		t.Error("stamp has a time before a majority was heard in the new term")
	}
}

func TestASingleNodeNeedsNoOtherClock(t *testing.T) {
	c := newClock("a", time.Now)
	c.setVoters([]string{"a"})
	if _, ok := c.stamp(); !ok {
		t.Error("a cluster of one has no time")
	}
}

func TestTimeFollowsTheLeaderAndNeverTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		truth := time.Now()
		c := newClock("b", func() time.Time { return time.Now().Add(-time.Hour) })
		if _, ok := c.skew(); ok {
			t.Error("skew is known before the leader was heard")
		}
		c.hear(truth.UnixMilli())
		time.Sleep(3 * time.Second)
		if got, want := c.now(), truth.Add(3*time.Second).UnixMilli(); got != want {
			t.Errorf("now = %d, want %d", got, want)
		}
		if skew, _ := c.skew(); skew != -time.Hour {
			t.Errorf("skew = %v, want -1h", skew)
		}
		c.applied(truth.Add(time.Minute).UnixMilli())
		if got, want := c.now(), truth.Add(time.Minute).UnixMilli(); got != want {
			t.Errorf("now = %d after an entry of a later time, want %d", got, want)
		}
	})
}
