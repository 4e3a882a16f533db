//go:build !wasip1

package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

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
	_, err = scanRange(p.db, []byte{firstAged}, []byte{tableAged}, func(key, value []byte) bool {
		switch {
		case key[0] == tableFiled && len(key) == agedPrefix:
			var m fileMark
			m, failed = openMark(key, value)
			marks = append(marks, m)
		case key[0] == tableTombstone && len(key) == agedPrefix+4 && len(value) == 4:
			// See loadFiled.
		default:
			failed = fmt.Errorf("it was written by another version: there is a key in table %q", key[:1])
		}
		return failed == nil
	})
	return marks, errors.Join(err, failed)
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
	next := uint32(1)
	for some := keys.First(); some || len(marks) > 0; {
		if len(marks) > 0 && (!some || marks[0].number <= numberOf(keys.Key())) {
			if err := p.loadFiled(marks[0], dead); err != nil {
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
		return corrupt(dead.Key(), "its generation has no file")
	}
	if len(p.ages.all) == 0 || p.ages.current().number < next {
		p.ages.begin(next)
	}
	return nil
}

// loadFiled begins a generation with a file. dead is at the first of its rows that have
// been deleted, if there are any.
func (p *Pebble) loadFiled(m fileMark, dead *pebble.Iterator) error {
	g := p.ages.begin(m.number)
	gone := map[uint32]bool{}
	for ; dead.Valid() && numberOf(dead.Key()) <= m.number; dead.Next() {
		if numberOf(dead.Key()) < m.number {
			return corrupt(dead.Key(), "its generation has no file")
		}
		gone[binary.BigEndian.Uint32(dead.Key()[agedPrefix:])] = true // its reference
		size, err := dead.ValueAndErr()
		if err != nil {
			return err
		}
		g.dead += int64(binary.BigEndian.Uint32(size))
	}
	if err := dead.Error(); err != nil {
		return err
	}
	file, number, err := openRows(p.fs, p.rowsPath(m.number), func(hash uint64, ref uint32) bool {
		if len(gone) > 0 && gone[ref] {
			return false
		}
		p.ages.index.add(hash, g.tag())
		g.keys++
		return true
	})
	if err != nil {
		return err
	}
	g.file.Store(file)
	g.had = int(m.had)
	if number != m.number || file.rows() != int(m.rows) || file.digest != m.digest {
		return file.corrupt("it is not the file of its generation")
	}
	if file.rows()-g.keys != len(gone) {
		return corrupt([]byte{tableTombstone}, "it names what is no row of its generation")
	}
	if g.keys == 0 {
		p.ages.empty = append(p.ages.empty, g)
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
