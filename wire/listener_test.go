package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// serveAt serves h on a ProblemListener and returns its address.
func serveAt(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ConnState: ConnState}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ProblemListener(l, 8)) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

const ownAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"

func TestABodyThatLooksLikeAnAnswerOfNetHTTPIsSentAsItIs(t *testing.T) {
	// What does not fit the server's buffer goes out in writes of its own.
	part := strings.Repeat("x", 1<<16)
	addr := serveAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(2*len(part)+len(ownAnswer))) // else each part has a chunk's head
		for _, s := range []string{part, ownAnswer, part} {
			_, _ = io.WriteString(w, s)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	conn := dial(t, addr)
	in := bufio.NewReader(conn)
	for range 2 {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != part+ownAnswer+part {
			t.Fatalf("%d bytes came, %v", len(body), err)
		}
	}
	// On the same connection an answer of net/http's own is a problem still.
	fmt.Fprint(conn, "GET / HTTP/1.1\r\n\r\n")
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 400 || res.Header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%v, %v", res, err)
	}
}

func TestAConnectionThatIsTakenOverIsLeftAlone(t *testing.T) {
	addr := serveAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, err := in.ReadByte(); err != nil {
			t.Error(err)
		}
		fmt.Fprint(conn, ownAnswer)
	}))
	conn := dial(t, addr)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	fmt.Fprint(conn, "x")
	if b, err := io.ReadAll(conn); err != nil || string(b) != ownAnswer {
		t.Errorf("%q came, %v", b, err)
	}
}
