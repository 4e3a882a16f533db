package logstore

import (
	"fmt"
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

func TestOldSegmentsLeaveMemoryAndNewOnesStay(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	check(t, unix.Statfs(dir, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("the directory is itself in memory")
	}
	z := newTestZeroed(t, dir)
	segment := func(n int) string { return fmt.Sprint(n, ".wal") }
	const made = cachedSegments + 3
	for n := range made {
		f, err := z.Create(dir, segment(n), zeroedSize)
		check(t, err)
		_, err = f.WriteAt(make([]byte, zeroedSize), 0)
		check(t, err)
		check(t, f.Sync())
		check(t, f.Close())
		z.wg.Wait()
	}
	for n := range made {
		part, old := cached(t, filepath.Join(dir, segment(n))), n < made-cachedSegments
		if old != (part < 0.5) {
			t.Errorf("of segment %d of %d a part of %.2f is in memory", n, made, part)
		}
	}
}

func TestASegmentThatIsGoneIsNoFailure(t *testing.T) {
	dir := t.TempDir()
	z := newTestZeroed(t, dir)
	for n := range cachedSegments + 3 {
		name := fmt.Sprint(n, ".wal")
		f, err := z.Create(dir, name, zeroedSize)
		check(t, err)
		check(t, f.Close())
		check(t, os.Remove(filepath.Join(dir, name)))
		z.wg.Wait()
	}
}
