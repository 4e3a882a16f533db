//go:build !wasip1

package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/s2"
)

// errRowsTooLong means that a generation does not fit into a row file, whose offsets
// have 32 bits, or one of its rows.
var errRowsTooLong = errors.New("rows are too long for a row file")

// rowWriter writes a row file. add is called with all rows in order, then finish.
type rowWriter struct {
	file   vfs.File
	work   *work // to which it adds what it does beside writing the file
	most   int64 // how long the blocks may be
	at     int64
	plain  int64
	count  int // of rows
	blocks []uint32
	index  []indexEntry
	// The rows by the first bits of their hashes, and so to be sorted one part after the other.
	directory [directoryParts][]directoryRow
	// The block that is being filled, and space for it.
	rows   int
	block  []byte
	packed []byte
}

// directoryRow is what a directory has of a row.
type directoryRow struct {
	hash uint64
	ref  uint32
}

const (
	directoryParts = 1 << directoryBits
	directoryBits  = 6
)

// createRows begins a row file, whose blocks may be as long as most says, or, if that is 0,
// as its offsets can.
func createRows(fs vfs.FS, path string, c vfs.DiskWriteCategory, most int64) (*rowWriter, error) {
	file, err := fs.Create(path, c)
	if err != nil {
		return nil, err
	}
	// Written out bit by bit: all at once would have the log's syncs wait.
	file = vfs.NewSyncingFile(file, vfs.SyncingFileOptions{NoSyncOnClose: true, BytesPerSync: 512 << 10})
	w := &rowWriter{file: file, most: cmp.Or(most, math.MaxUint32)}
	if err := w.write([]byte(rowsMagic)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return w, nil
}

func (w *rowWriter) write(b []byte) error {
	n, err := w.file.Write(b)
	w.at += int64(n)
	return err
}

// add appends a row; hash is that of its key.
func (w *rowWriter) add(hash uint64, key, value []byte) error {
	if len(key)+len(value) > longestRow {
		return errRowsTooLong
	}
	if w.rows > 0 && len(w.block)+len(key)+len(value) > 2*blockBytes {
		if err := w.endBlock(); err != nil {
			return err
		}
	}
	if w.rows == 0 && w.indexed() {
		w.index = append(w.index, indexEntry{uint32(len(w.blocks)), bytes.Clone(key)})
	}
	part := &w.directory[hash>>(64-directoryBits)]
	*part = append(*part, directoryRow{hash, uint32(len(w.blocks)*blockRows + w.rows)})
	w.count++
	w.block = binary.AppendUvarint(w.block, uint64(len(key)))
	w.block = binary.AppendUvarint(w.block, uint64(len(value)))
	w.block = append(append(w.block, key...), value...)
	w.plain += int64(len(key) + len(value))
	if w.rows++; w.rows < blockRows && len(w.block) < blockBytes {
		return nil
	}
	return w.endBlock()
}

// indexed tells whether the block that begins is one of the index.
func (w *rowWriter) indexed() bool {
	if len(w.index) == 0 {
		return true
	}
	last := int(w.index[len(w.index)-1].block)
	return len(w.blocks)-last >= indexBlocks || w.at-int64(w.blocks[last]) >= indexBytes
}

func (w *rowWriter) endBlock() error {
	if w.rows == 0 {
		return nil
	}
	packed := grown(&w.packed, blockCRC+s2.MaxEncodedLen(len(w.block)))
	packed = packed[:blockCRC+len(s2.Encode(packed[blockCRC:], w.block))]
	binary.BigEndian.PutUint32(packed, crc32.Checksum(packed[blockCRC:], castagnoli))
	if w.at+int64(len(packed)) > w.most {
		return errRowsTooLong
	}
	w.blocks = append(w.blocks, uint32(w.at))
	w.rows, w.block = 0, w.block[:0]
	return w.write(packed)
}

// finish writes the tail and syncs the file; it has to be closed all the same.
func (w *rowWriter) finish(number uint32) error {
	if err := w.endBlock(); err != nil {
		return err
	}
	if err := w.write(w.tail(number)); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync row file: %w", err)
	}
	return nil
}

func (w *rowWriter) tail(number uint32) []byte {
	size := rowsTailHead + 4 + 4*len(w.blocks) + directoryItem*w.count + rowsFooter
	for _, e := range w.index {
		size += 4 + binary.MaxVarintLen32 + len(e.key)
	}
	tail := binary.BigEndian.AppendUint32(make([]byte, 0, size), number)
	tail = binary.BigEndian.AppendUint32(tail, uint32(w.count))
	tail = binary.BigEndian.AppendUint64(tail, uint64(w.plain))
	tail = binary.BigEndian.AppendUint32(tail, uint32(len(w.blocks)))
	for _, start := range w.blocks {
		tail = binary.BigEndian.AppendUint32(tail, start)
	}
	tail = binary.BigEndian.AppendUint32(tail, uint32(len(w.index)))
	for _, e := range w.index {
		tail = binary.BigEndian.AppendUint32(tail, e.block)
		tail = binary.AppendUvarint(tail, uint64(len(e.key)))
		tail = append(tail, e.key...)
	}
	for _, part := range w.directory {
		slices.SortFunc(part, func(a, b directoryRow) int {
			return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.ref, b.ref))
		})
		for _, row := range part {
			tail = binary.BigEndian.AppendUint64(tail, row.hash)
			tail = binary.BigEndian.AppendUint32(tail, row.ref)
		}
		w.work.add(sortWork * int64(len(part)))
	}
	tail = binary.BigEndian.AppendUint64(tail, uint64(w.at))
	return binary.BigEndian.AppendUint64(tail, xxhash.Sum64(tail))
}
