package state

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// FuzzStream: a stream is unpacked into its own directory alone, and takes no
// more memory than it deserves.
func FuzzStream(f *testing.F) {
	whole := frame(2, "CURRENT", uint64(3), "abc", "000001.sst", uint64(1), "x")
	f.Add(whole, false)
	f.Add(whole[:len(whole)-3], false)
	f.Add(frame(1, "..", uint64(1), "x"), true)
	f.Add(frame(1, "a/b", uint64(1), "x"), true)
	f.Add(frame(1<<32-1, "a", uint64(maxFileSize), "x"), true)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if sealed && len(data) >= streamDigest {
			data = bytes.Clone(data[:len(data)-streamDigest])
			data = binary.BigEndian.AppendUint64(data, xxhash.Sum64(data))
		}
		around := t.TempDir()
		dir := filepath.Join(around, "received")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := unpack(bytes.NewReader(data), dir)
		runtime.ReadMemStats(&after)
		// A file takes nine bytes at least, and some hundreds to be made.
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+200*len(data)); got > most {
			t.Errorf("%d bytes took %d", len(data), got)
		}
		if names, _ := filepath.Glob(filepath.Join(around, "*")); len(names) != 1 {
			t.Errorf("beside the directory there is %v", names)
		}
		if err != nil {
			return
		}
		count, size := binary.BigEndian.Uint32(data[len(streamMagic):]), len(streamMagic)+4+streamDigest
		files, err := os.ReadDir(dir)
		check(t, err)
		for _, file := range files {
			info, err := file.Info()
			check(t, err)
			size += 1 + len(file.Name()) + 8 + int(info.Size())
		}
		if len(files) != int(count) || size != len(data) {
			t.Errorf("%d bytes with %d files were unpacked as %d bytes with %d files", len(data), count, size, len(files))
		}
	})
}
