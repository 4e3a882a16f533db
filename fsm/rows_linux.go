package fsm

import (
	"runtime"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// readSoon fills b from offset on as far as it comes without waiting for a disk, and returns
// how far. If that is not all, the rest is on its way, and others have had their turn.
//
// A thread that waits for the disk costs a processor several times what the read does: another
// takes over its goroutines, and it has to be woken. But a read that must not wait
// (preadv2(2), RWF_NOWAIT, Linux 4.14) has the kernel begin to read what it has not got, and
// by the time that the others had their turn it mostly is there.
func readSoon(file vfs.File, b []byte, offset int64) int {
	fd := file.Fd()
	if fd == vfs.InvalidFd || len(b) == 0 {
		return 0
	}
	n, err := unix.Preadv2(int(fd), [][]byte{b}, offset, unix.RWF_NOWAIT)
	if err != nil {
		n = 0 // EAGAIN, or what a read that may wait can do or has an error for
	}
	if n < len(b) {
		runtime.Gosched()
	}
	return n
}
