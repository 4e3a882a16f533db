// Package timers makes a process sleep less exactly, which costs it less.
package timers

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// slack is how late the kernel may wake the process from a sleep, in
// nanoseconds. While goroutines run, the monitor thread of Go's runtime sleeps
// for 20 µs at a time: with the usual slack of 50 µs it cost a node under load a
// third of its processor time on a virtual machine (docs/performance.md). What
// it is for, taking the processor from a goroutine that hangs in a system call,
// is soon enough after this long, and so is every timer of a node.
const slack = 5_000_000

// Coarsen gives the process a timer slack of 5 ms. The slack belongs to a thread,
// threads inherit it, and the monitor thread runs before any code of ours, so
// the program is executed once more, by a thread that has it: prctl(2) says that
// it is kept. Process id, arguments and open files stay as they are. A slack
// that is longer already was given by someone who wanted it.
//
// It returns nil if there is nothing to do, and not at all if it succeeds.
func Coarsen(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("read timer slack: %w", err)
	}
	if now >= slack {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	// Where the kernel takes the value and does not keep it, this would have no end.
	if now, err = unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || now < slack {
		return fmt.Errorf("set timer slack: it is %d ns still", now)
	}
	// A signal that came already would be forgotten.
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, os.Args, os.Environ()))
}
