//go:build !wasip1

package fsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sort"
	"sync"

	"github.com/klauspost/compress/s2"
)

// blockRoom is space for a block. It is used again unless the block is large.
type blockRoom struct{ packed, plain []byte }

var blockRooms = sync.Pool{New: func() any { return new(blockRoom) }}

const keptRoom = 64 << 10

func (r *blockRoom) free() {
	if cap(r.packed)+cap(r.plain) <= keptRoom {
		blockRooms.Put(r)
	}
}

// valueOf returns a copy of the value of the row of a reference, if its key is this one.
func (f *rowFile) valueOf(ref uint32, key []byte) ([]byte, error) {
	room := blockRooms.Get().(*blockRoom)
	defer room.free()
	k, value, err := f.read(ref, room)
	if err != nil || !bytes.Equal(k, key) {
		return nil, err
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

// read returns the row of a reference, in room.
func (f *rowFile) read(ref uint32, room *blockRoom) (key, value []byte, err error) {
	rest, err := f.readBlock(ref/blockRows, room)
	for i := ref % blockRows; err == nil; i-- {
		if key, value, rest, err = f.row(rest); i == 0 {
			break
		}
	}
	return key, value, err
}

// readBlock returns the rows of a block, in room.
func (f *rowFile) readBlock(block uint32, room *blockRoom) ([]byte, error) {
	from, to := f.blocks[block], f.blocks[block+1]
	packed := grown(&room.packed, int(to-from))
	if n := readSoon(f.file, packed, int64(from)); n < len(packed) {
		if err := f.readAt(packed[n:], int64(from)+int64(n)); err != nil {
			return nil, err
		}
	}
	return f.unpack(packed, room)
}

// unpack returns the rows of a block, in room.
func (f *rowFile) unpack(packed []byte, room *blockRoom) ([]byte, error) {
	if binary.BigEndian.Uint32(packed) != crc32.Checksum(packed[blockCRC:], castagnoli) {
		return nil, f.corrupt("the checksum of a block differs")
	}
	size, err := s2.DecodedLen(packed[blockCRC:])
	if err != nil || size > longestRow+blockBytes+2*blockRows*binary.MaxVarintLen64 {
		return nil, f.corrupt("a block has no size")
	}
	plain, err := s2.Decode(grown(&room.plain, size), packed[blockCRC:])
	if err != nil {
		return nil, f.corrupt(err.Error())
	}
	return plain, nil
}

// row takes the first row from those of a block.
func (f *rowFile) row(rows []byte) (key, value, rest []byte, err error) {
	r := tailReader{rest: rows}
	keySize, valueSize := r.varint(), r.varint()
	if keySize <= longestRow && valueSize <= longestRow {
		key = r.bytes(int(keySize))
		value = r.bytes(int(valueSize))
	}
	if r.short || key == nil || value == nil {
		return nil, nil, nil, f.corrupt("a row is too short")
	}
	return key, value, r.rest, nil
}

// grown returns n bytes of b, or of what then takes its place.
func grown(b *[]byte, n int) []byte {
	if cap(*b) < n {
		*b = make([]byte, max(n, min(2*n, keptRoom/4)))
	}
	return (*b)[:n]
}

// rowScan goes through the rows of a file in order.
type rowScan struct {
	f          *rowFile
	r          *bufio.Reader
	block      int    // the next one
	ref        uint32 // of the row
	key, value []byte
	rest       []byte // of the block's rows
	room       blockRoom
}

// How much of a file is read at once, by who wants some of its rows and all of them.
const (
	someRows = 16 << 10
	allRows  = 128 << 10
)

// scanFrom begins before the first row whose key is not below from, and reads so much at
// once.
func (f *rowFile) scanFrom(from []byte, atOnce int64) *rowScan {
	// The last in the index whose key is not above it.
	i := sort.Search(len(f.index), func(i int) bool { return bytes.Compare(f.index[i].key, from) > 0 })
	block := int(f.index[max(i-1, 0)].block)
	at, end := int64(f.blocks[block]), int64(f.blocks[len(f.blocks)-1])
	section := io.NewSectionReader(f.file, at, end-at)
	return &rowScan{f: f, block: block, r: bufio.NewReaderSize(section, int(min(atOnce, end-at)))}
}

// next moves to the next row, if there is one. Its key and value are valid until the
// next call.
func (s *rowScan) next() (more bool, err error) {
	if s.ref++; len(s.rest) == 0 {
		if s.block == len(s.f.blocks)-1 {
			return false, nil
		}
		if err := s.load(); err != nil {
			return false, err
		}
	} else if s.ref%blockRows == 0 {
		return false, s.f.corrupt("a block has too many rows")
	}
	s.key, s.value, s.rest, err = s.f.row(s.rest)
	return err == nil, err
}

// load reads the next block.
func (s *rowScan) load() (err error) {
	packed := grown(&s.room.packed, int(s.f.blocks[s.block+1]-s.f.blocks[s.block]))
	if _, err := io.ReadFull(s.r, packed); err != nil {
		return s.f.failed(err)
	}
	s.ref = uint32(s.block * blockRows)
	s.block++
	s.rest, err = s.f.unpack(packed, &s.room)
	return err
}
