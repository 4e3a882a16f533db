package simulation

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// hostOf is the host that an address is of.
func hostOf(addr string) string {
	host, _, _ := strings.Cut(addr, ":")
	return host
}

// message is one of raft's, as it arrives.
type message struct {
	from, to string
	request  any
}

// raftTransport carries raft's messages one by one, so that each may be late,
// lost, doubled, spoilt or overtaken. Who may send at all the product decides:
// a message goes only as long as a connection stands that the peers' own
// preface has opened for raft.
type raftTransport struct {
	host  *host
	addr  string
	port  *port
	net   *network
	layer raft.StreamLayer
	calls chan raft.RPC

	closed  chan struct{}
	once    sync.Once
	running sync.WaitGroup

	mu   sync.Mutex
	open map[raft.ServerAddress]net.Conn
	held map[net.Conn]struct{} // those that peers have opened
}

const (
	// answerTimeout is how long raft's own transport waits for an answer.
	answerTimeout = 5 * time.Second
	// giveUpLeast and giveUpMost bound how long it takes to learn that a
	// message was lost.
	giveUpLeast, giveUpMost = 5 * time.Millisecond, 800 * time.Millisecond
)

var (
	errLost   = errors.New("message lost")
	errClosed = errors.New("transport closed")
)

func newRaftTransport(h *host, p *port, layer raft.StreamLayer) *raftTransport {
	t := &raftTransport{
		host: h, addr: h.addr, port: p, net: p.net, layer: layer, calls: make(chan raft.RPC),
		closed: make(chan struct{}), open: map[raft.ServerAddress]net.Conn{}, held: map[net.Conn]struct{}{},
	}
	t.running.Go(t.accept)
	p.mu.Lock()
	p.raft = t
	p.mu.Unlock()
	return t
}

// accept holds the connections that peers have opened, until they break.
func (t *raftTransport) accept() {
	for {
		c, err := t.layer.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		t.held[c] = struct{}{}
		t.mu.Unlock()
		t.running.Go(func() {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
			t.mu.Lock()
			delete(t.held, c)
			t.mu.Unlock()
		})
	}
}

// admit makes sure that a connection to target stands.
func (t *raftTransport) admit(target raft.ServerAddress) error {
	t.mu.Lock()
	_, stands := t.open[target]
	t.mu.Unlock()
	if stands {
		return nil
	}
	c, err := t.layer.Dial(target, answerTimeout)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.closed:
		_ = c.Close()
		return errClosed
	default:
	}
	if _, stands := t.open[target]; stands {
		_ = c.Close()
		return nil
	}
	t.open[target] = c
	t.running.Go(func() {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		t.mu.Lock()
		delete(t.open, target)
		t.mu.Unlock()
	})
	return nil
}

// wait waits for d, and reports false if the transport closed first.
func (t *raftTransport) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.closed:
		return false
	}
}

// call sends request and returns what came back.
func (t *raftTransport) call(target raft.ServerAddress, request any, content []byte) (any, error) {
	if err := t.admit(target); err != nil {
		return nil, err
	}
	if r, ok := request.(*raft.AppendEntriesRequest); ok {
		// Raft uses its own again once the call has returned, and a double may
		// still be on its way then.
		sent := *r
		request = &sent
	}
	to := hostOf(string(target))
	there := t.net.fate(t.host.name, to)
	if !t.wait(there.delay) {
		return nil, errClosed
	}
	if there.lost || isClosed(t.port.dead) {
		t.wait(t.net.dice.between(giveUpLeast, giveUpMost))
		return nil, errLost
	}
	if there.doubled && content == nil {
		late := t.net.dice.between(0, 500*time.Millisecond)
		t.net.running.Go(func() {
			time.Sleep(late)
			_, _ = t.deliver(target, request, nil, false)
		})
	}
	answer, err := t.deliver(target, request, content, there.spoilt)
	if err != nil {
		return nil, err
	}
	back := t.net.fate(to, t.host.name)
	if !t.wait(back.delay) {
		return nil, errClosed
	}
	if back.lost {
		t.wait(t.net.dice.between(giveUpLeast, giveUpMost))
		return nil, errLost
	}
	return answer, nil
}

// deliver has the process that listens at target answer request.
func (t *raftTransport) deliver(target raft.ServerAddress, request any, content []byte, spoil bool) (any, error) {
	p := t.net.port(string(target))
	if p == nil || isClosed(t.port.dead) {
		return nil, errRefused
	}
	p.mu.Lock()
	far := p.raft
	p.mu.Unlock()
	if far == nil {
		return nil, errRefused
	}
	answers := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: t.copied(request, p.host, spoil), RespChan: answers}
	if content != nil {
		rpc.Reader = bytes.NewReader(content)
	}
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	select {
	case far.calls <- rpc:
		if t.net.watch != nil {
			t.net.watch(message{t.host.name, p.host, request})
		}
	case <-far.closed:
		return nil, errRefused
	case <-t.closed:
		return nil, errClosed
	case <-timeout.C:
		return nil, errLost
	}
	select {
	case a := <-answers:
		if isClosed(p.dead) {
			return nil, errReset // nothing of what a dead process decides leaves it
		}
		return a.Response, a.Error
	case <-p.dead:
		return nil, errReset
	case <-far.closed:
		return nil, errReset
	case <-t.closed:
		return nil, errClosed
	case <-timeout.C:
		return nil, errLost
	}
}

// copied is request as it is read at the far end.
func (t *raftTransport) copied(request any, to string, spoil bool) any {
	r, ok := request.(*raft.AppendEntriesRequest)
	if !ok {
		return request
	}
	c := *r
	c.Entries = make([]*raft.Log, len(r.Entries))
	for i, e := range r.Entries {
		log := *e
		log.Data, log.Extensions = slices.Clone(e.Data), slices.Clone(e.Extensions)
		c.Entries[i] = &log
	}
	if n := len(c.Entries); spoil && n > 0 {
		if data := c.Entries[t.net.dice.n(n)].Data; len(data) > 0 {
			data[t.net.dice.n(len(data))] ^= 1 << t.net.dice.n(8)
			t.net.spoiler(t.host.name, to).bite()
		}
	}
	return &c
}

func take[T any](into *T, answer any, err error) error {
	if err != nil {
		return err
	}
	a, ok := answer.(*T)
	if !ok || a == nil {
		return fmt.Errorf("answer is %T", answer)
	}
	*into = *a
	return nil
}

// AppendEntries implements raft.Transport.
func (t *raftTransport) AppendEntries(_ raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	answer, err := t.call(target, args, nil)
	return take(resp, answer, err)
}

// RequestVote implements raft.Transport.
func (t *raftTransport) RequestVote(_ raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	answer, err := t.call(target, args, nil)
	return take(resp, answer, err)
}

// RequestPreVote implements raft.WithPreVote.
func (t *raftTransport) RequestPreVote(_ raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	answer, err := t.call(target, args, nil)
	return take(resp, answer, err)
}

// TimeoutNow implements raft.Transport.
func (t *raftTransport) TimeoutNow(_ raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	answer, err := t.call(target, args, nil)
	return take(resp, answer, err)
}

// InstallSnapshot implements raft.Transport.
func (t *raftTransport) InstallSnapshot(_ raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	content, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	answer, err := t.call(target, args, content)
	return take(resp, answer, err)
}

// Consumer implements raft.Transport.
func (t *raftTransport) Consumer() <-chan raft.RPC { return t.calls }

// LocalAddr implements raft.Transport.
func (t *raftTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.addr) }

// EncodePeer implements raft.Transport.
func (t *raftTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

// DecodePeer implements raft.Transport.
func (t *raftTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport: there is no fast path.
func (t *raftTransport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline implements raft.Transport.
func (t *raftTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Close breaks the connections and waits.
func (t *raftTransport) Close() error {
	t.once.Do(func() { close(t.closed) })
	_ = t.layer.Close()
	t.mu.Lock()
	var all []net.Conn
	for _, c := range t.open {
		all = append(all, c)
	}
	for c := range t.held {
		all = append(all, c)
	}
	t.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
	t.running.Wait()
	return nil
}
