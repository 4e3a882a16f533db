package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// tick is the unit of CPU times in /proc: Linux shows user space 100 a second
// whatever the kernel's own.
const tick = 10 * time.Millisecond

// usage is CPU time used, up to a moment or between two. A nil is unknown.
type usage struct {
	at      time.Duration  // of the moment; between two, what passed
	client  *time.Duration // this process
	servers *time.Duration // all server processes together
	machine *time.Duration // everything on this machine
}

// observe returns the CPU time used between two moments to come.
func (b *bench) observe(ctx context.Context, from, to time.Time) (usage, error) {
	if err := sleepUntil(ctx, from); err != nil {
		return usage{}, err
	}
	before := readUsage(from, b.pids)
	if err := sleepUntil(ctx, to); err != nil {
		return usage{}, err
	}
	return readUsage(from, b.pids).since(before), nil
}

// readUsage reads the CPU times. A server that is gone makes the servers'
// sum unknown: without it, it would be too small.
func readUsage(origin time.Time, pids []int) usage {
	u := usage{at: time.Since(origin)}
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err == nil {
		d := time.Duration(self.Utime.Nano() + self.Stime.Nano())
		u.client = &d
	}
	if len(pids) > 0 {
		var sum time.Duration
		u.servers = &sum
		for _, pid := range pids {
			d, err := treeTime(pid)
			if err != nil {
				u.servers = nil
				break
			}
			sum += d
		}
	}
	if d, err := machineTime(); err == nil {
		u.machine = &d
	}
	return u
}

// since returns what was used from an earlier moment to u's.
func (u usage) since(earlier usage) usage {
	minus := func(a, b *time.Duration) *time.Duration {
		if a == nil || b == nil {
			return nil
		}
		d := *a - *b
		return &d
	}
	return usage{
		at:      u.at - earlier.at,
		client:  minus(u.client, earlier.client),
		servers: minus(u.servers, earlier.servers),
		machine: minus(u.machine, earlier.machine),
	}
}

// otherBusy returns which share of the machine, in percent, neither client nor
// servers used. Ticks are coarse, so it can be slightly negative.
func (u usage) otherBusy() *float64 {
	if u.client == nil || u.servers == nil || u.machine == nil || u.at <= 0 {
		return nil
	}
	other := *u.machine - *u.client - *u.servers
	share := 100 * other.Seconds() / (u.at.Seconds() * float64(runtime.NumCPU()))
	return &share
}

// treeTime returns the user and system time of a process, of those it waited
// for and of all that descend from it.
func treeTime(root int) (time.Duration, error) {
	var sum time.Duration
	for pending := []int{root}; len(pending) > 0; {
		pid := pending[0]
		pending = pending[1:]
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			if pid == root {
				return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
			}
			continue // it ended meanwhile
		}
		d, err := parseTreeStat(stat)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
		}
		sum += d
		// Servers fork from their first thread.
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			continue
		}
		for _, field := range bytes.Fields(children) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				pending = append(pending, child)
			}
		}
	}
	return sum, nil
}

// parseTreeStat reads utime, stime, cutime and cstime, fields 14 to 17 of
// /proc/<pid>/stat.
func parseTreeStat(stat []byte) (time.Duration, error) { return parseStat(stat, 17) }

// checkProcesses reports the processes whose CPU time cannot be read.
func checkProcesses(pids []int) error {
	var errs []error
	for _, pid := range pids {
		if _, err := processTime(pid); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// processTime returns the user and system time of a process, all threads.
func processTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	d, err := parseProcessStat(stat)
	if err != nil {
		return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	return d, nil
}

// parseProcessStat reads utime and stime, fields 14 and 15 of
// /proc/<pid>/stat.
func parseProcessStat(stat []byte) (time.Duration, error) { return parseStat(stat, 15) }

// parseStat sums up the fields of /proc/<pid>/stat from utime, 14, to last.
// Field 2, the name, may hold anything; it ends with the last parenthesis.
func parseStat(stat []byte, last int) (time.Duration, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const first, utime = 3, 14
	if len(fields) <= last-first {
		return 0, errors.New("too few fields")
	}
	return sumTicks(fields[utime-first : last-first+1])
}

// machineTime returns the time that all CPUs were busy, steal included.
func machineTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU time of the machine: %w", err)
	}
	return parseMachineStat(stat)
}

// parseMachineStat reads the first line of /proc/stat: "cpu", user, nice,
// system, idle, iowait, irq, softirq, steal, and guest times that are part of
// user's.
func parseMachineStat(stat []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 || string(fields[0]) != "cpu" {
		return 0, fmt.Errorf("read CPU time of the machine: line %.60q", line)
	}
	working, err := sumTicks(fields[1:4])
	if err != nil {
		return 0, err
	}
	interrupted, err := sumTicks(fields[6:9])
	return working + interrupted, err
}

// sumTicks adds up CPU times.
func sumTicks(fields [][]byte) (time.Duration, error) {
	var sum time.Duration
	for _, field := range fields {
		ticks, err := strconv.ParseInt(string(field), 10, 48)
		if err != nil {
			return 0, fmt.Errorf("read CPU time %.20q: %w", field, err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}
