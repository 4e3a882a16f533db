package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	probeEvery  = 20 * time.Millisecond // between two looks at a node that starts
	startWithin = 15 * time.Minute      // a node that takes long is a result, not a failure
)

// asking is for requests beside the load. None keeps a connection: its node may
// be another by the next.
var asking = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// ask makes one request of a node, and returns the body of an answer with the
// status wanted.
func (n *localNode) ask(ctx context.Context, method, path, body string, want int) ([]byte, error) {
	failed := func(err error) error { return fmt.Errorf("%s %s of %s: %w", method, path, n.id, err) }
	request, err := http.NewRequestWithContext(ctx, method, "http://"+n.httpAddr+path, strings.NewReader(body))
	if err != nil {
		return nil, failed(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := asking.Do(request)
	if err != nil {
		return nil, failed(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, failed(err)
	}
	if response.StatusCode != want {
		return nil, failed(fmt.Errorf("status %d: %.200q", response.StatusCode, said))
	}
	return said, nil
}

// metrics returns a node's metrics by name, with labels as they are written.
func (n *localNode) metrics(ctx context.Context) (map[string]float64, error) {
	body, err := n.ask(ctx, "GET", "/metrics", "", 200)
	if err != nil {
		return nil, err
	}
	return parseMetrics(body), nil
}

// parseMetrics reads Prometheus's text format. What is no sample is skipped.
func parseMetrics(text []byte) map[string]float64 {
	all := make(map[string]float64)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			all[line[:at]] = v
		}
	}
	return all
}

// leader returns the node that leads, once there is one.
func (c *localCluster) leader(ctx context.Context) (*localNode, error) {
	limit := time.Now().Add(readyWithin)
	for {
		for _, n := range c.nodes {
			if m, err := n.metrics(ctx); err == nil && m["onced_is_leader"] == 1 {
				return n, nil
			}
		}
		if time.Now().After(limit) {
			return nil, fmt.Errorf("no node leads after %s", readyWithin)
		}
		if err := sleepUntil(ctx, time.Now().Add(probeEvery)); err != nil {
			return nil, err
		}
	}
}

// follower returns a node that does not lead.
func (c *localCluster) follower(ctx context.Context) (*localNode, error) {
	leader, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	return c.nodes[(slices.Index(c.nodes, leader)+1)%len(c.nodes)], nil
}

// end ends a node's process, by SIGTERM with the wait that a graceful stop
// may take, or by SIGKILL.
func (n *localNode) end(with syscall.Signal) error {
	if err := n.process.Process.Signal(with); err != nil {
		return fmt.Errorf("end %s: %w", n.id, err)
	}
	limit := time.NewTimer(stoppedAfter)
	defer limit.Stop()
	select {
	case <-n.exited:
	case <-limit.C:
		return fmt.Errorf("%s has not stopped after %s", n.id, stoppedAfter)
	}
	if with != syscall.SIGKILL && n.wait != nil {
		return fmt.Errorf("%s ended with %w\n%s", n.id, n.wait, n.lastWords())
	}
	return nil
}

// restart ends a node, starts it again on its data, and returns how long it
// took from the start to being ready.
func (c *localCluster) restart(ctx context.Context, n *localNode, with syscall.Signal) (time.Duration, error) {
	if err := n.end(with); err != nil {
		return 0, err
	}
	return c.revive(ctx, n)
}

// revive starts a node that has ended again on its data, and returns how long
// it took to be ready.
func (c *localCluster) revive(ctx context.Context, n *localNode) (time.Duration, error) {
	again := &localNode{id: n.id, httpAddr: n.httpAddr, raftAddr: n.raftAddr, log: n.log, exited: make(chan struct{})}
	began := time.Now()
	if err := c.replace(n, again, n.process.Path, n.process.Args[1:]); err != nil {
		return 0, err
	}
	err := again.awaitReady(ctx, nil)
	return time.Since(began), err
}

// replace starts a process in the place of one that has ended.
func (c *localCluster) replace(old, n *localNode, binary string, args []string) error {
	if err := n.start(binary, args); err != nil {
		return err
	}
	c.nodes[slices.Index(c.nodes, old)] = n
	return nil
}

// awaitReady returns once the node says that it is ready and, unless that is
// nil, enough holds of its metrics.
func (n *localNode) awaitReady(ctx context.Context, enough func(map[string]float64) bool) error {
	limit := time.Now().Add(startWithin)
	for {
		_, err := n.ask(ctx, "GET", "/readyz", "", 200)
		if err == nil && enough != nil {
			var m map[string]float64
			if m, err = n.metrics(ctx); err == nil && !enough(m) {
				err = errors.New("behind the leader")
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-n.exited:
			return fmt.Errorf("%s ended before it was ready: %v\n%s", n.id, n.wait, n.lastWords())
		default:
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%s is not ready after %s: %w", n.id, startWithin, err)
		}
		if err := sleepUntil(ctx, time.Now().Add(probeEvery)); err != nil {
			return err
		}
	}
}

// dataDir returns where a node keeps its data.
func (n *localNode) dataDir() string {
	return n.process.Args[slices.Index(n.process.Args, "--data-dir")+1]
}

// dirBytes returns the bytes that a directory's files take on disk. A file
// that goes away meanwhile counts for nothing.
func dirBytes(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				sum += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("add up directory: %w", err)
	}
	return sum, nil
}

// resident is the memory of a process, in bytes.
type resident struct{ all, anonymous, file int64 }

// residentOf reads the memory of a process.
func residentOf(pid int) (resident, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return resident{}, fmt.Errorf("read memory: %w", err)
	}
	return parseResident(string(text))
}

func parseResident(status string) (r resident, err error) {
	for name, into := range map[string]*int64{"VmRSS:": &r.all, "RssAnon:": &r.anonymous, "RssFile:": &r.file} {
		_, rest, found := strings.Cut(status, name)
		fields := strings.Fields(rest)
		if !found || len(fields) < 2 || fields[1] != "kB" {
			return r, fmt.Errorf("read memory: no %s in kB", name)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return r, fmt.Errorf("read memory: %w", err)
		}
		*into = kib << 10
	}
	return r, nil
}

// diskReadsOf returns how many bytes processes have had read from a disk so far, which
// is what the kernel had not in memory.
func diskReadsOf(nodes []*localNode) (sum int64, err error) {
	for _, n := range nodes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", n.process.Process.Pid))
		if err != nil {
			return 0, fmt.Errorf("read what %s had read from its disk: %w", n.id, err)
		}
		bytes, err := parseDiskReads(string(text))
		if err != nil {
			return 0, fmt.Errorf("read what %s had read from its disk: %w", n.id, err)
		}
		sum += bytes
	}
	return sum, nil
}

func parseDiskReads(io string) (int64, error) {
	_, rest, _ := strings.Cut(io, "\nread_bytes:")
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseInt(strings.TrimSpace(line), 10, 64)
}
