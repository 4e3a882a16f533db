//go:build !wasip1

package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// build writes the row file of a generation, beside what goes on. Its keys can go
// meanwhile, but none come.
type build struct {
	g        *generation
	category vfs.DiskWriteCategory
	work     *work
	snapshot *pebble.Snapshot
	stop     atomic.Bool
	done     chan struct{} // closed when it is over, and file and err are set
	file     *rowFile
	err      error
	gone     []tombstone // of rows whose keys have gone since the snapshot was taken

	mu   sync.Mutex
	told []string // such keys, whose rows are still to be found
}

// tombstone is of a row of a file that has been deleted.
type tombstone struct{ ref, size uint32 }

// leftToInstall is of how many keys that have gone it is worth while for a build to find
// the rows before it ends.
const leftToInstall = 64

// tell has it know that a key has gone.
func (b *build) tell(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, key)
}

// catchUp has rows removed whose keys have gone, and returns how many.
func (b *build) catchUp(hash func([]byte) uint64, work *work) (int, error) {
	b.mu.Lock()
	told := b.told
	b.told = nil
	b.mu.Unlock()
	for _, key := range told {
		value, at, err := b.file.find(hash([]byte(key)), []byte(key))
		if err != nil {
			return 0, err
		}
		if value == nil {
			return 0, b.file.corrupt("it has not got a key that it was made of")
		}
		b.gone = append(b.gone, tombstone{b.file.ref(at.slot), at.size})
		b.file.remove(at.slot)
		work.add(findWork)
	}
	return len(told), nil
}

// tend, which the writer calls between two batches, sees to it that generations get
// their files, one after the other, as far as it may change the files.
func (p *Pebble) tend(files bool) error {
	for {
		if b := p.building; b != nil {
			switch {
			case !b.over():
				return nil
			case !files && b.err == nil:
				_, err := b.catchUp(p.ages.hash, nil) // not all at once later
				return err
			case files:
				p.building, b.g.build = nil, nil
				if err := p.install(b); err != nil {
					return err
				}
			}
		}
		if !files {
			return nil
		}
		g, others := p.ages.withoutFile()
		if g == nil {
			return nil
		}
		p.building = p.startBuild(g, others == 0)
		if p.buildAtOnce {
			<-p.building.done
		}
	}
}

// startBuild has the file of g written, paced unless others wait for it to be.
func (p *Pebble) startBuild(g *generation, paced bool) *build {
	b := &build{g: g, category: rowsCategory, snapshot: p.db.NewSnapshot(), done: make(chan struct{})}
	if !paced {
		b.category = vfs.WriteCategoryUnspecified
	}
	g.build, b.work = b, &work{did: p.pacing.of(b.category)}
	go func() {
		defer close(b.done)
		b.err = errors.Join(p.writeRows(b), b.snapshot.Close())
	}()
	return b
}

func (b *build) over() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// withoutFile returns the oldest generation that is to have a file and has none.
// others is how many more there are.
func (s *generations) withoutFile() (oldest *generation, others int) {
	for _, g := range s.all[:len(s.all)-1] {
		switch {
		case g.keys == 0 || g.file.Load() != nil || g.noFile:
		case oldest == nil:
			oldest = g
		default:
			others++
		}
	}
	return oldest, others
}

// writeRows writes what b's snapshot has of its generation, and opens the file.
func (p *Pebble) writeRows(b *build) error {
	if err := p.writeFile(b); err != nil {
		return err
	}
	if err := syncDir(p.fs, p.dir); err != nil {
		return err
	}
	file, err := openRows(p.fs, p.rowsPath(b.g.number))
	if err != nil {
		return err
	}
	b.file = file
	for n := leftToInstall; err == nil && n >= leftToInstall; {
		n, err = b.catchUp(p.ages.hash, b.work)
	}
	return err
}

func (p *Pebble) writeFile(b *build) error {
	w, err := createRows(p.fs, p.rowsPath(b.g.number), b.category, p.rowsBytes)
	if err != nil {
		return err
	}
	w.work = b.work
	var failed error
	from, to := b.g.bounds()
	// Of keys that have gone there is nothing to be written, but they are to be passed.
	passed := func([]byte) bool {
		b.work.add(passWork)
		return false
	}
	o := pebble.IterOptions{LowerBound: from, UpperBound: to, SkipPoint: passed}
	_, err = scanWith(b.snapshot, &o, func(key, value []byte) bool {
		if b.stop.Load() {
			failed = errors.New("the store is being closed")
		} else {
			key = key[agedPrefix:]
			failed = w.add(p.ages.hash(key), key, value)
		}
		return failed == nil
	})
	if err = errors.Join(err, failed); err == nil {
		err = w.finish(b.g.number)
	}
	return errors.Join(err, w.file.Close())
}

// install has the rows of a generation be in its file, and no longer in Pebble.
func (p *Pebble) install(b *build) error {
	switch {
	case errors.Is(b.err, errRowsTooLong):
		b.g.noFile = true
		return p.fs.Remove(p.rowsPath(b.g.number))
	case b.err != nil: // the node is to end, so the file may stay open
		return fmt.Errorf("write rows of generation %d: %w", b.g.number, b.err)
	case b.g.dropped:
		p.ages.locked(func() { p.ages.doomed = append(p.ages.doomed, b.file) })
		return nil
	}
	if _, err := b.catchUp(p.ages.hash, nil); err != nil {
		return err
	}
	batch := p.db.NewBatch()
	err := b.write(batch)
	if err == nil {
		// First, so that a row which is no longer in Pebble is looked for in the file.
		b.g.file.Store(b.file)
		err = batch.Commit(pebble.NoSync)
	}
	return errors.Join(err, batch.Close())
}

func (b *build) write(batch *pebble.Batch) error {
	from, to := b.g.bounds()
	if err := batch.DeleteRange(from, to, nil); err != nil {
		return err
	}
	for _, t := range b.gone {
		b.g.dead += int64(t.size)
		if err := batch.Set(t.key(b.g.number), t.value(), nil); err != nil {
			return err
		}
	}
	mark := fileMark{b.g.number, uint32(b.file.rows()), uint32(b.g.had), b.file.digest}
	return batch.Set(mark.key(), mark.value(), nil)
}

func (t tombstone) key(number uint32) []byte {
	return binary.BigEndian.AppendUint32(ownKey(tableTombstone, number), t.ref)
}

func (t tombstone) value() []byte { return binary.BigEndian.AppendUint32(nil, t.size) }

// fileMark is what Pebble has of a generation with a file: how many rows that has, how
// many keys came to the generation, some of which may have gone before, and the digest of
// the file's tail.
type fileMark struct {
	number, rows, had uint32
	digest            uint64
}

func (m fileMark) key() []byte { return ownKey(tableFiled, m.number) }

func (m fileMark) value() []byte {
	value := binary.BigEndian.AppendUint32(make([]byte, headerSize), m.rows)
	value = binary.BigEndian.AppendUint32(value, m.had)
	value = binary.BigEndian.AppendUint64(value, m.digest)
	seal(value, m.key())
	return value
}

func openMark(key, value []byte) (fileMark, error) {
	payload, err := openPayload(key, value)
	if err == nil && len(payload) != 4+4+8 {
		err = corrupt(key, "it is too long or too short")
	}
	if err == nil && numberOf(key) == math.MaxUint32 {
		err = corrupt(key, "no generation can have this number")
	}
	if err != nil {
		return fileMark{}, err
	}
	n := binary.BigEndian
	return fileMark{numberOf(key), n.Uint32(payload), n.Uint32(payload[4:]), n.Uint64(payload[8:])}, nil
}

// bounds are those of its keys in Pebble.
func (g *generation) bounds() (from, to []byte) {
	return ownKey(tableAged, g.number), ownKey(tableAged, g.number+1)
}

// endBuild stops what is being written and waits until it is over.
func (p *Pebble) endBuild() error {
	b := p.building
	if b == nil {
		return nil
	}
	b.stop.Store(true)
	<-b.done
	p.building = nil
	if b.file == nil {
		return nil
	}
	return b.file.release()
}
