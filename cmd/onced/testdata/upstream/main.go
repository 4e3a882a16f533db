// Command upstream is the service behind the gateway in the tests: it counts
// what reaches it, and the path of a request says how it behaves.
//
//	upstream ADDR
//
// It prints the address that it listens on. Beside the paths of behave,
// GET /control/hits lists what it saw, and POST /control/open?path=P lets go on
// what came to the path P and was held there, now and later.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

// hit is one request as it came.
type hit struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	Key     string `json:"key"`
	Fence   string `json:"fence"`
	Attempt string `json:"attempt"`
	Body    string `json:"body"`
}

type service struct {
	mu    sync.Mutex
	hits  []hit
	gates map[string]chan struct{}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: upstream ADDR")
		os.Exit(2)
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "upstream:", err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	s := &service{gates: map[string]chan struct{}{}}
	http.HandleFunc("/", s.serve)
	http.HandleFunc("/control/hits", s.list)
	http.HandleFunc("/control/open", s.open)
	fmt.Fprintln(os.Stderr, "upstream:", http.Serve(l, nil))
	os.Exit(1)
}

func (s *service) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = json.NewEncoder(w).Encode(s.hits)
}

func (s *service) open(_ http.ResponseWriter, r *http.Request) {
	gate := s.gate(r.URL.Query().Get("path"))
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-gate:
	default:
		close(gate)
	}
}

func (s *service) gate(path string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[path] == nil {
		s.gates[path] = make(chan struct{})
	}
	return s.gates[path]
}

// serve counts a request when its body has come, and answers. run is how often
// this key has come with it.
func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h := hit{
		Method: r.Method, Path: r.URL.Path, Body: string(body), Key: r.Header.Get("Idempotency-Key"),
		Fence: r.Header.Get("Onced-Fence"), Attempt: r.Header.Get("Onced-Attempt"),
	}
	s.mu.Lock()
	s.hits = append(s.hits, h)
	run := 0
	for _, earlier := range s.hits {
		if earlier.Key == h.Key {
			run++
		}
	}
	s.mu.Unlock()
	s.behave(w, r, fmt.Sprintf("run %d of %s", run, h.Key))
}

func (s *service) behave(w http.ResponseWriter, r *http.Request, text string) {
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/held"):
		<-s.gate(path)
		answer(w, text)
	case path == "/slow":
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		flush(w, text[:3])
		<-s.gate(path)
		flush(w, text[3:])
	case path == "/breaks-before":
		raw(w, "")
	case path == "/breaks-in-the-middle":
		raw(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	case path == "/longer-than-it-says":
		raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"+text)
	case path == "/shorter-than-it-says":
		raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n"+text)
	case path == "/no-status":
		raw(w, "HTTP/1.1 000 Nothing\r\nContent-Length: 2\r\n\r\nok")
	case path == "/never":
		<-s.gate(path)
	case path == "/hints":
		w.Header().Set("Link", "</s.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del("Link")
		answer(w, text)
	case path == "/chunks":
		flush(w, text)
		<-s.gate(path)
		flush(w, ", and done")
	case path == "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		flush(w, "data: one\n\n")
		<-s.gate(path)
		flush(w, "data: two\n\n")
	case path == "/large":
		flush(w, strings.Repeat("x", 64<<10))
		<-s.gate(path)
		flush(w, text)
	case path == "/trailers":
		w.Header().Set("Trailer", "X-Sum")
		answer(w, text)
		w.Header().Set("X-Sum", "1")
	case path == "/upgrade":
		echo(w)
	default:
		answer(w, text)
	}
}

// answer is a whole answer, with headers that are kept and such as are not.
func answer(w http.ResponseWriter, text string) {
	h := w.Header()
	h["Link"] = []string{"<a>; rel=x", "<b>; rel=y"}
	h.Set("Location", "/things/1")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Connection", "X-Hop")
	h.Set("X-Hop", "1")
	http.SetCookie(w, &http.Cookie{Name: "session", Value: "secret"})
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, text)
}

func flush(w http.ResponseWriter, text string) {
	_, _ = io.WriteString(w, text)
	_ = http.NewResponseController(w).Flush()
}

// raw writes an answer of its own making and breaks off.
func raw(w http.ResponseWriter, bytes string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, bytes)
}

// echo switches protocols and then sends back what it gets.
func echo(w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}
