package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/load"
)

const (
	clusterSize = 3
	readyWithin = 45 * time.Second
	probeEvery  = 50 * time.Millisecond
)

// The faults of processes: they need no root.
const (
	faultKill        = "kill"
	faultKillLeader  = "kill-leader"
	faultKillAll     = "kill-all"
	faultPause       = "pause"
	faultPauseLeader = "pause-leader"
	faultRestart     = "restart"
	faultTransfer    = "transfer"
)

var processFaults = []string{faultKill, faultKillLeader, faultKillAll, faultPause, faultPauseLeader, faultRestart, faultTransfer}

// loopback is a cluster of child processes on 127.0.0.1.
type loopback struct {
	all    []*process
	status *statusClient
}

// startLoopback starts a new cluster with its data under dir. With an error
// nothing is left running.
func startLoopback(ctx context.Context, s setup) (_ *loopback, err error) {
	addrs, err := freeAddrs(3 * clusterSize)
	if err != nil {
		return nil, err
	}
	c := new(loopback)
	c.status = newStatusClient(c.dial)
	var peers []string
	for i := range clusterSize {
		peers = append(peers, fmt.Sprintf("n%d=%s", i+1, addrs[3*i+1]))
	}
	for i := range clusterSize {
		id := fmt.Sprintf("n%d", i+1)
		c.all = append(c.all, &process{
			id: id, api: addrs[3*i], gateway: addrs[3*i+2], binary: s.binary, log: filepath.Join(s.logs, id+".log"),
			args: append([]string{
				"serve", "--node-id", id, "--data-dir", filepath.Join(s.data, id), "--http-addr", addrs[3*i], "--raft-addr", addrs[3*i+1],
				"--gateway-addr", addrs[3*i+2], "--peers", strings.Join(peers, ","),
			}, s.flags...),
		})
	}
	for _, p := range c.all {
		if err := p.start(); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	if err := c.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *loopback) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (c *loopback) nodes() (nodes []load.Node) {
	for _, p := range c.all {
		nodes = append(nodes, load.Node{ID: p.id, API: "http://" + p.api, Gateway: "http://" + p.gateway})
	}
	return nodes
}

func (c *loopback) kinds() []string { return slices.Clone(processFaults) }

// processStep is a fault of processes.
type processStep struct {
	kind  string
	place int           // of the node, where the kind does not say
	lasts time.Duration // until it is healed
}

// String names it.
func (s processStep) String() string { return s.kind }

// plan has each kind once, in an order by the seed, and then again.
func (c *loopback) plan(seed uint64, kinds []string) planner {
	chance := rand.New(rand.NewPCG(seed, 0))
	var order []string
	return func() step {
		if len(order) == 0 {
			order = slices.Clone(kinds)
			chance.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		s := processStep{kind: order[0], place: chance.IntN(len(c.all)), lasts: 500*time.Millisecond + time.Duration(chance.Int64N(int64(2*time.Second)))}
		order = order[1:]
		return s
	}
}

// inject does a fault, heals it and waits until every node is ready again.
func (c *loopback) inject(ctx context.Context, s step, clock func() history.Nano) *history.Fault {
	f := &history.Fault{Kind: s.String(), Begin: clock()}
	evidence, err := c.do(ctx, s.(processStep), f)
	f.End = clock()
	if err == nil {
		err = c.awaitReady(ctx)
	}
	if err != nil {
		f.Error = err.Error()
		return f
	}
	f.Evidence = evidence
	return f
}

// do does a fault and heals it, and returns what shows that it bit.
func (c *loopback) do(ctx context.Context, s processStep, f *history.Fault) (evidence string, err error) {
	victims := []*process{c.all[s.place]}
	before := c.leader(ctx)
	switch s.kind {
	case faultKillLeader, faultPauseLeader:
		i := slices.IndexFunc(c.all, func(p *process) bool { return p.id == before.Leader })
		if i < 0 {
			return "", errors.New("there is no leader")
		}
		victims[0] = c.all[i]
	case faultKillAll:
		victims = c.all
	}
	for _, p := range victims {
		f.Nodes = append(f.Nodes, p.id)
	}
	switch s.kind {
	case faultKill, faultKillLeader, faultKillAll:
		evidence, err = c.kill(ctx, victims, s.lasts)
	case faultPause, faultPauseLeader:
		evidence, err = c.pause(ctx, victims[0], s.lasts)
	case faultRestart:
		if err := victims[0].terminate(); err != nil {
			return "", err
		}
		evidence, err = victims[0].id+" stopped with status 0 and was started again", victims[0].start()
	case faultTransfer:
		evidence, err = c.transfer(ctx, victims[0])
	}
	if err != nil || evidence == "" {
		return "", err
	}
	if after := c.leader(ctx); after.Term > before.Term {
		evidence += fmt.Sprintf("; term %d led by %s became term %d led by %s", before.Term, before.Leader, after.Term, after.Leader)
	}
	return evidence, nil
}

// kill kills nodes at once and starts them again after a while.
func (c *loopback) kill(ctx context.Context, victims []*process, down time.Duration) (string, error) {
	var how []string
	for _, p := range victims {
		ended, err := p.kill()
		if err != nil {
			return "", err
		}
		how = append(how, p.id+" ended with "+ended)
	}
	if err := sleep(ctx, down); err != nil {
		return "", err
	}
	for _, p := range victims {
		if err := p.start(); err != nil {
			return "", err
		}
	}
	return strings.Join(how, ", "), nil
}

// pause stops a node for longer than an election takes, and at times for longer
// than a lease.
func (c *loopback) pause(ctx context.Context, p *process, lasts time.Duration) (string, error) {
	began := time.Now()
	if err := p.pause(); err != nil {
		return "", err
	}
	if err := sleep(ctx, lasts+500*time.Millisecond); err != nil {
		return "", errors.Join(err, p.resume())
	}
	stopped := p.stopped()
	if err := p.resume(); err != nil || !stopped {
		return "", err
	}
	return fmt.Sprintf("%s stood still for %v", p.id, time.Since(began).Round(time.Millisecond)), nil
}

func (c *loopback) transfer(ctx context.Context, to *process) (string, error) {
	before := c.leader(ctx)
	if before.Leader == to.id {
		to = c.all[(slices.Index(c.all, to)+1)%len(c.all)]
	}
	if err := c.status.transfer(ctx, "http://"+c.all[0].api, to.id); err != nil {
		return "", err
	}
	if after := c.leader(ctx); after.Leader != before.Leader {
		return "the leadership went from " + before.Leader + " to " + after.Leader, nil
	}
	return "", nil
}

// leader returns who leads by the word of the nodes, and waits a while for one.
func (c *loopback) leader(ctx context.Context) (best clusterStatus) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		for _, p := range c.all {
			if s, err := c.status.cluster(ctx, "http://"+p.api); err == nil && s.Term >= best.Term && s.Leader != "" {
				best = s
			}
		}
		if best.Leader != "" || sleep(ctx, probeEvery) != nil {
			break
		}
	}
	return best
}

// awaitReady waits until every node is ready. One that has ended by itself is
// an error.
func (c *loopback) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for _, p := range c.all {
		for !c.status.ready(ctx, "http://"+p.api) {
			if !p.up() {
				return fmt.Errorf("%s ended by itself, see %s", p.id, p.log)
			}
			if err := sleep(ctx, probeEvery); err != nil {
				return fmt.Errorf("%s is not ready: %w", p.id, err)
			}
		}
	}
	return nil
}

func (c *loopback) heal(ctx context.Context) error {
	for _, p := range c.all {
		if p.up() {
			if err := p.resume(); err != nil {
				return err
			}
			continue
		}
		if err := p.start(); err != nil {
			return err
		}
	}
	return c.awaitReady(ctx)
}

func (c *loopback) stop() error {
	errs := make([]error, len(c.all))
	var wg sync.WaitGroup
	for i, p := range c.all {
		wg.Go(func() { errs[i] = p.terminate() })
	}
	wg.Wait()
	c.status.close()
	return errors.Join(errs...)
}

// The ports of nodes are below those that the system gives to clients, one of
// which could else take the port of a node that is down.
const firstPort, lastPort = 20000, 28000

// freeAddrs returns loopback addresses that nothing listens on.
func freeAddrs(n int) (addrs []string, err error) {
	from := firstPort + (os.Getpid()*31)%(lastPort-firstPort)
	for port := from; len(addrs) < n && port < from+4000; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		defer listener.Close()
		addrs = append(addrs, addr)
	}
	if len(addrs) < n {
		return nil, errors.New("find free ports: there are none")
	}
	return addrs, nil
}

// sleep waits, and is cut short by ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
