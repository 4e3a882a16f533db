package logstore

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// deferring is a store whose own entries are deferred, on a disk where each
// write waits to be let go, with an error or without.
type deferring struct {
	*Store
	t     *testing.T
	let   chan error
	fatal []error
}

type letGo struct {
	*raft.InmemStore
	let chan error
}

func (l letGo) StoreLogs(logs []*raft.Log) error {
	return errors.Join(<-l.let, l.InmemStore.StoreLogs(logs))
}

func (letGo) Close() error { return nil }

func newDeferring(t *testing.T) *deferring {
	d := &deferring{t: t, let: make(chan error)}
	d.Store = memoryStore(t, letGo{raft.NewInmemStore(), d.let}, Options{Deferred: true, OnFatal: func(err error) { d.fatal = append(d.fatal, err) }})
	return d
}

// command is an entry as a leader makes it.
func command(index uint64) *raft.Log {
	log := entry(index)
	log.Type = raft.LogCommand
	return log
}

// begun calls f beside and returns its result, once there is one.
func begun(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// wait fails the test unless what began has ended, or has not.
func (d *deferring) wait(what string, done <-chan error, ended bool) {
	d.t.Helper()
	synctest.Wait()
	if (len(done) == 1) != ended {
		d.t.Errorf("%s has ended: %t, want %t", what, !ended, ended)
	}
}

func TestAnEntryCountsOnceItIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeferring(t)
		check(t, d.StoreLogs([]*raft.Log{command(1), command(2)})) // returns though the disk does not
		if last, err := d.LastIndex(); last != 2 || err != nil {
			t.Errorf("the log ends with %d, %v", last, err)
		}
		var got raft.Log
		check(t, d.GetLog(2, &got))
		if string(got.Data) != string(command(2).Data) {
			t.Errorf("entry 2 is %q", got.Data)
		}
		if err := d.GetLog(3, &got); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("entry 3: %v", err)
		}
		if known := d.Known(2); known != 0 {
			t.Errorf("peers would be told that %d is committed", known)
		}
		applied := begun(func() error { return d.Await(2, nil) })
		received := begun(func() error { d.Settle(nil); return nil })
		next := begun(func() error { return d.StoreLog(command(3)) })
		d.wait("the wait to apply", applied, false)
		d.wait("the wait to receive", received, false)
		d.wait("the next append", next, false)
		if d.Stalled() != 0 {
			t.Errorf("stalled for %v", d.Stalled())
		}

		d.let <- nil
		d.wait("the wait to apply", applied, true)
		d.wait("the wait to receive", received, true)
		d.wait("the next append", next, true)
		check(t, errors.Join(<-applied, <-next))
		check(t, d.Await(2, nil)) // entry 3 is not asked for
		if known := d.Known(9); known != 2 {
			t.Errorf("peers would be told that %d is committed", known)
		}
		deleted := begun(func() error { return d.DeleteRange(1, 1) })
		d.wait("the deletion", deleted, false)
		d.let <- nil
		check(t, <-deleted)
		if known := d.Known(9); known != 9 {
			t.Errorf("peers would be told that %d is committed", known)
		}
	})
}

// What raft itself acts on, and what came from a leader, is on disk when
// StoreLogs returns.
func TestOnlyOwnCommandsAreDeferred(t *testing.T) {
	received := command(1)
	stamp(received)
	configuration, noop := command(1), command(1)
	configuration.Type, noop.Type = raft.LogConfiguration, raft.LogNoop
	for name, log := range map[string]*raft.Log{"received": received, "a configuration": configuration, "a no-op": noop} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeferring(t)
				done := begun(func() error { return d.StoreLog(log) })
				d.wait("the append", done, false)
				d.let <- nil
				check(t, <-done)
			})
		})
	}
}

func TestADeferredEntryThatIsNotWrittenNeverCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeferring(t)
		check(t, d.StoreLog(command(1)))
		stop := make(chan struct{})
		stopped := begun(func() error { return d.Await(1, stop) })
		d.wait("the wait to apply", stopped, false)
		close(stop)
		if err := <-stopped; err == nil {
			t.Error("an entry may be applied because its node stops")
		}

		const failure = "no disk"
		failed := func(err error) bool { return err != nil && strings.Contains(err.Error(), failure) }
		d.let <- errors.New(failure)
		synctest.Wait()
		if len(d.fatal) != 1 || !failed(d.fatal[0]) {
			t.Errorf("it reported %v", d.fatal)
		}
		if err := d.Await(1, nil); !failed(err) {
			t.Errorf("the entry may be applied: %v", err)
		}
		if known := d.Known(1); known != 0 {
			t.Errorf("peers would be told that %d is committed", known)
		}
		if err := d.StoreLog(command(2)); !failed(err) {
			t.Errorf("the log is written to: %v", err)
		}
		ending := make(chan struct{})
		received := begun(func() error { d.Settle(ending); return nil })
		d.wait("the wait to receive", received, false)
		close(ending)
		<-received
	})
}
