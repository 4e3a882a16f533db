package framing

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exchange is one request as a handler saw it.
type exchange struct {
	path  string
	body  string
	err   error // of reading the body
	close bool
}

// recorder is a handler that answers 200 with the path, after reading the body.
type recorder struct {
	// answerFirst: the answer is sent before the body, which is never read.
	answerFirst bool

	mu   sync.Mutex
	seen []exchange
}

func (h *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["Date"] = nil
	e := exchange{path: r.URL.Path, close: r.Close}
	if h.answerFirst {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		w.WriteHeader(http.StatusNoContent)
		_ = control.Flush()
	} else {
		body, err := io.ReadAll(r.Body)
		e.body, e.err = string(body), err
		w.WriteHeader(http.StatusNoContent)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, e)
}

func (h *recorder) exchanges() []exchange {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]exchange(nil), h.seen...)
}

// paths are those of the requests whose body was read whole.
func (h *recorder) paths() string {
	var paths []string
	for _, e := range h.exchanges() {
		if e.err == nil {
			paths = append(paths, e.path)
		}
	}
	return strings.Join(paths, " ")
}

// start serves h on l until the test ends.
func start(t testing.TB, l net.Listener, h http.Handler) *http.Server {
	t.Helper()
	srv := &http.Server{Handler: h, ConnContext: ConnContext, ReadHeaderTimeout: time.Minute}
	run(t, srv, l)
	return srv
}

func run(t testing.TB, srv *http.Server, l net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
}

// patient waits for clients however slow the machine is.
var patient = Limits{Parting: time.Minute}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// client is a connection that says what it is told to.
type client struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, addr net.Addr) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

func newClient(t testing.TB, c net.Conn) *client {
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &client{Conn: c, t: t, r: bufio.NewReader(c)}
}

func (c *client) Send(parts ...string) {
	c.t.Helper()
	for _, part := range parts {
		if _, err := io.WriteString(c, part); err != nil {
			c.t.Fatalf("send: %v", err)
		}
	}
}

// Rest returns everything up to the end of the connection.
func (c *client) Rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("read %q, then: %v", b, err)
	}
	return string(b)
}

// Expect reads exactly want.
func (c *client) Expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c.r, got)
	if string(got[:n]) != want {
		c.t.Fatalf("read %q, %v, want %q", got[:n], err, want)
	}
}

const (
	answered      = "HTTP/1.1 204 No Content\r\n\r\n"
	answeredClose = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
)

// last is a request after which the server hangs up.
const last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// bytewise is s as parts of one byte.
func bytewise(s string) []string { return strings.Split(s, "") }

// wire is a connection that brings the given segments, one a Read, then its
// end, and keeps what is written to it.
type wire struct {
	mu       sync.Mutex
	segments [][]byte
	out      bytes.Buffer
	done     chan struct{} // closed by Close
}

func newWire(segments ...[]byte) *wire {
	return &wire{segments: segments, done: make(chan struct{})}
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.segments) > 0 && len(w.segments[0]) == 0 {
		w.segments = w.segments[1:]
	}
	if len(w.segments) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.segments[0])
	w.segments[0] = w.segments[0][n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.done:
	default:
		close(w.done)
	}
	return nil
}

func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// wires is a listener for one wire.
type wires struct {
	next   chan *wire
	closed chan struct{}
}

func (l *wires) Accept() (net.Conn, error) {
	select {
	case w := <-l.next:
		return w, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *wires) Close() error   { close(l.closed); return nil }
func (l *wires) Addr() net.Addr { return &net.TCPAddr{} }

// overWire serves the segments as one connection and returns what was written.
func overWire(guarded bool, h http.Handler, segments ...[]byte) string {
	w := newWire(segments...)
	one := &wires{next: make(chan *wire, 1), closed: make(chan struct{})}
	one.next <- w
	var l net.Listener = one
	if guarded {
		l = NewListener(l, Limits{})
	}
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	<-w.done
	_ = srv.Close()
	<-served
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}
