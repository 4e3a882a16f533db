package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/onced/onced/wire"
)

// listen serves s as the product does, on a port of its own.
func (s *service) listen(change ...func(*http.Server)) string {
	s.t.Helper()
	server := NewHTTPServer(s.handler)
	for _, f := range change {
		f(server)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(wire.ProblemListener(l, 2))
	}()
	s.t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String()
}

// raw sends bytes and returns the answer; nil if the connection is closed
// without one. A server that does neither is a failure.
func (s *service) raw(addr, request string) *answer {
	s.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatal("neither an answer nor the end of the connection")
	}
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return &answer{s.t, res.StatusCode, res.Header, string(body)}
}

const jsonK = `{"idempotencyKey":"k","data":1}` // 31 bytes

func TestRequestsOnTheWire(t *testing.T) {
	head := "POST /create HTTP/1.1\r\nHost: x\r\n"
	tests := []struct {
		name, request string
		status        int
		slug          string // of a problem of ours
		claimed       bool
	}{
		{"a good one", head + "Content-Length: 31\r\n\r\n" + jsonK, 201, "", true},
		{"a chunked one", head + "Transfer-Encoding: chunked\r\n\r\n1f\r\n" + jsonK + "\r\n0\r\n\r\n", 201, "", true},
		{"a length and chunks, of which the chunks count", head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n" + jsonK + "\r\n0\r\n\r\n", 201, "", true},
		{"HTTP/1.0", "POST /create HTTP/1.0\r\nContent-Length: 31\r\n\r\n" + jsonK, 201, "", true},
		{"two lengths that differ", head + "Content-Length: 31\r\nContent-Length: 30\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"a signed length", head + "Content-Length: +31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"a negative length", head + "Content-Length: -1\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"an unknown transfer encoding", head + "Transfer-Encoding: xchunked\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"two transfer encodings", head + "Transfer-Encoding: chunked, identity\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"a NUL in a value", head + "X: a\x00b\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"a bare CR in a value", head + "X: a\rb\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"a space before the colon", head + "X : a\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"no host", "POST /create HTTP/1.1\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"two hosts", head + "Host: y\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"a huge header", head + "X: " + strings.Repeat("a", 32<<10) + "\r\nContent-Length: 31\r\n\r\n" + jsonK, 413, "too-large", false},
		{"a key of 64 KiB", head + "Idempotency-Key: " + strings.Repeat("k", 64<<10) + "\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 413, "too-large", false},
		{"a NUL in a key", head + "Idempotency-Key: a\x00\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "bad-request", false},
		{"a DEL in a key", head + "Idempotency-Key: a\x7f\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "bad-request", false},
		{"an expectation that is not known", head + "Expect: 200-ok\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"another version of HTTP", "POST /create HTTP/3.0\r\nHost: x\r\nContent-Length: 31\r\n\r\n" + jsonK, 400, "bad-request", false},
		{"no version of HTTP", "POST /create\r\n\r\n", 400, "bad-request", false},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "bad-request", false},
		{"a bad escape in the path", "POST /v1/keys/%zz/claim HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400, "bad-request", false},
		{"a bare LF behind a chunk's size", head + "Transfer-Encoding: chunked\r\n\r\n1f\n" + jsonK + "\r\n0\r\n\r\n", 400, "bad-request", false},
		{"a chunk's size that is no number", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + jsonK + "\r\n0\r\n\r\n", 400, "bad-request", false},
		{"a chunk longer than its size", head + "Transfer-Encoding: chunked\r\n\r\n10\r\n" + jsonK + "\r\n0\r\n\r\n", 400, "bad-request", false},
		{"a folded key", head + "Idempotency-Key: a\r\n b\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "key-invalid", false},
		{"two keys", head + "Idempotency-Key: a\r\nIdempotency-Key: a\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "key-invalid", false},
		{"two keys of another case", head + "idempotency-key: a\r\nIDEMPOTENCY-KEY: b\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "key-invalid", false},
		{"a key with high bytes", head + "Idempotency-Key: a\xc3\xa9\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "key-invalid", false},
		{"a key with an underscore in its header", head + "Idempotency_Key: a\r\nContent-Length: 10\r\n\r\n" + `{"data":1}`, 400, "key-missing", false},
		{"a length over the limit", head + "Content-Length: 1048577\r\n\r\n", 413, "too-large", false},
		{"a length over any limit", head + "Content-Length: 9223372036854775807\r\n\r\n", 413, "too-large", false},
		{"a length over the limit, asking first", head + "Content-Length: 1048577\r\nExpect: 100-continue\r\n\r\n", 413, "too-large", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			a := s.raw(s.listen(), tt.request)
			if a == nil {
				t.Fatal("closed without an answer")
			}
			if tt.slug != "" {
				a.wantsProblem(tt.status, tt.slug)
			}
			a.wants(tt.status)
			if claimed := s.node.Meta().Completed == 1; claimed != tt.claimed {
				t.Errorf("claimed: %v, want %v", claimed, tt.claimed)
			}
		})
	}
}

func TestABodyThatBreaksOffClaimsNothing(t *testing.T) {
	for name, request := range map[string]string{
		"with a length": "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + jsonK,
		"chunked":       "POST /create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n" + jsonK + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			conn, err := net.Dial("tcp", s.listen())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != 400 || s.node.began != 0 {
				t.Errorf("status %d after %d claims, want 400 and none", res.StatusCode, s.node.began)
			}
		})
	}
}

func TestASlowBodyClaimsNothing(t *testing.T) {
	s := newService(t)
	if NewHTTPServer(s.handler).ReadTimeout != 30*time.Second {
		t.Error("no limit on the time of a body")
	}
	addr := s.listen(func(server *http.Server) { server.ReadTimeout = 50 * time.Millisecond })
	a := s.raw(addr, "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"+jsonK)
	if a != nil {
		a.wantsProblem(400, "bad-request")
	}
	if s.node.began != 0 {
		t.Error("it went as far as the claim")
	}
}

func TestHalfAHeaderIsGivenUp(t *testing.T) {
	s := newService(t)
	if NewHTTPServer(s.handler).ReadHeaderTimeout != 5*time.Second {
		t.Error("no limit on the time of a header")
	}
	addr := s.listen(func(server *http.Server) { server.ReadHeaderTimeout = 50 * time.Millisecond })
	if a := s.raw(addr, "POST /create HTTP/1.1\r\nHost: x\r\n"); a != nil && a.status < 400 {
		t.Errorf("answer %d", a.status)
	}
}

// endless counts what is read of it.
type endless struct{ left, read int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), e.left)
	for i := range p[:n] {
		p[i] = ' '
	}
	e.left -= n
	e.read += n
	return int(n), nil
}

func TestALargeBodyIsNotRead(t *testing.T) {
	for name, length := range map[string]int64{"with a length": 64 << 20, "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			body := &endless{left: 64 << 20}
			r := httptest.NewRequest("POST", "/create", body)
			r.ContentLength = length
			s.serve(r).wantsHeader("Connection", "close").wantsProblem(413, "too-large")
			limit := int64(1<<20) + 1
			if length > 0 {
				limit = 0
			}
			if body.read > limit {
				t.Errorf("%d bytes were read", body.read)
			}
			if s.node.began != 0 {
				t.Error("it went as far as the claim")
			}
		})
	}
}

func TestALargeBodyIsToldSoOnTheWire(t *testing.T) {
	s := newService(t)
	addr := s.listen()
	res, err := http.Post("http://"+addr+"/create", "application/json", io.MultiReader(&endless{left: 64 << 20}))
	if err != nil {
		// The server may close before the client has sent everything.
		if s.node.began != 0 {
			t.Error("it went as far as the claim")
		}
		return
	}
	defer res.Body.Close()
	if res.StatusCode != 413 || s.node.began != 0 {
		t.Errorf("status %d after %d claims", res.StatusCode, s.node.began)
	}
}

func TestABodyAtTheLimitIsTaken(t *testing.T) {
	s := newService(t, func(c *Config) { c.MaxBody = 100 })
	fits := jsonK + strings.Repeat(" ", 100-len(jsonK))
	s.send("POST", "/create", fits).wants(201)
	s.send("POST", "/create", fits+" ").wantsProblem(413, "too-large")
	r := httptest.NewRequest("POST", "/create", io.MultiReader(strings.NewReader(fits+" ")))
	s.serve(r).wantsProblem(413, "too-large")
	r = httptest.NewRequest("POST", "/create", io.MultiReader(strings.NewReader(fits)))
	s.serve(r).wants(201)
	s.post("complete", fmt.Sprintf(`{"fence":1,"response":{"status":200,"body":%q}}`, strings.Repeat("a", 100))).wantsProblem(413, "too-large")
}

func TestAWaitMayOutlastTheTimeToReadARequest(t *testing.T) {
	s := newService(t)
	addr := s.listen(func(server *http.Server) { server.ReadTimeout = 50 * time.Millisecond })
	s.post("claim", "").wants(201)
	began := time.Now()
	a := s.raw(addr, "POST /v1/keys/k/claim HTTP/1.1\r\nHost: x\r\nPrefer: wait=1\r\nContent-Length: 2\r\n\r\n{}")
	if a == nil {
		t.Fatal("closed without an answer")
	}
	a.wantsHeader("Preference-Applied", "wait=1").wantsProblem(409, "in-progress")
	if took := time.Since(began); took < time.Second {
		t.Errorf("it took %v, want 1s", took)
	}
}

func TestAConnectionServesManyRequests(t *testing.T) {
	s := newService(t)
	conn, err := net.Dial("tcp", s.listen())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for _, body := range []string{jsonK, `{"bad":1}`, ``, jsonK} {
		fmt.Fprintf(conn, "POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.ContentLength < 0 || res.Close {
			t.Errorf("%s: length %d, close %v", body, res.ContentLength, res.Close)
		}
	}
}

func TestOneConnectionTooManyIsToldSo(t *testing.T) {
	s := newService(t)
	addr := s.listen() // two at once
	const request = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
	var open []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		// The answer shows that the connection was accepted.
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("answer %v, %v", res, err)
		}
		res.Body.Close()
		open = append(open, conn)
	}
	// Nothing is sent, so that nothing unread can reset the connection.
	s.raw(addr, "").wantsHeader("Retry-After", "1").wantsProblem(503, "overloaded")
	open[0].Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		a := s.raw(addr, request)
		if a != nil && a.status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed connection makes no room")
		}
	}
}

func TestHeadersAreSpeltAsTheyAreDocumented(t *testing.T) {
	s := newService(t)
	conn, err := net.Dial("tcp", s.listen())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(jsonK), jsonK)
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"HTTP/1.1 201 Created", "Idempotency-Key: k", "Idempotency-TTL: 86400", "Location: /resources/", "Content-Type: application/json"} {
		if !strings.Contains("\r\n"+string(got), "\r\n"+line) {
			t.Errorf("no line %s in\n%s", line, got)
		}
	}
}
