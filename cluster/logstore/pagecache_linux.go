package logstore

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dropCached has the kernel drop from memory what of the file at path is on disk.
func dropCached(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("drop cached file: %w", err)
	}
	defer f.Close() // opened for reading
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cached file %s: %w", path, err)
	}
	return nil
}
