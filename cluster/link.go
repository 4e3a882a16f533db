package cluster

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// link is this node's commands connection to one peer: dialled when first
// needed, shared by all requests, dialled anew after it broke.
type link struct {
	id   string
	dial func(ctx context.Context, id string) (net.Conn, error)

	mu      sync.Mutex
	opening opening   // of the last connection
	conn    *linkConn // nil: none
	dialing *dialing  // nil: none
	closed  bool
	running sync.WaitGroup
}

// dialing is a dial under way. It is the link's own: the requests that wait for
// it share what comes of it, and none of them ends it by giving up.
type dialing struct {
	cancel context.CancelFunc
	ended  chan struct{}
	conn   *linkConn // set, or err, before ended is closed
	err    error
}

// linkConn is one connection of a link. It is owned by its reader goroutine,
// which fails every pending request when the connection breaks.
type linkConn struct {
	conn net.Conn
	w    *frameWriter

	mu      sync.Mutex
	nextID  uint64
	pending map[uint64]chan frame // nil once broken
	// silent is since when the peer owes an answer and nothing came; zero
	// while it owes none.
	silent time.Time
}

const (
	// dialTimeout bounds a dial to a peer that does not answer.
	dialTimeout = time.Second
	// askAfter is how long a peer that owes an answer may be silent before it
	// is asked whether it is there.
	askAfter = time.Second
	// maxSilence is when it is not: after a partition TCP may take minutes to
	// notice, and everything sent meanwhile waits with it.
	maxSilence = 5 * time.Second
)

// errNotSent: the request certainly did not leave this node.
var errNotSent = errors.New("not sent")

// errBroken: the connection broke after the request may have been sent.
var errBroken = errors.New("connection broke before the answer")

// call sends one frame and returns the channel of its answer, which is closed
// without a frame if the connection breaks. forget must be called when the
// answer is no longer waited for.
func (l *link) call(ctx context.Context, kind frameType, payload []byte) (answer <-chan frame, forget func(), err error) {
	c, err := l.connect(ctx)
	if err != nil {
		return nil, nil, errors.Join(errNotSent, err)
	}
	ch := make(chan frame, 1)
	c.mu.Lock()
	if c.pending == nil {
		c.mu.Unlock()
		return nil, nil, errNotSent
	}
	c.nextID++
	id := c.nextID
	c.pending[id] = ch
	if c.silent.IsZero() {
		c.silent = time.Now()
	}
	c.mu.Unlock()
	forget = func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}
	err = c.w.send(kind, id, func(b []byte) ([]byte, error) { return append(b, payload...), nil })
	if err != nil {
		forget()
		return nil, nil, errors.Join(errNotSent, err)
	}
	return ch, forget, nil
}

// ask calls and waits for the answer.
func (l *link) ask(ctx context.Context, kind frameType, payload []byte) (frame, error) {
	ch, forget, err := l.call(ctx, kind, payload)
	if err != nil {
		return frame{}, err
	}
	defer forget()
	select {
	case f, ok := <-ch:
		if !ok {
			return frame{}, errBroken
		}
		return f, nil
	case <-ctx.Done():
		return frame{}, ctx.Err()
	}
}

// connect returns the connection, dialling it if there is none. One dial is
// under way at a time.
func (l *link) connect(ctx context.Context) (*linkConn, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, errWriterStopped
	}
	if c := l.conn; c != nil {
		l.mu.Unlock()
		return c, nil
	}
	if l.dialing == nil {
		l.beginDial()
	}
	d := l.dialing
	l.mu.Unlock()
	select {
	case <-d.ended:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// beginDial is called with mu held.
func (l *link) beginDial() {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	d := &dialing{cancel: cancel, ended: make(chan struct{})}
	l.dialing = d
	l.running.Go(func() {
		defer cancel()
		c, err := l.dial(ctx, l.id)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.dialing = nil
		if err == nil {
			d.conn, err = l.adopt(c)
		}
		d.err = err
		close(d.ended)
	})
}

// adopt begins to use c. Called with mu held.
func (l *link) adopt(c net.Conn) (*linkConn, error) {
	if l.closed {
		c.Close()
		return nil, errWriterStopped
	}
	lc := &linkConn{conn: c, w: newFrameWriter(c), pending: map[uint64]chan frame{}}
	l.opening.number++
	o := l.opening
	_ = lc.w.send(frameOpen, 0, func(b []byte) ([]byte, error) { return o.append(b), nil })
	l.conn = lc
	ended := make(chan struct{})
	l.running.Go(func() { lc.watch(ended) })
	l.running.Go(func() {
		lc.read()
		close(ended)
		l.mu.Lock()
		if l.conn == lc {
			l.conn = nil
		}
		l.mu.Unlock()
		lc.w.stop()
		lc.fail()
	})
	return lc, nil
}

// Read reads from the connection and takes note that the peer is there.
func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	if n > 0 {
		c.mu.Lock()
		c.silent = time.Now()
		c.mu.Unlock()
	}
	return n, err
}

func (c *linkConn) read() {
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		c.mu.Lock()
		ch := c.pending[f.id]
		delete(c.pending, f.id)
		if len(c.pending) == 0 {
			c.silent = time.Time{}
		}
		c.mu.Unlock()
		if ch != nil {
			ch <- f
		}
	}
}

// watch gives the connection up if the peer owes an answer and sends nothing
// for maxSilence. A command may take longer than that, so the peer is asked:
// it answers a ping at once. Nobody waits for that ping's answer.
func (c *linkConn) watch(ended <-chan struct{}) {
	tick := time.NewTicker(askAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ended:
			return
		}
		c.mu.Lock()
		silent := c.silent
		c.mu.Unlock()
		switch {
		case silent.IsZero() || time.Since(silent) < askAfter:
		case time.Since(silent) >= maxSilence:
			c.conn.Close()
			return
		default:
			_ = c.w.send(framePing, 0, func(b []byte) ([]byte, error) { return append(b, "{}"...), nil })
		}
	}
}

// fail ends every pending request. An id is deleted before its channel is
// sent to, so no channel is both sent to and closed.
func (c *linkConn) fail() {
	c.mu.Lock()
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, ch := range pending {
		close(ch)
	}
}

// close ends the connection and waits for its goroutines.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	c := l.conn
	if l.dialing != nil {
		l.dialing.cancel()
	}
	l.mu.Unlock()
	if c != nil {
		c.w.stop()
	}
	l.running.Wait()
}

// links holds the link to each peer, by node id.
type links struct {
	dial    func(ctx context.Context, id string) (net.Conn, error)
	process uint64 // see opening

	mu     sync.Mutex
	byID   map[string]*link
	closed bool
}

func (ls *links) to(id string) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byID[id]
	if l == nil {
		l = &link{id: id, dial: ls.dial, closed: ls.closed, opening: opening{process: ls.process}}
		ls.byID[id] = l
	}
	return l
}

func (ls *links) close() {
	ls.mu.Lock()
	ls.closed = true
	all := make([]*link, 0, len(ls.byID))
	for _, l := range ls.byID {
		all = append(all, l)
	}
	ls.mu.Unlock()
	for _, l := range all {
		l.close()
	}
}
