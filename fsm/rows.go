//go:build !wasip1

package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A row file has the rows of one generation, each a key and its value, and is never
// changed. With its directory in memory a row is one read of the file away, and that
// costs the same however many there are; in an LSM store it is a search through its
// levels, and a larger block to be unpacked. It is, in essence, a constant database
// (Bernstein's cdb) whose hash table is in memory and whose rows are in order.
//
//	"onced rows 1\n"
//	a block of some rows, in the order of their keys:
//	    crc32c  4 bytes, of what follows
//	    S2 block; for each row the lengths of key and value as varints, key, value
//	the tail:
//	    number     4 bytes, of the generation
//	    rows       4 bytes, how many there are
//	    plain      8 bytes, how long their keys and values are together
//	    blocks     4 bytes their number, and for each where it begins in 4
//	    index      4 bytes how many blocks are in it; for each its number in 4, the length
//	               of its first key as a varint, and the key
//	    directory  for each row the hash of its key in 8 bytes, and its reference in 4, in
//	               ascending order
//	where the tail begins, 8 bytes
//	xxhash64 of the tail and of that, 8 bytes
//
// Numbers are big endian. The reference of a row is 8 times the number of its block, from
// 0, and its number there.
const (
	rowsMagic     = "onced rows 1\n"
	rowsFooter    = 8 + 8
	rowsTailHead  = 4 + 4 + 8 + 4
	directoryItem = 8 + 4
	blockCRC      = 4
	// A block ends with its 8th row, or once it has so many bytes before it is packed: few
	// enough to be unpacked for one row, and enough for what rows have in common. A longer
	// row is in a block of its own.
	blockRows  = 8
	blockBytes = 2 << 10
	// longestRow is how long key and value may be together: those of the largest
	// response are half as long.
	longestRow = 128 << 20
	// So many blocks, or bytes of them, are between two that are in the index, from which a
	// scan looks for its first key.
	indexBlocks = 16
	indexBytes  = 64 << 10
	// bucketRows is how many rows share a bucket of the directory at most, about.
	bucketRows = 8
	// fillRows is how many rows are taken into a directory at once.
	fillRows = 64
	// deadRef stands in the directory for a row that has been deleted.
	deadRef = math.MaxUint32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rowFile is an open row file. What has been deleted of it is known in memory; the
// store keeps it under keys of its own (see deadKey).
type rowFile struct {
	file   vfs.File
	path   string
	number uint32 // of its generation
	size   int64
	plain  int64  // bytes of all its rows before they are packed
	digest uint64 // of its tail
	// Where each block begins, and the last one ends.
	blocks []uint32
	index  []indexEntry
	// The directory, in the order of hashes: a bucket has the rows from its start to
	// the next one's. Of each row there are some bits of the hash, and its reference.
	starts []uint32
	checks []uint16
	refs   []atomic.Uint32
	// The directory as it was read, until it is filled.
	unfilled []byte

	users atomic.Int32
}

// indexEntry is the first key of a block.
type indexEntry struct {
	block uint32
	key   []byte
}

// openRows opens a row file of which nothing has been deleted.
func openRows(fs vfs.FS, path string) (*rowFile, error) {
	f, err := readRows(fs, path)
	if err != nil {
		return nil, err
	}
	if err := f.fill(func([]uint64, []uint32) {}); err != nil {
		return nil, errors.Join(err, f.release())
	}
	return f, nil
}

// readRows opens a row file and reads its tail. Before it is of use it is to be filled.
func readRows(fs vfs.FS, path string) (*rowFile, error) {
	file, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	f := &rowFile{file: file, path: path}
	f.users.Store(1)
	if err := f.load(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

func (f *rowFile) load() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	f.size = info.Size()
	tail, end, err := f.readTail()
	if err != nil {
		return err
	}
	r := tailReader{rest: tail}
	f.number = r.number()
	rows := int(r.number())
	f.plain = int64(r.number())<<32 | int64(r.number())
	if err := f.loadBlocks(&r, end); err != nil {
		return err
	}
	if err := f.loadIndex(&r); err != nil {
		return err
	}
	if r.short || len(r.rest) != rows*directoryItem || rows == 0 || f.plain < 0 {
		return f.corrupt("its tail is too long or too short")
	}
	f.unfilled = r.rest
	return nil
}

// readTail returns the tail, checked, without the footer, and where it begins.
func (f *rowFile) readTail() (tail []byte, end int64, err error) {
	if f.size < int64(len(rowsMagic)+rowsTailHead+rowsFooter) {
		return nil, 0, f.corrupt("it is too short")
	}
	footer, magic := make([]byte, rowsFooter), make([]byte, len(rowsMagic))
	if err := f.readAt(footer, f.size-rowsFooter); err != nil {
		return nil, 0, err
	}
	if err := f.readAt(magic, 0); err != nil {
		return nil, 0, err
	}
	end, f.digest = int64(binary.BigEndian.Uint64(footer)), binary.BigEndian.Uint64(footer[8:])
	if end < int64(len(rowsMagic)) || end > f.size-rowsFooter-rowsTailHead {
		return nil, 0, f.corrupt("its tail begins nowhere")
	}
	tail = make([]byte, f.size-8-end)
	if err := f.readAt(tail, end); err != nil {
		return nil, 0, err
	}
	if string(magic) != rowsMagic || xxhash.Sum64(tail) != f.digest {
		return nil, 0, f.corrupt("digest differs")
	}
	return tail[:len(tail)-8], end, nil
}

// loadBlocks takes the blocks from the tail; the last one ends at end.
func (f *rowFile) loadBlocks(r *tailReader, end int64) error {
	n := int(r.number())
	starts := r.bytes(4 * n)
	if r.short || n == 0 || n > math.MaxUint32/blockRows || end > math.MaxUint32 {
		return f.corrupt("its tail is too short for its blocks")
	}
	f.blocks = make([]uint32, 0, n+1)
	least := int64(len(rowsMagic))
	for ; len(starts) > 0; starts = starts[4:] {
		start := binary.BigEndian.Uint32(starts)
		if int64(start) < least || len(f.blocks) == 0 && int64(start) > least {
			return f.corrupt("its blocks are in no order")
		}
		f.blocks = append(f.blocks, start)
		least = int64(start) + blockCRC + 1
	}
	if f.blocks = append(f.blocks, uint32(end)); end < least {
		return f.corrupt("its last block is too short")
	}
	return nil
}

func (f *rowFile) loadIndex(r *tailReader) error {
	for n := r.number(); n > 0 && !r.short; n-- {
		next := indexEntry{r.number(), bytes.Clone(r.bytes(int(r.varint())))}
		if i := len(f.index); i > 0 && (next.block <= f.index[i-1].block || bytes.Compare(next.key, f.index[i-1].key) <= 0) ||
			i == 0 && next.block != 0 || int(next.block) >= len(f.blocks)-1 {
			return f.corrupt("its index is in no order")
		}
		f.index = append(f.index, next)
	}
	if len(f.index) == 0 {
		return f.corrupt("it has no index")
	}
	return nil
}

// fill makes the directory, its lower half beside its upper, since most of a start is spent
// here. It calls each with the hashes and references of some rows after the other, who puts
// deadRef in the place of those that have been deleted, and may change the hashes. It is
// called by two goroutines, each for hashes of another first bit.
func (f *rowFile) fill(each func(hashes []uint64, refs []uint32)) error {
	items := f.unfilled
	f.unfilled = nil
	rows := len(items) / directoryItem
	f.starts = make([]uint32, 1<<(64-directoryShift(rows))+1)
	f.checks, f.refs = make([]uint16, rows), make([]atomic.Uint32, rows)
	middle := sort.Search(rows, func(i int) bool { return items[i*directoryItem] >= 0x80 })
	var upper error
	var filling sync.WaitGroup
	filling.Go(func() { upper = f.fillHalf(items, middle, rows, 1, each) })
	lower := f.fillHalf(items, 0, middle, 0, each)
	filling.Wait()
	return cmp.Or(lower, upper)
}

// fillHalf makes the slots [from, to) of the directory, whose hashes all have this as their
// first bit.
func (f *rowFile) fillHalf(items []byte, from, to, bit int, each func([]uint64, []uint32)) error {
	var hashes [fillRows]uint64
	var refs [fillRows]uint32
	shift, blocks := directoryShift(f.rows()), uint32(len(f.blocks)-1)
	buckets := (len(f.starts) - 1) / 2
	bucket, end := bit*buckets, (bit+1)*buckets
	last := uint64(bit) << 63
	for from < to {
		n := min(fillRows, to-from)
		for i := range n {
			item := items[(from+i)*directoryItem:]
			h, ref := binary.BigEndian.Uint64(item), binary.BigEndian.Uint32(item[8:])
			if h < last || int(h>>63) != bit || ref/blockRows >= blocks {
				return f.corrupt("its directory is in no order")
			}
			last = h
			for ; bucket < int(h>>shift); bucket++ {
				f.starts[bucket+1] = uint32(from + i)
			}
			f.checks[from+i] = checkOf(h)
			hashes[i], refs[i] = h, ref
		}
		each(hashes[:n], refs[:n])
		for i, ref := range refs[:n] {
			f.refs[from+i].Store(ref)
		}
		from += n
	}
	for ; bucket < end; bucket++ {
		f.starts[bucket+1] = uint32(to)
	}
	return nil
}

// directoryShift is how many bits of a hash do not tell its bucket. There are at
// least two buckets.
func directoryShift(rows int) int { return 64 - max(1, bits.Len(uint(rows/bucketRows))) }

// checkOf is what a directory tells hashes of a bucket apart by: bits of which
// neither the buckets nor a hashIndex make use.
func checkOf(h uint64) uint16 { return uint16(h >> 32) }

// bucket returns the slots in which rows of hash h are.
func (f *rowFile) bucket(h uint64) (from, to int) {
	b := h >> directoryShift(f.rows())
	return int(f.starts[b]), int(f.starts[b+1])
}

// find returns a copy of the value of key, whose hash is h, and slot and size of its row;
// or nil, if there is none, or no longer.
func (f *rowFile) find(h uint64, key []byte) (value []byte, at place, err error) {
	from, to := f.bucket(h)
	check := checkOf(h)
	for slot := from; slot < to; slot++ {
		if f.checks[slot] != check {
			continue
		}
		ref := f.ref(slot)
		if ref == deadRef {
			continue
		}
		if value, err := f.valueOf(ref, key); value != nil || err != nil {
			return value, place{slot: slot, size: uint32(len(key) + len(value))}, err
		}
	}
	return nil, place{}, nil
}

// slotOf returns the slot of a row that has not been deleted, by the hash of its key and
// its reference, or -1.
func (f *rowFile) slotOf(h uint64, ref uint32) int {
	from, to := f.bucket(h)
	for slot := from; slot < to; slot++ {
		if f.ref(slot) == ref {
			return slot
		}
	}
	return -1
}

// rows is how many it has, deleted ones too.
func (f *rowFile) rows() int { return len(f.refs) }

// ref is the reference of the row in a slot, or deadRef.
func (f *rowFile) ref(slot int) uint32 { return f.refs[slot].Load() }

// remove has find pass over the row in a slot.
func (f *rowFile) remove(slot int) { f.refs[slot].Store(deadRef) }

// acquire keeps the file open until release, if it is.
func (f *rowFile) acquire() bool {
	for {
		n := f.users.Load()
		if n == 0 {
			return false
		}
		if f.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release closes the file after the last who had acquired or opened it.
func (f *rowFile) release() error {
	if f.users.Add(-1) > 0 {
		return nil
	}
	return f.file.Close()
}

func (f *rowFile) corrupt(what string) error {
	return fmt.Errorf("read %s: %s: %w", f.path, what, ErrCorrupt)
}

func (f *rowFile) failed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return f.corrupt("it is cut short")
	}
	return storeError("read "+f.path, err)
}

func (f *rowFile) readAt(b []byte, offset int64) error {
	if _, err := f.file.ReadAt(b, offset); err != nil {
		return f.failed(err)
	}
	return nil
}

// tailReader takes numbers and bytes from the tail of a row file.
type tailReader struct {
	rest  []byte
	short bool // there was less than was asked for
}

func (r *tailReader) bytes(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.rest, r.short = nil, true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *tailReader) number() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *tailReader) varint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.rest, r.short = nil, true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}
