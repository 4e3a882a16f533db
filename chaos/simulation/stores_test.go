package simulation

import (
	"testing"
	"testing/synctest"

	"github.com/onced/onced/cluster/state"
)

// What has become durable stays so, also where a sync that began before ends after it.
func TestALongSyncTakesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(newDice(1, 2))
		s, err := stores{d}.Open("s", state.StoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		d.suffer(func(t *trouble) { t.stall, t.over = &Fault{}, over })
		long := make(chan error, 1)
		go func() { long <- s.Sync() }()
		synctest.Wait()
		d.suffer(func(t *trouble) { t.stall = nil })

		b := s.Batch()
		if err := b.Set([]byte("k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		close(over)
		if err := <-long; err != nil {
			t.Fatal(err)
		}
		left, lost := d.after(true)
		value, err := left.stores["s"].live.Get([]byte("k"))
		if err != nil || string(value) != "v" || lost != 0 {
			t.Errorf("there is %q, %v, with %d writes lost; want what was synced", value, err, lost)
		}
	})
}
