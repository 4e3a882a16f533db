//go:build !wasip1

package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
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
	// GenerationKeys is how many keys are kept together by their age at most, and
	// GenerationBytes of how many bytes. Default 262,144 and 256 MiB.
	GenerationKeys, GenerationBytes int
	// ReadOnly opens an existing store for reading alone. A Scan or Walk then checks, too, that
	// each key can be found by Get, and one of all how many there are.
	ReadOnly bool
	// Pace is called for each kind of work in the background: flushes are one, compactions and
	// the making of row files the other. What it returns is called after each half a millisecond,
	// or so, of that work, with how many bytes were read or written for it since the last time,
	// and may wait for some milliseconds, so that all else gets on. It is not called while writes
	// would soon have to wait for the work, nor once Hurry was. nil: nothing waits.
	Pace func() (pause func(n int64))
	// Log takes errors of the store's background work. Default: discarded.
	Log *slog.Logger
	// OnFatal is told, at most once, that the store can no longer go on: a
	// file is corrupt, or cannot be written. It may be called from any
	// goroutine and with locks of the store held, so it must not call the
	// store, and should only see to it that the process ends. nil: panic.
	OnFatal func(error)

	// For tests: a hash other than xxhash64, of which more collide; how many
	// generations there may be before keys move, if not spareGenerations; that batches
	// wait for the files of generations; and how long those may be.
	hash             func(key []byte) uint64
	spareGenerations int
	buildAtOnce      bool
	rowsBytes        int64
}

// Pebble is a Store on disk. Its write-ahead log is off: what was committed
// after the last Sync may be lost in a crash, from its end backwards and in
// whole batches.
type Pebble struct {
	db       *pebble.DB
	ages     generations
	fs       vfs.FS
	dir      string
	readOnly bool
	halted   *atomic.Bool
	pacing   *pacing
	// files is held by who needs the files of generations to stay the same ones, and by
	// the writer while it may change them.
	files    sync.Mutex
	building *build // or nil; the writer's

	buildAtOnce bool
	rowsBytes   int64
}

var _ Store = (*Pebble)(nil)

// OpenPebble opens the store in dir, and makes it if there is none.
func OpenPebble(dir string, o PebbleOptions) (*Pebble, error) {
	events := &pebbleEvents{log: o.Log, onFatal: o.OnFatal, stands: make(chan error, 1)}
	if events.log == nil {
		events.log = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = privateFS{vfs.Default}
	}
	p := &Pebble{
		dir: dir, readOnly: o.ReadOnly, halted: &events.halted, pacing: newPacing(o.Pace),
		buildAtOnce: o.buildAtOnce, rowsBytes: o.rowsBytes,
	}
	o.FS = politeFS{o.FS, p.pacing}
	p.fs = o.FS
	done := make(chan error, 1)
	go func() { done <- p.open(dir, o, events) }()
	select {
	case err := <-done:
		if err != nil {
			return nil, storeError("open store "+dir, err)
		}
		return p, nil
	case err := <-events.stands:
		// Open waits for a goroutine that stands still, as on a full disk, and
		// so stands still as well: the process is to end.
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
}

func (p *Pebble) open(dir string, o PebbleOptions, events *pebbleEvents) (err error) {
	if p.db, err = pebble.Open(dir, o.pebble(events)); err != nil {
		return firstOf(err)
	}
	p.pacing.db.Store(p.db)
	p.ages.mostKeys, p.ages.mostBytes = cmp.Or(o.GenerationKeys, defaultGenerationKeys), cmp.Or(o.GenerationBytes, defaultGenerationBytes)
	p.ages.hash = o.hash
	p.ages.spare = cmp.Or(o.spareGenerations, spareGenerations)
	if o.hash == nil {
		p.ages.hash = xxhash.Sum64
	}
	if err := p.load(); err != nil {
		p.Hurry()
		return errors.Join(err, p.ages.closeFiles(), p.db.Close())
	}
	return nil
}

// firstOf returns the first of the errors that Pebble joined, which is one for each
// file that is not as it should be, and how many more there are.
func firstOf(err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) < 2 {
		return err
	}
	all := joined.Unwrap()
	return fmt.Errorf("%w (and %d more)", all[0], len(all)-1)
}

func (o PebbleOptions) pebble(events *pebbleEvents) *pebble.Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 32 << 20
	}
	p := &pebble.Options{
		FS:           o.FS,
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
	p.Experimental.SpanPolicyFunc = splitTables
	// Of tables, compactions alone open files to be read in order (politeFS.Open).
	p.Local.ReadaheadConfig = objstorageprovider.NewReadaheadConfig()
	p.Local.ReadaheadConfig.Set(objstorageprovider.FadviseSequential, objstorageprovider.SysReadahead)
	// No compactions of tables for their tombstones alone: they are for walks over what was
	// deleted, and those of the due index begin behind it (Machine.sweptTo, lookedTo). While as
	// many keys end as come they took half a second to two seconds of a processor after each flush.
	p.Experimental.TombstoneDenseCompactionThreshold = -1
	for i := range p.Levels {
		p.TargetFileSizes[i] = 16 << 20 // some for a generation
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
	value, _, err := p.find(key)
	return value, err
}

// find returns the value of key, nil if there is none, and where it is, if it is in a
// generation.
func (p *Pebble) find(key []byte) ([]byte, place, error) {
	if !inGeneration(key) {
		value, err := p.get(key)
		return value, place{}, err
	}
	h := p.ages.hash(key)
	for {
		var room [4]*generation
		found, moves := p.ages.where(room[:0], h)
		for _, g := range found {
			value, at, err := p.findIn(g, h, key)
			if value != nil || err != nil {
				return value, at, err
			}
		}
		// Between the two looks it may have been moved.
		if len(found) == 0 || !p.ages.movedSince(moves) {
			return nil, place{}, nil
		}
	}
}

// findIn looks for key, of hash h, in a generation.
func (p *Pebble) findIn(g *generation, h uint64, key []byte) ([]byte, place, error) {
	f := g.file.Load()
	if f == nil {
		value, err := p.get(agedKey(nil, g.number, key))
		if value != nil || err != nil {
			return value, place{generation: g}, err
		}
		// Meanwhile it may have been given a file, and Pebble have dropped its rows.
		f = g.file.Load()
	}
	if f == nil || !f.acquire() {
		return nil, place{}, nil
	}
	value, at, err := f.find(h, key)
	at.generation, at.file = g, f
	return value, at, errors.Join(err, f.release())
}

// get returns a copy of what Pebble has under key.
func (p *Pebble) get(key []byte) ([]byte, error) {
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

// storeError says what failed, and that what is stored is corrupt if Pebble does.
func storeError(what string, err error) error {
	if pebble.IsCorruptionError(err) {
		return fmt.Errorf("%s: %w: %w", what, ErrCorrupt, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Sync implements Store: it writes out what is in memory. Pebble syncs each
// table, its directory and the manifest before it counts a flush as done.
func (p *Pebble) Sync() error {
	// A file must not go before the mark of it.
	doomed := p.ages.takeDoomed()
	if err := p.db.Flush(); err != nil {
		return fmt.Errorf("sync store: %w", err)
	}
	for _, f := range doomed {
		if err := errors.Join(p.fs.Remove(f.path), f.release()); err != nil {
			return fmt.Errorf("sync store: %w", err)
		}
	}
	return nil
}

// Hurry has the background no longer wait: the store is about to be closed.
func (p *Pebble) Hurry() { p.pacing.hurry.Store(true) }

// Checkpoint makes dir, which must not exist, a store of its own with all that
// was committed before the call and perhaps more, by hard links.
func (p *Pebble) Checkpoint(dir string) error {
	p.files.Lock()
	defer p.files.Unlock()
	// Nothing but tables goes into a checkpoint, for want of a log.
	if err := p.Sync(); err != nil {
		return err
	}
	if err := p.db.Checkpoint(dir); err != nil {
		return fmt.Errorf("checkpoint store: %w", err)
	}
	for _, f := range p.ages.files() {
		if err := vfs.LinkOrCopy(p.fs, f.path, p.fs.PathJoin(dir, p.fs.PathBase(f.path))); err != nil {
			return fmt.Errorf("checkpoint store: %w", err)
		}
	}
	if err := syncDir(p.fs, dir); err != nil {
		return fmt.Errorf("checkpoint store: %w", err)
	}
	return nil
}

// Size returns the bytes that the store takes on disk.
func (p *Pebble) Size() int64 {
	size := int64(p.db.Metrics().DiskSpaceUsage())
	for _, f := range p.ages.files() {
		size += f.size
	}
	return size
}

// Flushed returns the bytes that were written out from memory since the store
// was opened, without the files of generations.
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
	p.Hurry()
	if err := errors.Join(p.endBuild(), p.ages.closeFiles(), p.db.Close()); err != nil {
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
