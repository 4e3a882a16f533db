//go:build !wasip1

package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// cursor goes through rows of a generation in the order of their keys.
type cursor interface {
	// next moves to the next row, at first to the first, and tells whether there is one.
	next() (bool, error)
	// row returns the row. It is valid until the next call.
	row() (key, value []byte, err error)
	// source is the file that the row is in, or nil, and reference its reference there.
	source() *rowFile
	reference() uint32
	close() error
}

// cursor returns one for the rows in [from, to) that g has in r. nil is no bound.
func (p *Pebble) cursor(r pebble.Reader, g *generation, from, to []byte) (cursor, error) {
	_, held, err := r.Get(ownKey(tableFiled, g.number))
	if err == nil {
		if err := held.Close(); err != nil {
			return nil, err
		}
		return newFileCursor(r, g, from, to)
	}
	if err != pebble.ErrNotFound {
		return nil, err
	}
	o := new(pebble.IterOptions)
	o.LowerBound, o.UpperBound = g.bounds()
	if from != nil {
		o.LowerBound = agedKey(nil, g.number, from)
	}
	if to != nil {
		o.UpperBound = agedKey(nil, g.number, to)
	}
	it, err := r.NewIter(o)
	return &storeCursor{it: it}, err
}

// storeCursor is a cursor of what Pebble has.
type storeCursor struct {
	it    *pebble.Iterator
	begun bool
}

func (c *storeCursor) next() (bool, error) {
	if !c.begun {
		c.begun = true
		return c.it.First(), c.it.Error()
	}
	return c.it.Next(), c.it.Error()
}

func (c *storeCursor) row() (key, value []byte, err error) {
	value, err = c.it.ValueAndErr()
	return c.it.Key()[agedPrefix:], value, err
}

func (*storeCursor) source() *rowFile  { return nil }
func (*storeCursor) reference() uint32 { return 0 }
func (c *storeCursor) close() error    { return c.it.Close() }

// fileCursor is a cursor of what a file has, without the rows that r knows to have been
// deleted.
type fileCursor struct {
	*rowScan
	from, to []byte
	dead     *pebble.Iterator // at the first that is not before the row
}

func newFileCursor(r pebble.Reader, g *generation, from, to []byte) (cursor, error) {
	dead, err := r.NewIter(&pebble.IterOptions{LowerBound: ownKey(tableTombstone, g.number), UpperBound: ownKey(tableTombstone, g.number+1)})
	if err != nil {
		return nil, err
	}
	atOnce := int64(allRows)
	if to != nil {
		atOnce = someRows
	}
	c := &fileCursor{rowScan: g.file.Load().scanFrom(from, atOnce), from: from, to: to, dead: dead}
	c.dead.SeekGE(tombstone{ref: uint32(c.block * blockRows)}.key(g.number))
	return c, nil
}

func (c *fileCursor) next() (bool, error) {
	for {
		ok, err := c.rowScan.next()
		switch {
		case !ok || err != nil:
			return false, err
		case c.to != nil && bytes.Compare(c.key, c.to) >= 0:
			return false, nil
		case bytes.Compare(c.key, c.from) < 0 || c.deleted():
			continue
		}
		err = c.dead.Error()
		return err == nil, err
	}
}

// deleted tells whether the row is.
func (c *fileCursor) deleted() bool {
	at := func() uint32 { return binary.BigEndian.Uint32(c.dead.Key()[agedPrefix:]) }
	for c.dead.Valid() && at() < c.ref {
		c.dead.Next()
	}
	return c.dead.Valid() && at() == c.ref
}

func (c *fileCursor) row() (key, value []byte, err error) { return c.key, c.value, nil }
func (c *fileCursor) source() *rowFile                    { return c.f }
func (c *fileCursor) reference() uint32                   { return c.ref }
func (c *fileCursor) close() error                        { return c.dead.Close() }
