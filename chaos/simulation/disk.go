package simulation

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// disk is what a host keeps. A process that dies leaves behind what survives
// it, on a disk of its own: what the dead one still writes goes nowhere.
type disk struct {
	dice *dice
	// liar says that what is synced is on disk when it is not.
	liar bool

	mu       sync.Mutex
	identity []byte
	started  bool
	mark     []byte // how far the log reached
	stable   map[string][]byte
	log      entries
	files    map[string][]byte
	stores   map[string]*store

	trouble trouble
}

// trouble is what a disk suffers.
type trouble struct {
	stall   *Fault        // every write to log or state waits until it is over
	over    chan struct{} // closed then
	slow    time.Duration // what every write takes beside
	slowed  *Fault
	failing *Fault // the next write to the log fails
}

var errDisk = errors.New("input/output error")

func newDisk(d *dice) *disk {
	return &disk{dice: d, mark: nil, stable: map[string][]byte{}, files: map[string][]byte{}, stores: map[string]*store{}}
}

// entries is raft's log, without gaps.
type entries struct {
	first  uint64 // 0: empty
	all    []raft.Log
	synced int // how many of them a power cut leaves
	mark   []byte
}

// store is one store of the replicated state.
type store struct {
	live    *fsm.Mem
	durable *fsm.Mem // what is there after the process has died
	since   int      // commits that are not
	// Copies of live are numbered, so that one which took long to be written does not
	// take the place of a later one.
	copies, written int
}

// after returns the disk as a new process finds it: after a kill, or after a
// power cut.
func (d *disk) after(power bool) (next *disk, lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next = &disk{
		dice: d.dice, liar: d.liar, identity: d.identity, started: d.started, mark: slices.Clone(d.mark),
		stable: maps.Clone(d.stable), files: maps.Clone(d.files), stores: map[string]*store{},
	}
	next.log = entries{first: d.log.first, all: slices.Clone(d.log.all), synced: d.log.synced, mark: slices.Clone(d.log.mark)}
	if power {
		lost = len(next.log.all) - next.log.synced
		next.log.all = next.log.all[:next.log.synced]
		if len(next.log.all) == 0 {
			next.log.first = 0
		}
		if d.dice.happens(0.5) { // the mark is not synced when it is raised
			next.mark = slices.Clone(d.log.mark)
		}
	}
	next.log.synced, next.log.mark = len(next.log.all), slices.Clone(next.mark)
	for name, s := range d.stores {
		lost += s.since // Pebble keeps these in the process alone
		next.stores[name] = &store{live: s.durable.Copy(), durable: s.durable.Copy()}
	}
	return next, lost
}

// write lets a write to log or state suffer what it must.
func (d *disk) write() {
	d.mu.Lock()
	t := d.trouble
	d.mu.Unlock()
	if t.stall != nil {
		t.stall.bite()
		<-t.over
	}
	if t.slow > 0 {
		t.slowed.bite()
		time.Sleep(d.dice.between(0, t.slow))
	}
	time.Sleep(d.dice.between(50*time.Microsecond, 500*time.Microsecond))
}

// suffer changes the trouble of the disk.
func (d *disk) suffer(change func(*trouble)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.trouble)
}

// Save implements peer.Keeper.
func (d *disk) Save(data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity = slices.Clone(data)
	return nil
}

// Close implements peer.Keeper.
func (d *disk) Close() error { return nil }

// Started and MarkStarted are cluster.Ground's.
func (d *disk) Started() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.started, nil
}

// MarkStarted is durable at once.
func (d *disk) MarkStarted() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.started = true
	return nil
}

// markFile is the file in which the log keeps how far it reached.
type markFile struct{ *disk }

// ReadAt implements io.ReaderAt.
func (f markFile) ReadAt(b []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at >= int64(len(f.mark)) {
		return 0, io.EOF
	}
	n := copy(b, f.mark[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (f markFile) WriteAt(b []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mark = append(slices.Clone(f.mark[:at]), b...)
	return len(b), nil
}

// Sync makes the mark survive a power cut.
func (f markFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log.mark = slices.Clone(f.mark)
	return nil
}

// Stable is raft's term and vote: synced by every write.
type stable struct{ *disk }

var errNotFound = errors.New("not found") // the text that raft matches

// Set implements raft.StableStore.
func (s stable) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stable[string(key)] = slices.Clone(value)
	return nil
}

// Get implements raft.StableStore.
func (s stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return slices.Clone(value), nil
}

// SetUint64 implements raft.StableStore.
func (s stable) SetUint64(key []byte, value uint64) error {
	return s.Set(key, appendNumber(nil, value))
}

// GetUint64 implements raft.StableStore.
func (s stable) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	return number(value), nil
}

// base is the name of a path in its directory, if it is in dir.
func base(dir, file string) (string, bool) { return path.Base(file), path.Dir(file) == dir }

// names are those of all that is in dir, in order.
func (d *disk) names(dir string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for file := range d.files {
		if name, in := base(dir, file); in {
			names = append(names, name)
		}
	}
	for file := range d.stores {
		if name, in := base(dir, file); in {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (d *disk) readFile(file string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, ok := d.files[file]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(data), nil
}
