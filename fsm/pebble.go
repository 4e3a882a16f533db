//go:build !wasip1

package fsm

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// PebbleOptions are the settings of a Pebble. The zero value takes the
// default that is named with each field.
type PebbleOptions struct {
	// FS holds the files; nil is the disk, with files 0600 and directories 0700.
	FS vfs.FS
	// CacheBytes is what the block cache and the memtables take together: Pebble
	// takes what memtables have from the cache, down to nothing. Default 128 MiB.
	CacheBytes int64
	// MemTableBytes is how much is gathered in memory before it is written
	// out. Up to four such tables may be waiting. Default 32 MiB.
	MemTableBytes uint64
	// ReadOnly opens an existing store for reading alone.
	ReadOnly bool
	// Log takes errors of the store's background work. Default: discarded.
	Log *slog.Logger
	// OnFatal is told, at most once, that the store can no longer go on: a
	// file is corrupt, or cannot be written. It may be called from any
	// goroutine and with locks of the store held, so it must not call the
	// store, and should only see to it that the process ends. nil: panic.
	OnFatal func(error)
}

// Pebble is a Store on disk. Its write-ahead log is off: what was committed
// after the last Sync may be lost in a crash, from its end backwards and in
// whole batches.
type Pebble struct {
	db     *pebble.DB
	halted *atomic.Bool
}

var _ Store = (*Pebble)(nil)

// OpenPebble opens the store in dir, and makes it if there is none.
func OpenPebble(dir string, o PebbleOptions) (*Pebble, error) {
	events := &pebbleEvents{log: o.Log, onFatal: o.OnFatal, stands: make(chan error, 1)}
	if events.log == nil {
		events.log = slog.New(slog.DiscardHandler)
	}
	type opened struct {
		db  *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	go func() {
		db, err := pebble.Open(dir, o.pebble(events))
		done <- opened{db, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, storeError("open store "+dir, o.err)
		}
		return &Pebble{db: o.db, halted: &events.halted}, nil
	case err := <-events.stands:
		// Open waits for a goroutine that stands still, as on a full disk, and
		// so stands still as well: the process is to end.
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
}

func (o PebbleOptions) pebble(events *pebbleEvents) *pebble.Options {
	if o.FS == nil {
		o.FS = privateFS{vfs.Default}
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 32 << 20
	}
	p := &pebble.Options{
		FS:           politeFS{o.FS},
		ReadOnly:     o.ReadOnly,
		DisableWAL:   true,
		CacheSize:    o.CacheBytes,
		MemTableSize: o.MemTableBytes,
		// Named, not "newest": an upgrade of the library alone must not make
		// a store that the release before cannot read.
		FormatMajorVersion: pebble.FormatValueSeparation,
		// A burst is taken up by waiting memtables and by L0; only when
		// compaction is hopelessly behind do writes have to wait for it.
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               256 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      events,
		EventListener:               events.listener(),
	}
	for i := range p.Levels {
		l := &p.Levels[i]
		// One index block a table, half as large as with Pebble's 4 KiB, so that
		// the cache can hold them all and a read is of the block that it is about.
		l.BlockSize, l.IndexBlockSize = 8<<10, 256<<10
		l.FilterPolicy, l.FilterType = bloom.FilterPolicy(10), pebble.TableFilter
		if i == len(p.Levels)-1 {
			l.FilterPolicy = pebble.NoFilterPolicy // DB.Get does not look there
		}
	}
	return p
}

// Get implements Store.
func (p *Pebble) Get(key []byte) ([]byte, error) {
	value, held, err := p.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, storeError("read store", err)
	}
	value = append(make([]byte, 0, len(value)), value...)
	if err := held.Close(); err != nil {
		return nil, storeError("read store", err)
	}
	return value, nil
}

// Scan implements Store. A nil bound is no bound.
func (p *Pebble) Scan(from, to []byte, visit func(key, value []byte) bool) (err error) {
	if len(from) == 0 {
		from = nil // Pebble expects a bound, once given, to have bytes
	}
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return storeError("scan store", err)
	}
	// An iterator that met an error says so when it is closed.
	defer func() {
		if e := it.Close(); e != nil && err == nil {
			err = storeError("scan store", e)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return storeError("scan store", err)
		}
		if !visit(it.Key(), value) {
			return nil
		}
	}
	return nil
}

// storeError says what failed, and that what is stored is corrupt if Pebble does.
func storeError(what string, err error) error {
	if pebble.IsCorruptionError(err) {
		return fmt.Errorf("%s: %w: %w", what, ErrCorrupt, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Batch implements Store.
func (p *Pebble) Batch() Batch { return newOverlay(p, p.commit) }

func (p *Pebble) commit(writes map[string][]byte) (err error) {
	b := p.db.NewBatch()
	defer func() {
		if e := b.Close(); e != nil && err == nil {
			err = fmt.Errorf("commit to store: %w", e)
		}
	}()
	// In order, each key is found a place for from where the last one went.
	for _, key := range slices.Sorted(maps.Keys(writes)) {
		value := writes[key]
		if value == nil {
			err = b.Delete([]byte(key), nil)
		} else {
			err = b.Set([]byte(key), value, nil)
		}
		if err != nil {
			return fmt.Errorf("commit to store: %w", err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("commit to store: %w", err)
	}
	return nil
}

// Sync implements Store: it writes out what is in memory. Pebble syncs each
// table, its directory and the manifest before it counts a flush as done.
func (p *Pebble) Sync() error {
	if err := p.db.Flush(); err != nil {
		return fmt.Errorf("sync store: %w", err)
	}
	return nil
}

// Checkpoint makes dir, which must not exist, a store of its own with all that
// was committed before the call and perhaps more, by hard links.
func (p *Pebble) Checkpoint(dir string) error {
	// Nothing but tables goes into a checkpoint, for want of a log.
	if err := p.Sync(); err != nil {
		return err
	}
	if err := p.db.Checkpoint(dir); err != nil {
		return fmt.Errorf("checkpoint store: %w", err)
	}
	return nil
}

// Size returns the bytes that the store takes on disk.
func (p *Pebble) Size() int64 { return int64(p.db.Metrics().DiskSpaceUsage()) }

// Flushed returns the bytes that were written out from memory since the store
// was opened.
func (p *Pebble) Flushed() uint64 {
	m := p.db.Metrics()
	return m.Levels[0].TableBytesFlushed + m.Levels[0].BlobBytesFlushed
}

// Compactions returns how many compactions have ended since the store was opened.
func (p *Pebble) Compactions() int64 { return p.db.Metrics().Compact.Count }

// Metrics returns Pebble's own account of itself.
func (p *Pebble) Metrics() *pebble.Metrics { return p.db.Metrics() }

// Halted tells whether the store has failed so that some of its goroutines
// stand still for ever, perhaps with calls from outside among them.
func (p *Pebble) Halted() bool { return p.halted.Load() }

// Close implements Store. It does not sync. No other call may be running. A
// store that has halted is left as it is: closing it would wait for ever.
func (p *Pebble) Close() error {
	if p.halted.Load() {
		return errors.New("close store: it has failed")
	}
	if err := p.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// pebbleEvents receives what Pebble has to say.
type pebbleEvents struct {
	log     *slog.Logger
	onFatal func(error)
	once    sync.Once
	halted  atomic.Bool
	stands  chan error // has room for why the first goroutine stands still
}

func (e *pebbleEvents) listener() *pebble.EventListener {
	return &pebble.EventListener{
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			e.fatal(fmt.Errorf("store file %s is corrupt: %w", i.Path, i.Details))
		},
		// Pebble repeats a flush or compaction that failed at once, and for
		// ever; meanwhile nothing more becomes durable.
		BackgroundError: func(err error) {
			e.fatal(fmt.Errorf("store cannot write out its data: %w", err))
		},
	}
}

func (e *pebbleEvents) fatal(err error) {
	e.once.Do(func() {
		if e.onFatal == nil {
			panic(err)
		}
		e.onFatal(err)
	})
}

// Infof drops the line: Pebble tells of each flush and compaction.
func (e *pebbleEvents) Infof(string, ...any) {}

func (e *pebbleEvents) Errorf(format string, args ...any) {
	e.log.Error("store", "error", fmt.Sprintf(format, args...))
}

// Fatalf reports the failure and does not return. Pebble counts on that: past
// this point its state in memory and on disk may differ. It does not exit
// either, so that the owner can say what happened and exit in its own way;
// until then the goroutine stands still, with whatever locks it holds.
func (e *pebbleEvents) Fatalf(format string, args ...any) {
	e.halted.Store(true)
	err := fmt.Errorf("store failed: "+format, args...)
	select {
	case e.stands <- err:
	default:
	}
	e.fatal(err)
	select {}
}
