package simulation

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

var (
	errRefused = errors.New("connection refused")
	errReset   = errors.New("connection reset")
)

// port is a host's peer address while its process is up: connections come in
// by it, and raft's messages.
type port struct {
	net      *network
	host     string // who listens
	addr     string
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
	dead     <-chan struct{} // closed when the process has died

	mu   sync.Mutex
	raft *raftTransport // nil until raft has started
}

var _ net.Listener = (*port)(nil)

// listen opens a port. A process that has died leaves its port to the next.
func (n *network) listen(host, addr string, dead <-chan struct{}) *port {
	p := &port{net: n, host: host, addr: addr, dead: dead, incoming: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[addr] = p
	return p
}

// Accept returns the next connection.
func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.incoming:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (p *port) Close() error {
	p.once.Do(func() {
		close(p.closed)
		p.net.mu.Lock()
		defer p.net.mu.Unlock()
		if p.net.ports[p.addr] == p {
			delete(p.net.ports, p.addr)
		}
	})
	return nil
}

// Addr is the address that the port has.
func (p *port) Addr() net.Addr { return address(p.addr) }

type address string

func (address) Network() string  { return "simulated" }
func (a address) String() string { return string(a) }

// dial connects a process of host to addr.
func (n *network) dial(ctx context.Context, host, addr string, dead <-chan struct{}) (net.Conn, error) {
	to := hostOf(addr)
	for {
		cut, changed := n.isCut(host, to)
		back, _ := n.isCut(to, host)
		if !cut && !back {
			break
		}
		select { // the first packet of TCP is sent again and again
		case <-changed:
		case <-dead:
			return nil, errRefused
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	time.Sleep(n.fate(host, to).delay)
	p := n.port(addr)
	if p == nil || isClosed(dead) {
		return nil, errRefused
	}
	near, far := n.pipe(host, to)
	select {
	case p.incoming <- far:
		return near, nil
	case <-p.closed:
	case <-dead:
	case <-ctx.Done():
	}
	near.kill()
	return nil, errRefused
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// pipe is one end of a connection. What is written at one end comes, in order
// and later, out of the other; while the way is cut it waits.
type pipe struct {
	net      *network
	from, to string // hosts; of the end that reads, to is itself
	far      *pipe
	serial   uint64

	mu       sync.Mutex
	came     []segment     // what the far end has written
	wake     chan struct{} // depth 1: came, closed or deadline changed
	closed   bool          // by this end
	ended    bool          // by the far end: what came is still read
	broken   bool
	deadline time.Time
}

type segment struct {
	data []byte
	at   time.Time // when it comes
}

func (n *network) pipe(from, to string) (near, far *pipe) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serial += 2
	near = &pipe{net: n, from: to, to: from, serial: n.serial, wake: make(chan struct{}, 1)}
	far = &pipe{net: n, from: from, to: to, serial: n.serial + 1, wake: make(chan struct{}, 1)}
	near.far, far.far = far, near
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, far
}

func sortPipes(all []*pipe) {
	slices.SortFunc(all, func(a, b *pipe) int { return cmp.Compare(a.serial, b.serial) })
}

func (c *pipe) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Read implements net.Conn.
func (c *pipe) Read(b []byte) (int, error) {
	for {
		wait, changed, err := c.look()
		if err != nil {
			return 0, err
		}
		if wait == 0 {
			if n := c.take(b); n > 0 {
				return n, nil
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-c.wake:
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look says how long to wait before there is something to read: 0 now.
func (c *pipe) look() (wait time.Duration, changed <-chan struct{}, err error) {
	cut, changed := c.net.isCutQuietly(c.from, c.to)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	if !c.deadline.IsZero() {
		if !now.Before(c.deadline) {
			return 0, nil, os.ErrDeadlineExceeded
		}
		wait = c.deadline.Sub(now)
	}
	switch {
	case c.closed:
		return 0, nil, net.ErrClosed
	case c.broken:
		return 0, nil, errReset
	case cut:
		return wait, changed, nil
	case len(c.came) > 0:
		return min(wait, max(0, c.came[0].at.Sub(now))), changed, nil
	case c.ended:
		return 0, nil, io.EOF
	}
	return wait, changed, nil
}

func (c *pipe) take(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.came) == 0 {
		return 0
	}
	s := &c.came[0]
	n := copy(b, s.data)
	if s.data = s.data[n:]; len(s.data) == 0 {
		c.came = c.came[1:]
	}
	return n
}

// Write implements net.Conn. It does not wait: what does not get through is
// held, as in the buffers of TCP.
func (c *pipe) Write(b []byte) (int, error) {
	c.mu.Lock()
	closed, broken := c.closed, c.broken
	c.mu.Unlock()
	switch {
	case closed:
		return 0, net.ErrClosed
	case broken:
		return 0, errReset
	}
	c.net.isCut(c.to, c.from) // counts as evidence
	at := time.Now().Add(c.net.fate(c.to, c.from).delay)
	far := c.far
	far.mu.Lock()
	if last := len(far.came) - 1; last >= 0 && far.came[last].at.After(at) {
		at = far.came[last].at
	}
	far.came = append(far.came, segment{slices.Clone(b), at})
	far.mu.Unlock()
	far.signal()
	return len(b), nil
}

// Close implements net.Conn.
func (c *pipe) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	c.far.mu.Lock()
	c.far.ended = true
	c.far.mu.Unlock()
	c.far.signal()
	c.forget()
	return nil
}

func (c *pipe) forget() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	delete(c.net.conns, c)
}

// kill breaks the connection at both ends.
func (c *pipe) kill() {
	for _, end := range []*pipe{c, c.far} {
		end.mu.Lock()
		end.broken = true
		end.mu.Unlock()
		end.signal()
		end.forget()
	}
}

// LocalAddr implements net.Conn.
func (c *pipe) LocalAddr() net.Addr { return address(c.to + ":0") }

// RemoteAddr implements net.Conn.
func (c *pipe) RemoteAddr() net.Addr { return address(c.from + ":0") }

// SetDeadline implements net.Conn. Writing never waits.
func (c *pipe) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *pipe) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	c.signal()
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *pipe) SetWriteDeadline(time.Time) error { return nil }

// isCutQuietly is isCut without counting it: a reader that waits suffers
// nothing by a cut while nothing is sent.
func (n *network) isCutQuietly(from, to string) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.rules {
		if r.cut && r.matches(from, to) {
			return true, n.changed
		}
	}
	return false, n.changed
}
