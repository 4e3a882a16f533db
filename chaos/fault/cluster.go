//go:build linux

// Package fault starts a cluster of real onced processes and does to it what
// happens to clusters. Every fault brings evidence that it bit, is healed
// completely before it is over, and is the same again for the same seed.
//
// With root each node has a host and a disk of its own (packages netns, disk);
// without, all are processes on loopback, and the faults of processes, files and
// members are left.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/disk"
	"github.com/onced/onced/chaos/netns"
	"github.com/onced/onced/chaos/node"
)

// Options say what a cluster is made of.
type Options struct {
	Nodes    int    // default 3
	Binary   string // of onced
	Dir      string // takes the logs, n1.log and so on, and on loopback the data
	Loopback bool   // no hosts, no disks: needs no root
	DiskSize int64  // of each node, in bytes; default 2 GiB
}

// Cluster is nodes, and what they run on.
type Cluster struct {
	Nodes   []*Member
	options Options
	net     *netns.Network // nil on loopback
	client  *http.Client
	idle    func() // closes the client's connections
}

// Member is one node with its host and disk, which are nil on loopback.
type Member struct {
	*node.Node
	Host *netns.Host
	Disk *disk.Disk
	// renamed counts the ids that it has had, which only one fault at a time
	// changes.
	renamed int
}

// API is the base URL of the node's API.
func (m *Member) API() string { return "http://" + m.HTTPAddr }

// Gateway is the base URL of the node's gateway.
func (m *Member) Gateway() string { return "http://" + m.GatewayAddr }

const (
	readyWithin = 60 * time.Second
	pollEvery   = 20 * time.Millisecond
	// answerWithin bounds one question to a node.
	answerWithin = 2 * time.Second

	httpPort, raftPort, gatewayPort = 18001, 17001, 19001
)

// New lays a cluster out and starts nothing. With an error nothing is left.
func New(ctx context.Context, o Options) (c *Cluster, err error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.DiskSize == 0 {
		o.DiskSize = 2 << 30 // a log file takes 64 MiB at once, and each change of leader may begin one
	}
	c = &Cluster{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if !o.Loopback {
		if c.net, err = netns.New(ctx, o.Nodes); err != nil {
			return nil, err
		}
	}
	transport := &http.Transport{DialContext: c.DialContext, MaxIdleConnsPerHost: 8, IdleConnTimeout: 5 * time.Second}
	c.client, c.idle = &http.Client{Transport: transport}, transport.CloseIdleConnections
	var addrs []string
	if o.Loopback {
		if addrs, err = freeAddrs(addrsPerNode * o.Nodes); err != nil {
			return nil, err
		}
	}
	var peers []string
	for i := range o.Nodes {
		m, err := c.lay(ctx, i, addrs)
		if err != nil {
			return nil, fmt.Errorf("lay out node %d: %w", i+1, err)
		}
		c.Nodes = append(c.Nodes, m)
		peers = append(peers, m.ID+"="+m.RaftAddr)
	}
	for _, m := range c.Nodes {
		m.Peers = strings.Join(peers, ",")
	}
	return c, nil
}

// addrsPerNode are those of its API, of raft and of its gateway.
const addrsPerNode = 3

// lay lays out node i, on loopback at its share of addrs.
func (c *Cluster) lay(ctx context.Context, i int, addrs []string) (*Member, error) {
	id := fmt.Sprintf("n%d", i+1)
	cfg := node.Config{ID: id, Binary: c.options.Binary, Log: filepath.Join(c.options.Dir, id+".log"), Client: c.client}
	m := &Member{}
	if c.net == nil {
		own := addrs[i*addrsPerNode:]
		cfg.HTTPAddr, cfg.RaftAddr, cfg.GatewayAddr = own[0], own[1], own[2]
		cfg.DataDir = filepath.Join(c.options.Dir, id, "data")
		m.Node = node.New(cfg)
		return m, os.MkdirAll(filepath.Dir(cfg.DataDir), 0o700)
	}
	d, err := disk.New(ctx, c.options.DiskSize)
	if err != nil {
		return nil, err
	}
	m.Host, m.Disk = c.net.Hosts[i], d
	cfg.HTTPAddr, cfg.RaftAddr, cfg.GatewayAddr = m.Host.At(httpPort), m.Host.At(raftPort), m.Host.At(gatewayPort)
	cfg.DataDir = filepath.Join(d.Dir, "data")
	cfg.Launch = m.Host.Start
	m.Node = node.New(cfg)
	return m, nil
}

// freeAddrs are different addresses on loopback that nobody listens on.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // each stays taken until all are found
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// Listen listens where every node reaches it, as the service behind the gateways.
func (c *Cluster) Listen(ctx context.Context) (net.Listener, error) {
	if c.net == nil {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return c.net.Clients.Listen(ctx, 0)
}

// DialContext connects from where the clients live.
func (c *Cluster) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.net == nil {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	return c.net.DialContext(ctx, network, addr)
}

// Start starts all nodes with further flags and waits until they are ready.
// Without an --upstream among the flags there are no gateways.
func (c *Cluster) Start(ctx context.Context, flags ...string) error {
	gateways := strings.Contains(strings.Join(flags, " "), "--upstream")
	for _, m := range c.Nodes {
		m.Flags = flags
		if c.net != nil {
			m.Flags = append(flags[:len(flags):len(flags)], "--insecure")
		}
		if !gateways {
			m.GatewayAddr = ""
		}
		if err := m.Start(); err != nil {
			return err
		}
	}
	return c.awaitReady(ctx)
}

// Heal has every node run, and waits until all are ready.
func (c *Cluster) Heal(ctx context.Context) error {
	for _, m := range c.Nodes {
		if err := m.Resume(); err != nil {
			return fmt.Errorf("heal: %w", err)
		}
		if !m.Up() {
			if err := m.Start(); err != nil {
				return fmt.Errorf("heal: %w", err)
			}
		}
	}
	return c.awaitReady(ctx)
}

// Stop kills all nodes and removes what they ran on; the logs stay. It may be
// called at any time, and again.
func (c *Cluster) Stop(ctx context.Context) error {
	var errs []error
	for _, m := range c.Nodes {
		errs = append(errs, m.Resume(), m.Kill(ctx))
	}
	if c.idle != nil {
		c.idle()
	}
	for _, m := range c.Nodes {
		if m.Disk != nil {
			errs = append(errs, m.Disk.Remove(ctx))
			m.Disk = nil
		}
	}
	if c.net != nil {
		errs = append(errs, c.net.Close())
		c.net = nil
	}
	return errors.Join(errs...)
}

// awaitReady waits until every node says that it is ready.
func (c *Cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for _, m := range c.Nodes {
		err := await(ctx, m.Name()+" to be ready", func() bool { return !m.Up() || c.ready(ctx, m) })
		if err == nil && !m.Up() {
			err = fmt.Errorf("%s has ended: see %s", m.Name(), filepath.Base(m.Log))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) ready(ctx context.Context, m *Member) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return m.Ready(ctx)
}

// await polls ok until it holds, or ctx ends.
func await(ctx context.Context, what string, ok func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// Reign is who leads, by the word of the nodes that can be asked.
type Reign struct {
	Leader *Member // nil where none is known
	Term   uint64
}

func (r Reign) String() string {
	if r.Leader == nil {
		return fmt.Sprintf("nobody in term %d", r.Term)
	}
	return fmt.Sprintf("%s in term %d", r.Leader.Name(), r.Term)
}

// Reign asks all nodes at once and believes the highest term.
func (c *Cluster) Reign(ctx context.Context) Reign { return c.reignOf(ctx, c.Nodes) }

// reignOf asks some of the nodes.
func (c *Cluster) reignOf(ctx context.Context, nodes []*Member) (r Reign) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, m := range nodes {
		if !m.Up() || m.Paused() {
			continue
		}
		asking.Go(func() {
			v, err := m.View(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && v.Leader != "" && v.Term >= r.Term {
				r = Reign{c.named(v.Leader), v.Term}
			}
		})
	}
	asking.Wait()
	return r
}

func (c *Cluster) named(id string) *Member {
	for _, m := range c.Nodes {
		if m.Name() == id {
			return m
		}
	}
	return nil
}

// others are all nodes but those of some.
func (c *Cluster) others(some ...*Member) (rest []*Member) {
next:
	for _, m := range c.Nodes {
		for _, s := range some {
			if m == s {
				continue next
			}
		}
		rest = append(rest, m)
	}
	return rest
}
