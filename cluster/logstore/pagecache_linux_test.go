package logstore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cached returns which part of the file is in the kernel's memory.
func cached(t *testing.T, path string) float64 {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	info, err := f.Stat()
	check(t, err)
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	check(t, err)
	defer func() { check(t, unix.Munmap(data)) }()
	pages := make([]byte, (len(data)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	in := 0
	for _, page := range pages {
		in += int(page & 1)
	}
	return float64(in) / float64(len(pages))
}

// TestDroppedFileLeavesMemory also sees that nothing of it is lost. Where the file
// is itself in memory, it has to stay there.
func TestDroppedFileLeavesMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	want := bytes.Repeat([]byte("segment "), zeroedSize/8)
	f, err := os.Create(path)
	check(t, err)
	_, err = f.Write(want)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
	check(t, dropCached(path))
	left := 0.0
	var fs unix.Statfs_t
	check(t, unix.Statfs(path, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		left = 1
	}
	if part := cached(t, path); part != left {
		t.Errorf("a part of %.2f is in memory; want %.0f", part, left)
	}
	got, err := os.ReadFile(path)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the file is not what it was")
	}
}
