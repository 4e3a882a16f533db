package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// patience bounds what is expected to happen; no verdict depends on it.
const patience = 20 * time.Second

// parse reads one answer from text, a byte at a time.
func parse(text string) (answer, bool, error) {
	c := newConn([]string{"127.0.0.1:1"}, 0, patience)
	c.reader.Reset(iotest.OneByteReader(strings.NewReader(text)))
	return c.read()
}

func TestAnswerIsRead(t *testing.T) {
	const body = `{"id":"1"}`
	tests := []struct {
		name, text string
		want       answer
		last       bool
	}{
		{"with body", "HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n" + body, answer{status: 201, body: []byte(body)}, false},
		{"without reason", "HTTP/1.1 409\r\nContent-Length: 0\r\n\r\n", answer{status: 409}, false},
		{"replayed", "HTTP/1.1 201 Created\r\nIdempotent-Replayed: true\r\nContent-Length: 10\r\n\r\n" + body, answer{201, true, []byte(body)}, false},
		{"not replayed", "HTTP/1.1 201 Created\r\nIdempotent-Replayed: false\r\nContent-Length: 0\r\n\r\n", answer{status: 201}, false},
		{"names in any case, values in any space", "HTTP/1.1 201 Created\r\ncontent-length:10 \r\nIDEMPOTENT-REPLAYED:\ttrue\r\n\r\n" + body, answer{201, true, []byte(body)}, false},
		{"bare line ends", "HTTP/1.1 201 Created\nContent-Length: 10\n\n" + body, answer{status: 201, body: []byte(body)}, false},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", answer{status: 204}, false},
		{"last on its connection", "HTTP/1.1 503 Service Unavailable\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", answer{status: 503}, true},
		{"after an interim one", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n" + body, answer{status: 201, body: []byte(body)}, false},
		{"same length twice", "HTTP/1.1 201 Created\r\nContent-Length: 10\r\nContent-Length: 10\r\n\r\n" + body, answer{status: 201, body: []byte(body)}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, last, err := parse(test.text)
			if err != nil {
				t.Fatal(err)
			}
			if got.status != test.want.status || got.replayed != test.want.replayed || string(got.body) != string(test.want.body) || last != test.last {
				t.Errorf("read %d %v %q, last %v; want %d %v %q, last %v", got.status, got.replayed, got.body, last,
					test.want.status, test.want.replayed, test.want.body, test.last)
			}
		})
	}
}

func TestUnusableAnswerIsRefused(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	tests := []struct{ name, text string }{
		{"other protocol", "SSH-2.0-OpenSSH\r\n\r\n"},
		{"other version", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"},
		{"status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"},
		{"status with a sign", "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n"},
		{"no length", ok + "\r\n"},
		{"chunked", ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"negative length", ok + "Content-Length: -1\r\n\r\n"},
		{"length with a sign", ok + "Content-Length: +1\r\n\r\nx"},
		{"no number as length", ok + "Content-Length: ten\r\n\r\n"},
		{"two lengths", ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"},
		{"a length beyond all bounds", ok + "Content-Length: 99999999999999999999\r\n\r\n"},
		{"a length beyond ours", ok + fmt.Sprintf("Content-Length: %d\r\n\r\n", maxBody+1)},
		{"line without colon", ok + "nonsense\r\n\r\n"},
		{"endless line", ok + "X: " + strings.Repeat("x", maxLine) + "\r\n\r\n"},
		{"endless head", ok + strings.Repeat("X: y\r\n", maxHeaders+1) + "\r\n"},
		{"endless interim answers", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxInterim+1)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, _, err := parse(test.text)
			if !errors.Is(err, errProtocol) {
				t.Errorf("read %+v, error %v; want one of protocol", a, err)
			}
		})
	}
	t.Run("bytes after its end", func(t *testing.T) {
		c := newConn([]string{"127.0.0.1:1"}, 0, patience)
		c.reader.Reset(strings.NewReader(ok + "Content-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n"))
		if _, _, err := c.read(); !errors.Is(err, errProtocol) {
			t.Errorf("error %v; want one of protocol", err)
		}
	})
}

func TestCutOffAnswerIsAnError(t *testing.T) {
	const whole = "HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n0123456789"
	for length := range len(whole) {
		a, _, err := parse(whole[:length])
		if err == nil {
			t.Fatalf("%q was read as %+v", whole[:length], a)
		}
		if result, _ := failed(err); result != connectionError {
			t.Errorf("%q failed as %q; want %q", whole[:length], result, connectionError)
		}
	}
}

// get asks a test's server for a path.
func get(t *testing.T, c *conn, path string) (answer, error) {
	t.Helper()
	return c.exchange(t.Context(), []byte("GET "+path+" HTTP/1.1\r\nHost: test\r\n\r\n"))
}

// serve starts a server that counts its connections.
func serve(t *testing.T, handler http.HandlerFunc) (addr string, accepted func() int) {
	t.Helper()
	var mu sync.Mutex
	connections := 0
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			defer mu.Unlock()
			connections++
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return connections
	}
}

func TestConnectionIsKept(t *testing.T) {
	addr, accepted := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	c := newConn([]string{addr}, 0, patience)
	defer c.hangUp()
	for i := range 5 {
		path := "/" + strings.Repeat("x", 1+i*3)
		a, err := get(t, c, path)
		if err != nil || a.status != 200 || string(a.body) != path {
			t.Fatalf("answer %+v, error %v; want 200 %s", a, err, path)
		}
	}
	if n := accepted(); n != 1 {
		t.Errorf("%d connections; want 1", n)
	}
}

func TestClosedConnectionIsRedialled(t *testing.T) {
	addr, accepted := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/last":
			w.Header().Set("Connection", "close")
		case "/cut":
			panic(http.ErrAbortHandler)
		}
	})
	c := newConn([]string{addr}, 0, patience)
	defer c.hangUp()
	for _, step := range []struct {
		path  string
		fails bool
	}{{"/last", false}, {"/", false}, {"/cut", true}, {"/", false}} {
		a, err := get(t, c, step.path)
		if (err != nil) != step.fails {
			t.Fatalf("%s: answer %+v, error %v", step.path, a, err)
		}
	}
	if n := accepted(); n != 3 {
		t.Errorf("%d connections; want 3", n)
	}
}

func TestNextNodeIsDialledWhenOneIsDown(t *testing.T) {
	up, _ := serve(t, func(http.ResponseWriter, *http.Request) {})
	down := refusing(t)
	c := newConn([]string{up, down}, 1, patience)
	defer c.hangUp()
	_, err := get(t, c, "/")
	if result, _ := failed(err); err == nil || result != connectionError {
		t.Fatalf("error %v; want that of a refused dial", err)
	}
	if a, err := get(t, c, "/"); err != nil || a.status != 200 {
		t.Errorf("answer %+v, error %v; want one from the other node", a, err)
	}
}

// refusing returns an address that refuses connections.
func refusing(t *testing.T) string {
	t.Helper()
	addrs, err := freeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	return addrs[0]
}

// silent starts a server that never answers, and tells when it was asked.
func silent(t *testing.T) (addr string, asked <-chan struct{}) {
	t.Helper()
	arrived, release := make(chan struct{}, 16), make(chan struct{})
	addr, _ = serve(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	t.Cleanup(func() { close(release) })
	return addr, arrived
}

func TestSilentServerTimesOut(t *testing.T) {
	addr, _ := silent(t)
	c := newConn([]string{addr}, 0, 50*time.Millisecond)
	_, err := get(t, c, "/")
	if result, _ := failed(err); result != timedOut {
		t.Errorf("failed as %q (%v); want %q", result, err, timedOut)
	}
	if c.socket != nil {
		t.Error("the connection is kept: a late answer would be taken for the next one's")
	}
}

func TestAbortEndsAnExchange(t *testing.T) {
	addr, asked := silent(t)
	c := newConn([]string{addr}, 0, patience)
	result := make(chan error, 1)
	go func() {
		_, err := c.exchange(context.Background(), []byte("GET / HTTP/1.1\r\nHost: test\r\n\r\n"))
		result <- err
	}()
	<-asked
	c.abort()
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v; want %v", err, net.ErrClosed)
	}
	if _, err := get(t, c, "/"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("later exchange: error %v; want %v", err, net.ErrClosed)
	}
}
