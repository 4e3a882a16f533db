package logstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// FuzzSeal: whatever a file of the wal kind holds, the walk over it ends, and
// within the file.
func FuzzSeal(f *testing.F) {
	frame := func(kind byte, size uint32, payload ...byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte{kind, 0, 0, 0}, size), payload...)
	}
	head := make([]byte, fileHead)
	f.Add(joined(head, frame(frameEntry, 8, 1, 2, 3, 4, 5, 6, 7, 8), frame(frameDone, 7), frame(frameIndex, 0), frame(frameDone, 0)))
	f.Add(joined(head, frame(frameEntry, 1<<32-1)))
	f.Add(joined(head, frame(frameIndex, 0), frame(frameIndex, 0)))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, index, whole, err := readSeal(bytes.NewReader(data))
		if err != nil {
			t.Errorf("error %v", err)
		}
		if entries*frameHead > len(data) || index < 0 || index > int64(len(data)) || whole && index == 0 {
			t.Errorf("of %d bytes: %d entries, index at %d, whole %v", len(data), entries, index, whole)
		}
	})
}

func joined(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// FuzzSegments: a list of files that says anything at all, under the right
// digest, is read or refused.
func FuzzSegments(f *testing.F) {
	f.Add([]byte(`{"NextSegmentID":2,"Segments":[{"ID":1,"BaseIndex":1,"MinIndex":1,"SizeLimit":4096}]}`), []byte{})
	f.Add([]byte(`{"Segments":[{"ID":1,"BaseIndex":1,"SizeLimit":4294967295}]}`), make([]byte, 100))
	f.Add([]byte(`{"Segments":null}`), []byte("x"))
	f.Fuzz(func(t *testing.T, list, file []byte) {
		s := &segments{dir: t.TempDir()}
		check(t, os.WriteFile(filepath.Join(s.dir, "00000000000000000001-0000000000000001.wal"), file, 0o600))
		check(t, os.WriteFile(filepath.Join(s.dir, segmentsFile), append(fmt.Appendf(nil, "%016x\n", xxhash.Sum64(list)), list...), 0o600))
		_, _ = s.Load("") // it may say anything but panic
		check(t, os.WriteFile(filepath.Join(s.dir, segmentsFile), list, 0o600))
		_, _ = s.Load("")
	})
}

// FuzzMark: a mark is what was written or is refused.
func FuzzMark(f *testing.F) {
	f.Add((&mark{kind: 'w', index: 77}).encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &mark{}
		if err := m.decode(bytes.NewReader(data)); err == nil && binary.BigEndian.Uint64(data[8:]) != m.index {
			t.Errorf("%x is read as entry %d", data, m.index)
		}
	})
}
