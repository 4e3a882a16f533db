package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// raftLayer gives raft the connections that were made for it and accepted.
type raftLayer struct {
	t        *Transport
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

var _ raft.StreamLayer = (*raftLayer)(nil)

func newRaftLayer(t *Transport) *raftLayer {
	return &raftLayer{t: t, accepted: make(chan net.Conn), closed: make(chan struct{})}
}

// RaftLayer is what raft's network transport runs on. Connections for raft are
// refused as not ready before the first call and after the layer was closed.
func (t *Transport) RaftLayer() raft.StreamLayer {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.raft.closed:
	default:
		t.raftUp = true
	}
	return t.raft
}

// take hands c to raft and reports whether raft took it.
func (r *raftLayer) take(c net.Conn) bool {
	timer := time.NewTimer(handOver)
	defer timer.Stop()
	select {
	case r.accepted <- c:
		return true
	case <-r.closed:
	case <-r.t.ctx.Done():
	case <-timer.C:
	}
	return false
}

// Accept returns the next connection that a peer made for raft.
func (r *raftLayer) Accept() (net.Conn, error) {
	select {
	case c := <-r.accepted:
		return c, nil
	case <-r.closed:
	case <-r.t.ctx.Done():
	}
	return nil, net.ErrClosed
}

// Close ends Accept. The listener and the connections are the transport's.
func (r *raftLayer) Close() error {
	r.once.Do(func() {
		r.t.mu.Lock()
		defer r.t.mu.Unlock()
		r.t.raftUp = false
		close(r.closed)
	})
	return nil
}

// Addr is the address that peers know this node by.
func (r *raftLayer) Addr() net.Addr { return advertised(r.t.cfg.Addr) }

// Dial connects to the member that the table has at address.
func (r *raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.t.ctx, timeout)
	defer cancel()
	m, ok := r.t.snapshot().roster.at(string(address))
	if !ok {
		return nil, fmt.Errorf("dial %s for raft: no member of this cluster has that address", address)
	}
	c, err := r.t.dial(ctx, forRaft, m)
	if err != nil {
		// Raft logs failures only as such, and each again and again.
		r.t.sayRefused(m, err)
		return nil, fmt.Errorf("dial %s for raft: %w", m.ID, err)
	}
	return c, nil
}

// advertised is an address as it was configured.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }
