//go:build !wasip1

package fsm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const rowsSuffix = ".rows"

func rowsName(number uint32) string { return fmt.Sprintf("generation-%010d%s", number, rowsSuffix) }

func (p *Pebble) rowsPath(number uint32) string { return p.fs.PathJoin(p.dir, rowsName(number)) }

// load makes the generations of what is stored.
func (p *Pebble) load() error {
	marks, err := p.loadMarks()
	if err != nil {
		return err
	}
	rows := 0
	for _, m := range marks {
		info, err := p.fs.Stat(p.rowsPath(m.number))
		if err != nil {
			return err
		}
		rows += int(min(int64(m.rows), info.Size()/directoryItem))
	}
	p.ages.index.reserve(rows)
	if err := p.loadGenerations(marks); err != nil {
		return err
	}
	if p.readOnly {
		return nil
	}
	return p.removeStrays()
}

// loadMarks returns which generations have files, and refuses keys that this version
// keeps in generations and has found outside.
func (p *Pebble) loadMarks() (marks []fileMark, err error) {
	var failed error
	_, err = scanRange(p.db, []byte{firstAged}, []byte{tableTombstone}, func(key, _ []byte) bool {
		failed = anotherVersion(key)
		return false
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	_, err = scanRange(p.db, []byte{tableFiled}, []byte{tableAged}, func(key, value []byte) bool {
		if len(key) != agedPrefix {
			failed = anotherVersion(key)
			return false
		}
		var m fileMark
		m, failed = openMark(key, value)
		marks = append(marks, m)
		return failed == nil
	})
	return marks, errors.Join(err, failed)
}

func anotherVersion(key []byte) error {
	return fmt.Errorf("it was written by another version: there is a key in table %q", key[:1])
}

// loadGenerations begins them one after the other: some have a file and some keys, and
// the last, if it has no file, is the current one.
func (p *Pebble) loadGenerations(marks []fileMark) (err error) {
	keys, err := p.db.NewIter(&pebble.IterOptions{LowerBound: ownKey(tableAged, 0)})
	if err != nil {
		return err
	}
	defer closeAfter(keys, &err)
	dead, err := p.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableTombstone}, UpperBound: []byte{tableTombstone + 1}})
	if err != nil {
		return err
	}
	defer closeAfter(dead, &err)
	dead.First()
	files := p.readAhead(marks)
	defer func() { err = errors.Join(err, files.close()) }()
	next := uint32(1)
	for some := keys.First(); some || len(marks) > 0; {
		if len(marks) > 0 && (!some || marks[0].number <= numberOf(keys.Key())) {
			file, err := files.next()
			if err != nil {
				return err
			}
			if err := p.loadFiled(marks[0], file, dead); err != nil {
				return err
			}
			if some && numberOf(keys.Key()) == marks[0].number {
				return corrupt(keys.Key(), "its generation has a file")
			}
			next, marks = marks[0].number+1, marks[1:]
			continue
		}
		next = numberOf(keys.Key())
		if some, err = p.loadKeys(next, keys); err != nil {
			return err
		}
	}
	if dead.Valid() {
		return cmp.Or(checkTombstone(dead, numberOf(dead.Key())), corrupt(dead.Key(), "its generation has no file"))
	}
	if len(p.ages.all) == 0 || p.ages.current().number < next {
		p.ages.begin(next)
	}
	return nil
}

// loadFiled begins a generation with a file. dead is at the first of its rows that have
// been deleted, if there are any.
func (p *Pebble) loadFiled(m fileMark, file *rowFile, dead *pebble.Iterator) error {
	g := p.ages.begin(m.number)
	g.file.Store(file)
	g.had = int(m.had)
	gone, err := g.loadTombstones(dead)
	if err != nil {
		return err
	}
	var removed atomic.Int64
	err = file.fill(func(hashes []uint64, refs []uint32) {
		live := hashes
		if len(gone) > 0 {
			live = hashes[:0]
			for i, h := range hashes {
				if !gone[refs[i]] {
					live = append(live, h)
					continue
				}
				refs[i] = deadRef
				removed.Add(1)
			}
		}
		p.ages.index.addAll(live, g.tag()) // the two goroutines are never at one of its tables
	})
	if err != nil {
		return err
	}
	g.keys = file.rows() - int(removed.Load())
	if file.number != m.number || file.rows() != int(m.rows) || file.digest != m.digest {
		return file.corrupt("it is not the file of its generation")
	}
	if int(removed.Load()) != len(gone) {
		return corrupt([]byte{tableTombstone}, "it names what is no row of its generation")
	}
	if g.keys == 0 {
		p.ages.empty = append(p.ages.empty, g)
	}
	return nil
}

// filesAhead reads row files in a goroutine of its own, each while the one before is filled.
type filesAhead struct {
	read chan fileRead
	stop atomic.Bool
}

type fileRead struct {
	file *rowFile
	err  error
}

// readAhead begins to read the files of marks. The caller calls close in the end.
func (p *Pebble) readAhead(marks []fileMark) *filesAhead {
	ahead := &filesAhead{read: make(chan fileRead)}
	go func() {
		defer close(ahead.read)
		for _, m := range marks {
			if ahead.stop.Load() {
				return
			}
			file, err := readRows(p.fs, p.rowsPath(m.number))
			ahead.read <- fileRead{file, err}
		}
	}()
	return ahead
}

// next returns the file of the next mark, which is the caller's to release.
func (a *filesAhead) next() (*rowFile, error) {
	next := <-a.read
	return next.file, next.err
}

// close waits for the goroutine, and closes what nobody asked for.
func (a *filesAhead) close() (err error) {
	a.stop.Store(true)
	for left := range a.read {
		if left.file != nil {
			err = errors.Join(err, left.file.release())
		}
	}
	return err
}

// loadTombstones returns the references of rows of the generation's file that have been
// deleted.
func (g *generation) loadTombstones(dead *pebble.Iterator) (gone map[uint32]bool, err error) {
	gone = map[uint32]bool{}
	for ; dead.Valid() && numberOf(dead.Key()) <= g.number; dead.Next() {
		if err := checkTombstone(dead, g.number); err != nil {
			return nil, err
		}
		size, err := dead.ValueAndErr()
		if err != nil {
			return nil, err
		}
		gone[binary.BigEndian.Uint32(dead.Key()[agedPrefix:])] = true
		g.dead += int64(binary.BigEndian.Uint32(size))
	}
	return gone, dead.Error()
}

// checkTombstone checks that dead is at a tombstone of a generation's file.
func checkTombstone(dead *pebble.Iterator, number uint32) error {
	size := dead.LazyValue()
	switch {
	case len(dead.Key()) != agedPrefix+4 || size.Len() != 4:
		return anotherVersion(dead.Key())
	case numberOf(dead.Key()) != number:
		return corrupt(dead.Key(), "its generation has no file")
	}
	return nil
}

// loadKeys begins a generation without file. keys is at the first of its keys, and then
// at that of the next; it returns whether there is one.
func (p *Pebble) loadKeys(number uint32, keys *pebble.Iterator) (some bool, err error) {
	g := p.ages.begin(number)
	for some = true; some && numberOf(keys.Key()) == number; some = keys.Next() {
		if len(keys.Key()) <= agedPrefix || number == math.MaxUint32 {
			return false, corrupt(keys.Key(), "a key is too short, or its generation has a number that none can have")
		}
		p.ages.index.add(p.ages.hash(keys.Key()[agedPrefix:]), g.tag())
		g.keys++
		value := keys.LazyValue()
		p.ages.bytes += len(keys.Key()) + value.Len()
	}
	g.had = g.keys
	return some, keys.Error()
}

// removeStrays removes row files that belong to no generation: a crash came before
// there was a mark for them, or after that was gone.
func (p *Pebble) removeStrays() error {
	names, err := p.fs.List(p.dir)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, g := range p.ages.all {
		if g.file.Load() != nil {
			known[rowsName(g.number)] = true
		}
	}
	for _, name := range names {
		if strings.HasSuffix(name, rowsSuffix) && !known[name] {
			if err := p.fs.Remove(p.fs.PathJoin(p.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeFiles closes the files of all generations, and of those that have been dropped.
func (s *generations) closeFiles() (err error) {
	for _, f := range slices.Concat(filesOf(s.all), s.doomed) {
		err = errors.Join(err, f.release())
	}
	return err
}

// syncDir makes the names in dir durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// closeAfter closes it; an iterator that met an error says so then.
func closeAfter(it *pebble.Iterator, err *error) {
	if e := it.Close(); e != nil && *err == nil {
		*err = e
	}
}
