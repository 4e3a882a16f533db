package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/onced/onced/cmd/onced-bench/peers"
)

const (
	clusterSize  = 3
	readyWithin  = 30 * time.Second
	readyProbe   = 50 * time.Millisecond // between two looks
	stoppedAfter = 35 * time.Second      // a graceful stop is promised within 30 s
)

// localCluster is a cluster of this program's own child processes.
type localCluster struct{ nodes []*localNode }

// localNode is one of its processes. exited is closed once that has ended,
// which wait has stored the result of.
type localNode struct {
	id, httpAddr, raftAddr string
	gatewayAddr            string // empty without an upstream
	log                    string // file

	process *exec.Cmd
	exited  chan struct{}
	wait    error
}

// startCluster starts a new cluster with its data under dir, and returns once
// every node is ready. With an upstream, each node has a gateway in front of
// it. After an error nothing is left running.
func startCluster(ctx context.Context, binary, dir, upstream string, flags []string) (*localCluster, error) {
	addrs, err := freeAddrs(3 * clusterSize)
	if err != nil {
		return nil, err
	}
	c := new(localCluster)
	var peers []string
	for i := range clusterSize {
		id := fmt.Sprintf("n%d", i+1)
		n := &localNode{
			id:       id,
			httpAddr: addrs[i],
			raftAddr: addrs[clusterSize+i],
			log:      filepath.Join(dir, id+".log"),
			exited:   make(chan struct{}),
		}
		c.nodes = append(c.nodes, n)
		peers = append(peers, id+"="+n.raftAddr)
	}
	for i, n := range c.nodes {
		args := append([]string{
			"serve", "--node-id", n.id, "--data-dir", filepath.Join(dir, n.id),
			"--http-addr", n.httpAddr, "--raft-addr", n.raftAddr, "--peers", strings.Join(peers, ","),
		}, flags...)
		if upstream != "" {
			n.gatewayAddr = addrs[2*clusterSize+i]
			args = append(args, "--gateway-addr", n.gatewayAddr, "--upstream", upstream)
		}
		if err := n.start(binary, args); err != nil {
			started := &localCluster{nodes: c.nodes[:i]}
			return nil, errors.Join(err, started.stop())
		}
	}
	if err := c.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// freeAddrs returns loopback addresses that nothing listens on. They are held
// together, so that they differ, and let go for the nodes to take.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find free port: %w", err)
		}
		defer listener.Close()
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs, nil
}

// start starts the node's process.
func (n *localNode) start(binary string, args []string) error {
	log, err := os.Create(n.log)
	if err != nil {
		return fmt.Errorf("create log of %s: %w", n.id, err)
	}
	defer log.Close() // the process has its own
	n.process = exec.Command(binary, args...)
	n.process.Stdout, n.process.Stderr = log, log
	// Settings of the shell that runs this are not those of the measurement.
	n.process.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ONCED_") })
	// An interrupt at the terminal is for this program, which stops the nodes.
	n.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.process.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	go func() {
		n.wait = n.process.Wait()
		close(n.exited)
	}()
	return nil
}

// awaitReady returns once every node says that it is ready.
func (c *localCluster) awaitReady(ctx context.Context) error {
	limit := time.Now().Add(readyWithin)
	for _, n := range c.nodes {
		probe := newConn([]string{n.httpAddr}, 0, time.Second)
		defer probe.hangUp()
		for {
			a, err := probe.exchange(ctx, []byte("GET /readyz HTTP/1.1\r\nHost: onced\r\n\r\n"))
			if err == nil && a.status == 200 {
				break
			}
			select {
			case <-n.exited:
				return fmt.Errorf("%s ended before it was ready: %v\n%s", n.id, n.wait, n.lastWords())
			default:
			}
			if time.Now().After(limit) {
				return fmt.Errorf("%s is not ready after %s\n%s", n.id, readyWithin, n.lastWords())
			}
			if err := sleepUntil(ctx, time.Now().Add(readyProbe)); err != nil {
				return err
			}
		}
	}
	return nil
}

// stop asks every node to stop, and kills one that does not. A node that had
// ended before, was killed, or ended with an error is an error.
func (c *localCluster) stop() error {
	var errs []error
	for _, n := range c.nodes {
		select {
		case <-n.exited:
			errs = append(errs, fmt.Errorf("%s had ended by itself", n.id))
		default:
			if err := n.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, fmt.Errorf("stop %s: %w", n.id, err))
			}
		}
	}
	// Not the caller's context: that may be what asked for the stop.
	limit, cancel := context.WithTimeout(context.Background(), stoppedAfter)
	defer cancel()
	for _, n := range c.nodes {
		select {
		case <-n.exited:
		case <-limit.Done():
			if err := n.process.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, err, fmt.Errorf("%s had to be killed after %s", n.id, stoppedAfter))
			}
			<-n.exited
		}
		if n.wait != nil {
			errs = append(errs, fmt.Errorf("%s ended with %w\n%s", n.id, n.wait, n.lastWords()))
		}
	}
	return errors.Join(errs...)
}

func (n *localNode) lastWords() []byte { return peers.LastWords(n.log) }

// addrs returns where clients reach the nodes.
func (c *localCluster) addrs() []string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.httpAddr)
	}
	return addrs
}

// gateways returns where clients reach the nodes' gateways.
func (c *localCluster) gateways() []string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.gatewayAddr)
	}
	return addrs
}

// pids returns the nodes' process ids.
func (c *localCluster) pids() []int {
	var pids []int
	for _, n := range c.nodes {
		pids = append(pids, n.process.Process.Pid)
	}
	return pids
}
