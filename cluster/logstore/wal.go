//go:build !wasip1

package logstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/onced/onced/cluster/durable"
)

func openWAL(dir string, o Options) (Backend, error) {
	if o.FS == nil {
		o.FS = diskFS()
	}
	removal := newRemoval(privateFS{o.FS}, o.Log)
	files, err := newZeroed(removal, dir, o.SegmentBytes, o.Log)
	if err != nil {
		return nil, err
	}
	w, err := wal.Open(dir,
		wal.WithMetaStore(&segments{dir: dir}),
		wal.WithSegmentFiler(segment.NewFiler(dir, files)),
		wal.WithSegmentSize(o.SegmentBytes),
		wal.WithLogger(o.Log))
	if err != nil {
		removal.close()
		return nil, errors.Join(err, files.close())
	}
	return walLog{w, files, removal}, nil
}

// walLog is raft-wal's log, less what was deleted from its beginning: the
// library goes on returning that as long as it is in the file in use.
type walLog struct {
	*wal.WAL
	files   *zeroed
	removal *removal
}

// Close closes the log, and ends what is made ready for it and the removing of what
// it no longer needs.
func (w walLog) Close() error {
	err := errors.Join(w.WAL.Close(), w.files.close())
	w.removal.close()
	return err
}

func (w walLog) GetLog(index uint64, log *raft.Log) error {
	first, err := w.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	return w.WAL.GetLog(index, log)
}

// privateFS keeps raft-wal's files to their owner.
type privateFS struct{ types.VFS }

func (p privateFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := p.VFS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// segments is the list of raft-wal's files, in a file of its own: a line with
// the xxhash64 of the rest, and JSON. The library's own store for it, a bbolt
// file, has no digest and waits for ever for its lock.
type segments struct{ dir string }

// Load implements types.MetaStore. It also puts right, or refuses, what
// raft-wal itself would not notice in its files.
func (s *segments) Load(string) (types.PersistentState, error) {
	var state types.PersistentState
	data, err := os.ReadFile(filepath.Join(s.dir, segmentsFile))
	if errors.Is(err, os.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, err
	}
	const line = 17
	if len(data) < line || fmt.Sprintf("%016x\n", xxhash.Sum64(data[line:])) != string(data[:line]) {
		return state, fmt.Errorf("%w: the file %s does not match its digest", ErrCorrupt, segmentsFile)
	}
	if err := json.Unmarshal(data[line:], &state); err != nil {
		return state, fmt.Errorf("decode %s: %w", segmentsFile, err)
	}
	for _, info := range state.Segments {
		if err := s.checkLength(info); err != nil {
			return state, err
		}
	}
	return s.finishSeal(state)
}

// CommitState implements types.MetaStore.
func (s *segments) CommitState(state types.PersistentState) error {
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode %s: %w", segmentsFile, err)
	}
	data = append(fmt.Appendf(nil, "%016x\n", xxhash.Sum64(data)), data...)
	return durable.WriteFile(filepath.Join(s.dir, segmentsFile), data)
}

var errNoStable = errors.New("the log's files are no stable store")

// GetStable implements types.MetaStore.
func (s *segments) GetStable([]byte) ([]byte, error) { return nil, errNoStable }

// SetStable implements types.MetaStore.
func (s *segments) SetStable([]byte, []byte) error { return errNoStable }

// Close implements types.MetaStore.
func (s *segments) Close() error { return nil }

func (s *segments) path(info types.SegmentInfo) string {
	return filepath.Join(s.dir, segment.FileName(info))
}

// checkLength refuses a file that was cut short: each is made in its full
// length before anything is written to it.
func (s *segments) checkLength(info types.SegmentInfo) error {
	f, err := os.OpenFile(s.path(info), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // raft-wal makes it, or refuses
	}
	if err != nil {
		return err
	}
	defer f.Close() // a change of its length is synced with the first append
	stat, err := f.Stat()
	if err != nil || stat.Size() >= int64(info.SizeLimit) {
		return err
	}
	var head [fileHead]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return err
	}
	if head == [fileHead]byte{} && info.SealTime.IsZero() {
		return f.Truncate(int64(info.SizeLimit)) // its making was cut short
	}
	return fmt.Errorf("%w: the file %s has %d bytes of %d", ErrCorrupt, segment.FileName(info), stat.Size(), info.SizeLimit)
}

// finishSeal completes what raft-wal 0.4.2 does in two steps when a file is
// full: it writes an index to the end of the file, and then, in the
// background, notes that in its list and begins the next file. A process that
// ends between the two leaves a log that takes no entry ever again ("segment
// is sealed"). An index that was itself cut short does the same, and has to
// go.
func (s *segments) finishSeal(state types.PersistentState) (types.PersistentState, error) {
	if len(state.Segments) == 0 {
		return state, nil
	}
	tail := &state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return state, nil
	}
	f, err := os.OpenFile(s.path(*tail), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, err
	}
	defer f.Close() // synced where it is written to
	entries, index, whole, err := readSeal(f)
	if err != nil || index == 0 {
		return state, err
	}
	if !whole {
		if _, err := f.WriteAt(make([]byte, frameHead), index); err != nil {
			return state, err
		}
		return state, f.Sync()
	}
	tail.SealTime = time.Now()
	tail.IndexStart = uint64(index + frameHead)
	tail.MaxIndex = tail.BaseIndex + uint64(entries) - 1
	next := types.SegmentInfo{
		ID:         state.NextSegmentID,
		BaseIndex:  tail.MaxIndex + 1,
		MinIndex:   tail.MaxIndex + 1,
		SizeLimit:  tail.SizeLimit,
		Codec:      tail.Codec,
		CreateTime: time.Now(),
	}
	state.NextSegmentID++
	state.Segments = append(state.Segments, next)
	return state, s.CommitState(state)
}

// The format of raft-wal's files: a header, then frames of a head, a payload
// and padding to a multiple of 8. The head is a type, 3 zero bytes and the
// payload's length; that of a commit, which has no payload, the CRC of all
// since the commit before it.
const (
	fileHead   = 32
	frameHead  = 8
	frameEntry = 1
	frameIndex = 2
	frameDone  = 3
)

// readSeal walks the frames of f. If there is an index it returns the number
// of entries before it, the offset of its frame, and whether it was committed
// as it is there; else offset 0.
func readSeal(f io.ReaderAt) (entries int, index int64, whole bool, err error) {
	var head [frameHead]byte
	begin := int64(0) // of what the next commit covers
	for at := int64(fileHead); ; {
		if _, err := f.ReadAt(head[:], at); err == io.EOF {
			return entries, index, false, nil
		} else if err != nil {
			return 0, 0, false, err
		}
		size := binary.LittleEndian.Uint32(head[4:])
		switch head[0] {
		case frameEntry:
			if index != 0 {
				return entries, index, false, nil
			}
			entries++
		case frameIndex:
			index = at
		case frameDone:
			if index != 0 {
				crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
				_, err := io.Copy(crc, io.NewSectionReader(f, begin, at-begin))
				return entries, index, crc.Sum32() == size, err
			}
			begin, size = at+frameHead, 0
		default:
			return entries, index, false, nil
		}
		at += frameHead + (int64(size)+7)&^7
	}
}
