//go:build linux

package fault

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// killNode kills a node, and starts it again after a while.
func killNode(ctx context.Context, f *injection) error {
	m := f.any()
	f.on(m)
	if err := f.kill(ctx, m); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// killLeader kills the leader, and the next one when there is one, three times.
func killLeader(ctx context.Context, f *injection) error {
	for range 3 {
		m, err := f.leader(ctx)
		if err != nil {
			return err
		}
		f.on(m)
		if err := f.kill(ctx, m); err != nil {
			return err
		}
		if err := f.newLeader(ctx, m); err != nil {
			return err
		}
		if err := wait(ctx, f.hold/4); err != nil {
			return err
		}
		if err := m.Start(); err != nil {
			return err
		}
		if err := f.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// killAll kills every node at once.
func killAll(ctx context.Context, f *injection) error {
	f.on(f.Nodes...)
	if err := f.kill(ctx, f.Nodes...); err != nil {
		return err
	}
	return wait(ctx, f.hold/2)
}

// pauseLeader stops the leader where it is until another leads, and then as long
// as the step holds: when it goes on it does not know.
func pauseLeader(ctx context.Context, f *injection) error {
	m, err := f.leader(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	if err := f.pause(m); err != nil {
		return err
	}
	if err := f.newLeader(ctx, m); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// pauseFollower stops a follower where it is.
func pauseFollower(ctx context.Context, f *injection) error {
	m, _, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	if err := f.pause(m); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// rollingRestart stops each node as an operator does, one after the other.
func rollingRestart(ctx context.Context, f *injection) error {
	for _, m := range f.Nodes {
		f.on(m)
		status, err := m.Terminate(ctx)
		if err != nil {
			return err
		}
		if status != 0 {
			return fmt.Errorf("%s stopped with status %d", m.Name(), status)
		}
		f.saw("%s stopped with status 0", m.Name())
		if err := m.Start(); err != nil {
			return err
		}
		if err := f.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// transferLeader has the leadership handed on.
func transferLeader(ctx context.Context, f *injection) error {
	m, leader, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(leader, m)
	if err := f.command(ctx, http.MethodPost, "/v1/cluster/transfer", fmt.Sprintf(`{"to":%q}`, m.Name()), leader); err != nil {
		return err
	}
	return f.newLeader(ctx, leader)
}

// parkedRequest sends a read to a paused leader, changes what it reads through
// the others, and has the old leader go on: it must not answer from before.
func parkedRequest(ctx context.Context, f *injection) error {
	m, err := f.leader(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	rest := f.others(m)
	if err := f.pause(m); err != nil {
		return err
	}
	path := fmt.Sprintf("/v1/keys/parked-%x", f.chance.Uint64())
	type answer struct {
		body []byte
		err  error
	}
	// The connection is made, and the request written, by the kernel alone.
	parked := make(chan answer, 1)
	go func() {
		body, err := m.Call(ctx, http.MethodGet, path, "")
		parked <- answer{body, err}
	}()
	err = f.newLeader(ctx, m)
	if err == nil {
		err = f.command(ctx, http.MethodPost, path+"/claim", `{"lease":"1s","ttl":"10s"}`, rest...)
	}
	began := time.Now()
	if err == nil {
		err = wait(ctx, f.hold/2)
	}
	if resumed := m.Resume(); err == nil {
		err = resumed
	}
	a := <-parked // the client of the cluster has a limit, and so has the node
	if err != nil {
		return err
	}
	f.saw("a read was parked in %s for %v after another node took a claim", m.Name(), time.Since(began).Round(10*time.Millisecond))
	if status := statusOf(a.err); status == http.StatusNotFound {
		return fmt.Errorf("%s did not see a claim that was granted before it went on", m.Name())
	}
	return nil
}

// pauseKill pauses a follower until it is behind, kills the leader with the
// entries that it lacks, and has it and the rest go on without.
func pauseKill(ctx context.Context, f *injection) error {
	behind, leader, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(behind, leader)
	if err := f.pause(behind); err != nil {
		return err
	}
	if err := wait(ctx, f.hold/2); err != nil {
		return err
	}
	if err := f.crash(ctx, leader); err != nil {
		return err
	}
	f.saw("%s had stood still for %v", behind.Name(), f.hold/2)
	if err := behind.Resume(); err != nil {
		return err
	}
	return f.newLeader(ctx, leader)
}
