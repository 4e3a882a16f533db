//go:build linux

package fault

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// ShortLog are flags by which nodes keep so little of their log that one that is
// away for some seconds of load comes back by a snapshot.
var ShortLog = []string{"--snapshot-entries=256", "--snapshot-interval=1s", "--trailing-entries=256"}

const (
	// shortenedWithin bounds the wait for logs that no longer reach back to where
	// a node went away. Where they are long it is not enough, and nothing is shown.
	shortenedWithin = 40 * time.Second
	// installedWithin bounds the wait for a snapshot to begin, or to be there.
	installedWithin = 20 * time.Second
	// streamedEvery is between two looks at whether a snapshot arrives: a small
	// one takes some milliseconds.
	streamedEvery = time.Millisecond
)

// snapshotKill keeps a follower away until the logs of the others no longer reach
// back to it, and kills the leader as the snapshot begins to arrive. What it then
// installs is of either leader.
func snapshotKill(ctx context.Context, f *injection) error {
	behind, _, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(behind)
	applied, err := behind.Metric(ctx, "onced_applied_index")
	if err != nil {
		return err
	}
	if err := f.kill(ctx, behind); err != nil {
		return err
	}
	shortened, cancel := context.WithTimeout(ctx, shortenedWithin)
	defer cancel()
	err = await(shortened, "logs to be shortened", func() bool { return f.reachBack(shortened, f.others(behind)) > applied+1 })
	if err != nil {
		f.evidence = nil
		return ctx.Err()
	}
	leader, err := f.leader(ctx)
	if err != nil {
		return err
	}
	f.on(leader)
	arriving, err := f.startArriving(ctx, behind)
	if err != nil {
		return err
	}
	if err := f.kill(ctx, leader); err != nil {
		return err
	}
	if err := f.newLeader(ctx, leader); err != nil {
		return err
	}
	return f.sawInstall(ctx, behind, leader, arriving)
}

// reachBack is the first log entry that every one of some nodes has yet to send
// from: the least of them, and 0 where one does not say.
func (f *injection) reachBack(ctx context.Context, members []*Member) (first float64) {
	for i, m := range members {
		index, err := m.Metric(ctx, "onced_log_first_index")
		if err != nil {
			return 0
		}
		if i == 0 || index < first {
			first = index
		}
	}
	return first
}

// startArriving starts a node and waits until a snapshot arrives. It reports
// false if none was seen in time.
func (f *injection) startArriving(ctx context.Context, m *Member) (arriving bool, err error) {
	before := stores(m)
	if err := m.Start(); err != nil {
		return false, err
	}
	bound, cancel := context.WithTimeout(ctx, installedWithin)
	defer cancel()
	tick := time.NewTicker(streamedEvery)
	defer tick.Stop()
	for {
		if slices.ContainsFunc(stores(m), func(name string) bool { return !slices.Contains(before, name) }) {
			return true, nil
		}
		select {
		case <-tick.C:
		case <-bound.Done():
			return false, ctx.Err()
		}
	}
}

// stores are the directories of a node's state: one, and one more for each
// snapshot that arrives.
func stores(m *Member) (names []string) {
	entries, err := os.ReadDir(filepath.Join(m.DataDir, "state"))
	if err != nil {
		return nil // it is seen again
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// sawInstall waits until a node says that it has installed a snapshot. The fault
// has bitten if that began before its leader was killed and another leads.
func (f *injection) sawInstall(ctx context.Context, m, killed *Member, arriving bool) error {
	bound, cancel := context.WithTimeout(ctx, installedWithin)
	defer cancel()
	installs := 0.0
	_ = await(bound, "a snapshot to be installed", func() bool { // what is not seen is not noted
		n, err := m.Metric(bound, "onced_snapshot_installs")
		installs = n
		return err == nil && n > 0
	})
	if now := f.reignOf(bound, f.others(killed)).Leader; !arriving || installs == 0 || now == nil || now == killed {
		f.evidence = nil
		return ctx.Err()
	}
	f.saw("a snapshot was arriving at %s then, and it says that it installed %v", m.Name(), installs)
	return nil
}
