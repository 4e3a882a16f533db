//go:build !nosync

package logstore

import (
	"errors"
	"os"
	"syscall"

	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"
)

// syncData puts what was written to f on disk, and of what the file system knows
// about f what is needed to read it: fdatasync(2).
func syncData(f types.WritableFile) error {
	file, ok := f.(syscall.Conn)
	if !ok {
		return f.Sync()
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if failed = unix.Fdatasync(int(fd)); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, os.NewSyscallError("fdatasync", failed))
}
