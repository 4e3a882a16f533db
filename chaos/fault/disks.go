//go:build linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/onced/onced/chaos/disk"
)

// clear empties the data directory of a node that is not up.
func (m *Member) clear() error {
	_, err := disk.Wipe(m.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// noSpace is what a node says of ENOSPC.
const noSpace = "no space left on device"

// diskFull takes all the space that a node's disk has left, and starts the node
// again, which needs some: its log has taken what it writes next beforehand. It
// ends of that, and is started when there is space.
func diskFull(ctx context.Context, f *injection) error {
	m := f.any()
	f.on(m)
	from := m.LogSize()
	f.later(func(context.Context) error { return m.Disk.Free() })
	taken, err := m.Disk.Fill()
	if err != nil {
		return err
	}
	if err := wait(ctx, f.hold/2); err != nil {
		return err
	}
	if err := m.Kill(ctx); err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	if err := wait(ctx, f.hold/2); err != nil {
		return err
	}
	said, err := m.Said(from)
	if strings.Contains(said, noSpace) {
		f.saw("the last %d bytes of %s were taken, and it said: %s", taken, m.Name(), noSpace)
	}
	return err
}

// diskStall makes the leader's disk hang, for less than what ends the process.
func diskStall(ctx context.Context, f *injection) error {
	m, err := f.leader(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	stall, err := m.Disk.Freeze(8 * time.Second)
	if err := f.stall(m, stall, err); err != nil {
		return err
	}
	if err := f.newLeader(ctx, m); err != nil {
		return err
	}
	return wait(ctx, f.hold/2)
}

// diskSlow makes a node's disk hang three quarters of the time.
func diskSlow(ctx context.Context, f *injection) error {
	m := f.any()
	f.on(m)
	stall, err := m.Disk.Slow(60*time.Millisecond, 20*time.Millisecond, f.hold)
	if err := f.stall(m, stall, err); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// stall notes a stall that has begun; it ends when the fault is over.
func (f *injection) stall(m *Member, s *disk.Stall, err error) error {
	if err != nil {
		return err
	}
	f.later(func(context.Context) error {
		held, err := s.End()
		f.saw("the disk of %s hung for %v in all", m.Name(), held.Round(10*time.Millisecond))
		return err
	})
	return nil
}

// crash cuts the power of nodes, or kills them where they have no disks of their
// own. They are started when the fault is over.
func (f *injection) crash(ctx context.Context, members ...*Member) error {
	if f.net == nil {
		return f.kill(ctx, members...)
	}
	for _, m := range members {
		if err := m.Disk.CutPower(); err != nil {
			return err
		}
		f.later(func(ctx context.Context) error {
			if err := m.Kill(ctx); err != nil { // it failed above, or the cut did
				return err
			}
			lost, err := m.Disk.Restore(ctx)
			if lost > 0 {
				f.saw("%s lost %d bytes that it had not synced", m.Name(), lost)
			}
			return err
		})
	}
	return f.kill(ctx, members...)
}

// powerCutNode cuts the power of one node.
func powerCutNode(ctx context.Context, f *injection) error {
	m := f.any()
	f.on(m)
	if err := f.crash(ctx, m); err != nil {
		return err
	}
	return wait(ctx, f.hold/2)
}

// powerCutAll cuts the power of all nodes.
func powerCutAll(ctx context.Context, f *injection) error {
	f.on(f.Nodes...)
	return f.crash(ctx, f.Nodes...)
}

// wipeFollower removes all that a follower has. Its peers refuse it then, and it
// comes back under another id.
func wipeFollower(ctx context.Context, f *injection) error {
	m, _, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	f.later(func(ctx context.Context) error { return f.replace(ctx, m) })
	if err := m.Kill(ctx); err != nil {
		return err
	}
	removed, err := disk.Wipe(m.DataDir)
	if err != nil {
		return err
	}
	// What it joined by, it would join by again.
	from := m.LogSize()
	if err := m.Start(); err != nil {
		return err
	}
	if err := wait(ctx, f.hold); err != nil {
		return err
	}
	if f.ready(ctx, m) {
		return fmt.Errorf("%s lost its disk and is ready", m.Name())
	}
	f.saw("%d bytes of %s were wiped", removed, m.Name())
	said, err := m.Said(from)
	if strings.Contains(said, "refuse") {
		f.saw("its peers refused it")
	}
	return err
}

// patterns are where a node keeps what cannot be made again.
var patterns = []string{"identity.json", "raft/*", "state/*/*.sst", "state/*/*.rows"}

// truncateFollower cuts a file of a follower short at a random byte.
func truncateFollower(ctx context.Context, f *injection) error {
	return f.damage(ctx, func(path string) (string, error) {
		lost, err := disk.Truncate(f.chance, path)
		return fmt.Sprintf("lost its last %d bytes", lost), err
	})
}

// bitflipFollower turns a random bit in a file of a follower.
func bitflipFollower(ctx context.Context, f *injection) error {
	return f.damage(ctx, func(path string) (string, error) {
		at, err := disk.Flip(f.chance, path)
		return fmt.Sprintf("had a bit of byte %d turned", at), err
	})
}

// damage damages a file of a follower that is down, and starts it. It may end, or
// carry on where the damage is not met or harms nothing; what it must not do is
// seen by the clients. Its disk is then taken for lost.
func (f *injection) damage(ctx context.Context, do func(path string) (string, error)) error {
	m, _, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	f.later(func(ctx context.Context) error { return f.replace(ctx, m) })
	if err := m.Kill(ctx); err != nil {
		return err
	}
	path, err := disk.Pick(f.chance, m.DataDir, patterns...)
	if err != nil {
		return err
	}
	what, err := do(path)
	if err != nil {
		return err
	}
	from := m.LogSize()
	if err := m.Start(); err != nil {
		return err
	}
	if err := wait(ctx, f.hold); err != nil {
		return err
	}
	f.saw("%s of %s %s", filepath.Base(path), m.Name(), what)
	if m.Up() {
		f.saw("it carries on")
		return nil
	}
	said, err := m.Said(from)
	if _, reason, found := strings.Cut(said, "onced: "); found {
		f.saw("it ended: %s", strings.TrimSpace(reason))
	}
	return err
}
