package framing

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

const badHead = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"

func guard(w *wire) *conn { return &conn{Conn: w, scan: newScanner(64 << 10)} }

func TestAReadNeverSpansTwoRequests(t *testing.T) {
	w := newWire([]byte(first + smuggled + badHead))
	c := guard(w)
	buf := make([]byte, 4096)
	for i, want := range []string{first, smuggled[:1], smuggled[1:], badHead[:1]} {
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("read %d: %q, %v, want %q", i, buf[:n], err, want)
		}
	}
	if w.out.Len() > 0 {
		t.Fatalf("written before the bad head was asked for: %q", w.out.String())
	}
	for range 2 {
		n, err := c.Read(buf)
		var fault *Fault
		if n != 0 || !errors.As(err, &fault) || fault != errTwoLengths {
			t.Errorf("read %d bytes, %v, want %v", n, err, errTwoLengths)
		}
	}
	if n := strings.Count(w.out.String(), "HTTP/1.1 400"); n != 1 {
		t.Errorf("refused %d times: %q", n, w.out.String())
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the refusal: %v", err)
	}
}

func TestABadFirstByteIsNotRefusedWhileTheRequestBeforeIsAnswered(t *testing.T) {
	w := newWire([]byte(first), []byte("\n"))
	c := guard(w)
	buf := make([]byte, 4096)
	for range 2 {
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	if w.out.Len() > 0 {
		t.Fatalf("written: %q", w.out.String())
	}
	if n, err := c.Read(buf); n != 0 || err == nil || w.out.Len() == 0 {
		t.Errorf("read %d, %v; written %q", n, err, w.out.String())
	}
}

func TestBytesOfABadHeadDoNotDisturbAnAnswerUnderWay(t *testing.T) {
	half := make(chan struct{})
	contextErr := make(chan error, 1)
	l := NewListener(listen(t), patient)
	start(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
		w.Header().Set("Content-Length", "8")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-half
		_, _ = io.WriteString(w, "full")
		contextErr <- r.Context().Err()
	}))
	c := dial(t, l.Addr())
	c.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" + badHead)
	c.Expect("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
	c.Send(smuggled)
	close(half)
	c.Expect("full")
	c.WantProblem(errTwoLengths)
	if err := <-contextErr; err != nil {
		t.Errorf("the context of the request under way: %v", err)
	}
}

// Wherever a stream is cut into segments, the same is written.
func TestSegmentsChangeNothing(t *testing.T) {
	stream := first + "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n" + "\r\nGET /get HTTP/1.1\r\nHost: a\r\n\r\n" + badHead
	const want = "/first /chunks /get"
	for i := range stream {
		for _, segments := range [][][]byte{
			{[]byte(stream[:i]), []byte(stream[i:])},
			{[]byte(stream[:i]), []byte(stream[i : i+1]), []byte(stream[i+1:])},
		} {
			var h recorder
			out := overWire(true, &h, segments...)
			if got := h.paths(); got != want {
				t.Fatalf("cut at %d: the handler saw %q, want %q", i, got, want)
			}
			if want := strings.Repeat(answered, 3) + string(errTwoLengths.response()); out != want {
				t.Fatalf("cut at %d: written %q, want %q", i, out, want)
			}
		}
	}
}

func TestTheHeadLimitIsExact(t *testing.T) {
	const head = "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tt := range []struct {
		name  string
		limit int
		want  string
	}{
		{"at the limit", len(head), "/ok"},
		{"over the limit", len(head) - 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h recorder
			l := NewListener(listen(t), Limits{Head: tt.limit, Parting: time.Minute})
			start(t, l, &h)
			c := dial(t, l.Addr())
			c.Send(head)
			if tt.want == "" {
				c.WantProblem(errHeadTooLong)
			} else {
				c.Expect(answered)
			}
			if got := h.paths(); got != tt.want {
				t.Errorf("the handler saw %q", got)
			}
		})
	}
}

func TestARefusalArrivesThoughTheClientSendsMore(t *testing.T) {
	var h recorder
	l := NewListener(listen(t), patient)
	start(t, l, &h)
	c := dial(t, l.Addr())
	c.Send(badHead + strings.Repeat("x", 128<<10))
	c.WantProblem(errTwoLengths)
}

func TestExpectContinue(t *testing.T) {
	var h recorder
	l := NewListener(listen(t), patient)
	start(t, l, &h)
	c := dial(t, l.Addr())
	c.Send("POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	c.Expect("HTTP/1.1 100 Continue\r\n\r\n")
	c.Send("abc")
	c.Expect(answered)
	c.Send(badHead)
	c.WantProblem(errTwoLengths)
	if seen := h.exchanges(); len(seen) != 1 || seen[0].body != "abc" {
		t.Errorf("the handler saw %+v", seen)
	}
}

func TestTLS(t *testing.T) {
	// Only its certificate is used.
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	defer certified.Close()
	inner := listen(t)
	l := NewListener(tls.NewListener(inner, &tls.Config{Certificates: certified.TLS.Certificates}), patient)
	secure := make(chan bool, 1)
	start(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		w.WriteHeader(http.StatusNoContent)
		secure <- r.TLS != nil && r.TLS.HandshakeComplete
	}))
	config := certified.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", nil
	plain, err := tls.Dial("tcp", inner.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, plain)
	c.Send("GET /ok HTTP/1.1\r\nHost: a\r\n\r\n", badHead)
	c.Expect(answered)
	c.WantProblem(errTwoLengths)
	if !<-secure {
		t.Error("the request does not know that it came over TLS")
	}
}

func TestAHandshakeIsTimed(t *testing.T) {
	inner := listen(t)
	l := NewListener(tls.NewListener(inner, &tls.Config{Certificates: []tls.Certificate{{}}}), Limits{Handshake: time.Nanosecond})
	start(t, l, http.NotFoundHandler())
	// Nothing is sent: the server hangs up by itself.
	if out := dial(t, inner.Addr()).Rest(); out != "" {
		t.Errorf("read %q", out)
	}
}

// Bytes that no head may hold, as another protocol may send them.
const foreign = "\x00\n\r\r\n: \n\n\x16\x03\x01"

func TestBytesPassUnscannedOnceReleased(t *testing.T) {
	hijack := func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer c.Close()
		got := make([]byte, 2*len(foreign))
		n, err := io.ReadFull(rw, got)
		if err != nil {
			t.Errorf("read %q, %v", got[:n], err)
		}
		_, _ = c.Write(got[:n])
	}
	for _, tt := range []struct {
		name   string
		server *http.Server
	}{
		{"by its handler", &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !Release(r.Context()) {
				t.Error("the connection is not ours")
			}
			hijack(w, r)
		})}},
		{"by its state", &http.Server{ConnState: ConnState, Handler: http.HandlerFunc(hijack)}},
	} {
		for name, parts := range map[string][]string{
			"sent with the head":  {upgrade + foreign + foreign},
			"sent after the head": {upgrade, foreign, foreign},
			"sent byte by byte":   bytewise(upgrade + foreign + foreign),
		} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				l := NewListener(listen(t), patient)
				server := &http.Server{Handler: tt.server.Handler, ConnContext: tt.server.ConnContext, ConnState: tt.server.ConnState}
				run(t, server, l)
				c := dial(t, l.Addr())
				c.Send(parts...)
				if got := c.Rest(); got != foreign+foreign {
					t.Errorf("came back as %q, want %q", got, foreign+foreign)
				}
			})
		}
	}
}

const upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"

func TestReleaseKnowsItsConnections(t *testing.T) {
	if Release(context.Background()) {
		t.Error("a context without connection was released")
	}
	if Release(ConnContext(context.Background(), newWire())) {
		t.Error("a connection of another listener was released")
	}
}

// accept returns both ends of a guarded connection.
func accept(t *testing.T) (server net.Conn, c *client) {
	t.Helper()
	l := NewListener(listen(t), patient)
	t.Cleanup(func() { _ = l.Close() })
	c = dial(t, l.Addr())
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server, c
}

func TestDeadlinesReachTheConnection(t *testing.T) {
	server, c := accept(t)
	c.Send("GET / HT")
	got := make([]byte, 8)
	if _, err := io.ReadFull(server, got); err != nil {
		t.Fatalf("half a head: %v", err)
	}
	_ = server.SetReadDeadline(time.Unix(1, 0))
	if n, err := server.Read(got); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v", n, err)
	}
	_ = server.SetReadDeadline(time.Time{})
	c.Send("TP/1.1\r\n\r\n")
	if s, err := bufio.NewReader(server).ReadString('\r'); s != "TP/1.1\r" {
		t.Errorf("read %q, %v", s, err)
	}
}

func TestCloseEndsAReadUnderWay(t *testing.T) {
	server, _ := accept(t)
	read := make(chan error, 1)
	go func() {
		_, err := server.Read(make([]byte, 1))
		read <- err
	}()
	_ = server.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
}
