package fsm

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestAStoreThatCannotBeWrittenWhileItOpensIsRefused opens a store on a disk that
// is full from some write on, each in turn. Pebble itself stands still at some of
// them.
func TestAStoreThatCannotBeWrittenWhileItOpensIsRefused(t *testing.T) {
	refused := 0
	for writes := int64(0); writes < 200; writes++ {
		disk := vfs.NewMem()
		p, err := OpenPebble("store", PebbleOptions{FS: disk})
		if err != nil {
			t.Fatal(err)
		}
		b := p.Batch()
		if err := errors.Join(b.Set([]byte("key"), []byte("value")), b.Commit(), p.Sync(), p.Close()); err != nil {
			t.Fatal(err)
		}
		var left atomic.Int64
		left.Store(writes)
		full := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind { // a full disk takes a sync, and a name in place of another
			case errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate:
				if left.Add(-1) < 0 {
					return syscall.ENOSPC
				}
			}
			return nil
		}))
		type opened struct {
			store *Pebble
			err   error
		}
		done := make(chan opened, 1)
		go func() {
			store, err := OpenPebble("store", PebbleOptions{FS: full, OnFatal: func(error) {}})
			done <- opened{store, err}
		}()
		select {
		case o := <-done:
			if o.err == nil {
				left.Store(1 << 40)
				if err := o.store.Close(); err != nil {
					t.Fatal(err)
				}
				if refused == 0 {
					t.Error("no full disk was refused")
				}
				t.Logf("it takes %d writes to open, each of which may fail", writes)
				return
			}
			refused++
		case <-time.After(time.Minute):
			t.Fatalf("with space for %d writes it neither opens nor is refused", writes)
		}
	}
	t.Fatal("it never opens")
}
