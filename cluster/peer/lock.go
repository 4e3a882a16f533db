//go:build !wasip1

package peer

import (
	"errors"
	"os"
	"syscall"
)

// flock locks f against other processes, and reports whether another has it.
func flock(f *os.File) (held bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
