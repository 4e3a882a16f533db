//go:build linux

// Package disk makes disks that fail: file systems of their own, whose power
// can be cut, that hang, are slow or full, and files whose bytes rot.
//
// A disk is an ext4 in a file, mounted through a loop device. It needs root,
// and the programs mkfs.ext4, mount and umount. Where it is mounted names the
// process that made it, so that what a killed one left behind is found, and
// unmounted, by the next.
package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a mounted file system.
type Disk struct {
	// Dir is where it is mounted, empty but for lost+found at first.
	Dir   string
	place string // holds the image and Dir
	image string
}

const (
	minSize = 16 << 20

	// powerCut is FS_IOC_SHUTDOWN with FS_SHUTDOWN_FLAGS_NOLOGFLUSH: what is
	// not on the disk yet does not get there (linux/fs.h; ext4 since 4.10).
	shutdownIoctl = 2<<30 | 4<<16 | 'X'<<8 | 125 // _IOR('X', 125, __u32)
	noLogFlush    = 2

	freezeIoctl = 3<<30 | 4<<16 | 'X'<<8 | 119 // FIFREEZE, _IOWR('X', 119, int)
	thawIoctl   = 3<<30 | 4<<16 | 'X'<<8 | 120 // FITHAW

	// unsyncedFile is written right before a power cut, to see what it took.
	unsyncedFile = "unsynced"
	unsyncedSize = 1 << 20
	fillFile     = "fill"
)

// New makes and mounts an empty disk of size bytes, at least 16 MiB, after
// removing what dead programs have left.
func New(ctx context.Context, size int64) (*Disk, error) {
	if size < minSize {
		return nil, fmt.Errorf("make disk of %d bytes: use at least %d", size, minSize)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("make disk: only root may mount one")
	}
	if err := removeLeftovers(ctx); err != nil {
		return nil, err
	}
	owner, err := ownName()
	if err != nil {
		return nil, err
	}
	place, err := os.MkdirTemp("", owner+"-*")
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	d := &Disk{Dir: filepath.Join(place, "disk"), place: place, image: filepath.Join(place, "image")}
	if err := d.make(ctx, size); err != nil {
		return nil, errors.Join(fmt.Errorf("make disk: %w", err), os.RemoveAll(place))
	}
	return d, nil
}

func (d *Disk) make(ctx context.Context, size int64) error {
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(d.image, size); err != nil {
		return err
	}
	// Nothing is kept back for root: a full disk is full.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", d.image); err != nil {
		return err
	}
	return d.mount(ctx)
}

func (d *Disk) mount(ctx context.Context) error {
	return run(ctx, "mount", "-t", "ext4", "-o", "loop", d.image, d.Dir)
}

func run(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}

// Remove unmounts the disk and removes it, files and all. No process may use it.
func (d *Disk) Remove(ctx context.Context) error {
	if err := remove(ctx, d.place); err != nil {
		return fmt.Errorf("remove disk %s: %w", d.place, err)
	}
	return nil
}

// remove thaws and unmounts the disk of a place, and removes the place.
func remove(ctx context.Context, place string) error {
	dir := filepath.Join(place, "disk")
	var errs []error
	if mounted(dir) {
		_ = control(dir, thawIoctl, 0) // refused where it is not frozen
		if err := unmount(ctx, dir); err != nil {
			// Whatever still uses it keeps it until it ends; nobody finds it.
			errs = append(errs, err, run(ctx, "umount", "-l", dir))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(place))...)
}

func mounted(dir string) bool {
	var at, above unix.Stat_t
	return unix.Stat(dir, &at) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && at.Dev != above.Dev
}

// unmount waits a while for those who still use the disk: the kernel lets go of
// a killed process's files a moment after its end.
func unmount(ctx context.Context, dir string) (err error) {
	for range 50 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w", dir, ctx.Err())
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// control makes an ioctl on the disk mounted at dir.
func control(dir string, request uint, value int) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), request, value)
}

// CutPower makes the disk fail every access from now on, without writing what
// was not synced. The processes that use it are to be killed next; then Restore
// brings back what a disk holds after a power cut.
func (d *Disk) CutPower() error {
	canary := filepath.Join(d.Dir, unsyncedFile)
	if err := os.WriteFile(canary, bytes.Repeat([]byte{1}, unsyncedSize), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("cut power: %w", err)
	}
	if err := control(d.Dir, shutdownIoctl, noLogFlush); err != nil {
		return fmt.Errorf("cut power of %s: %w", d.Dir, err)
	}
	return nil
}

// Restore mounts the disk again after a power cut, and returns how many bytes
// were lost of a file that was written, and not synced, right before the cut.
func (d *Disk) Restore(ctx context.Context) (lost int, err error) {
	if err := unmount(ctx, d.Dir); err != nil {
		return 0, fmt.Errorf("restore disk: %w", err)
	}
	if err := d.mount(ctx); err != nil {
		return 0, fmt.Errorf("restore disk: %w", err)
	}
	canary := filepath.Join(d.Dir, unsyncedFile)
	kept, err := os.ReadFile(canary)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("restore disk: %w", err)
	}
	if err := os.RemoveAll(canary); err != nil {
		return 0, fmt.Errorf("restore disk: %w", err)
	}
	return unsyncedSize - bytes.Count(kept, []byte{1}), nil
}

// Fill takes all the space that is left, and returns how much it was.
func (d *Disk) Fill() (taken int64, err error) {
	f, err := os.OpenFile(filepath.Join(d.Dir, fillFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("fill disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Most of it is taken at once, without being written.
	var free unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &free); err != nil {
		return 0, fmt.Errorf("fill disk: %w", err)
	}
	if most := int64(free.Bavail) * free.Bsize * 9 / 10; unix.Fallocate(int(f.Fd()), 0, 0, most) == nil {
		taken = most
	}
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		n, err := f.Write(piece)
		taken += int64(n)
		switch {
		case errors.Is(err, unix.ENOSPC):
			piece = piece[:len(piece)/2] // until not one byte fits
		case err != nil:
			return taken, fmt.Errorf("fill disk: %w", err)
		}
	}
	// Space is given out when data is written, or else promised.
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		return taken, fmt.Errorf("fill disk: %w", err)
	}
	return taken, nil
}

// Free gives back what Fill has taken.
func (d *Disk) Free() error {
	if err := os.RemoveAll(filepath.Join(d.Dir, fillFile)); err != nil {
		return fmt.Errorf("free disk: %w", err)
	}
	return nil
}

// ownName begins the names of places of this process: its id, and when it began,
// since ids are used again.
func ownName() (string, error) {
	began, err := beganAt(os.Getpid())
	if err != nil {
		return "", fmt.Errorf("name disk: %w", err)
	}
	return fmt.Sprintf("onced-disk-%d-%s", os.Getpid(), began), nil
}

// beganAt is when the process pid began, in ticks since the machine did.
func beganAt(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The program's name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const startTime = 19 // the 22nd of all
	if len(fields) <= startTime {
		return "", fmt.Errorf("stat of process %d is %q", pid, stat)
	}
	return fields[startTime], nil
}

var placeName = regexp.MustCompile(`^onced-disk-(\d+)-(\d+)-\d+$`)

// removeLeftovers removes the disks of processes that are gone.
func removeLeftovers(ctx context.Context) error {
	entries, err := os.ReadDir(os.TempDir())
	if err != nil {
		return fmt.Errorf("look for disks left behind: %w", err)
	}
	for _, e := range entries {
		m := placeName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			continue
		}
		if began, err := beganAt(pid); err == nil && began == m[2] {
			continue
		}
		if err := remove(ctx, filepath.Join(os.TempDir(), e.Name())); err != nil {
			return fmt.Errorf("remove disk left behind: %w", err)
		}
	}
	return nil
}
