package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	maxLine    = 4 << 10 // of an answer's head; also the read buffer
	maxHeaders = 64
	maxBody    = 4 << 20
	maxInterim = 4 // 1xx answers before the answer
)

// errProtocol marks an answer that this client cannot take as HTTP/1.1 with a
// known length. The connection it came on is of no further use.
var errProtocol = errors.New("answer is not usable HTTP/1.1")

// answer is what the load tool looks at in a response.
type answer struct {
	status   int
	replayed bool   // Idempotent-Replayed: true
	body     []byte // valid until the connection's next exchange
}

// conn is a client's persistent connection to one node at a time. It redials
// when the node has closed it, and goes to the next node when none answers the
// dial, as a load balancer would. It never sends a request twice.
//
// All but abort belong to one goroutine.
type conn struct {
	addrs   []string
	at      int // index in addrs of the node dialled
	timeout time.Duration

	reader *bufio.Reader
	body   []byte

	mu      sync.Mutex
	socket  net.Conn // nil unless connected
	aborted bool
}

// newConn returns a connection, not yet dialled, whose first node is
// addrs[first]. An exchange, dial included, takes no longer than timeout.
func newConn(addrs []string, first int, timeout time.Duration) *conn {
	return &conn{
		addrs:   addrs,
		at:      first % len(addrs),
		timeout: timeout,
		reader:  bufio.NewReaderSize(nil, maxLine),
	}
}

// exchange sends one request and reads its answer. After an error the next
// exchange starts on a new connection.
func (c *conn) exchange(ctx context.Context, request []byte) (answer, error) {
	deadline := time.Now().Add(c.timeout)
	socket, err := c.connected(ctx, deadline)
	if err != nil {
		return answer{}, err
	}
	if err := socket.SetDeadline(deadline); err != nil {
		c.hangUp()
		return answer{}, fmt.Errorf("set deadline: %w", err)
	}
	if _, err := socket.Write(request); err != nil {
		c.hangUp()
		return answer{}, fmt.Errorf("write request: %w", err)
	}
	a, last, err := c.read()
	if err != nil || last {
		c.hangUp()
	}
	if err != nil {
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	return a, nil
}

// connected returns the open socket, dialling if there is none.
func (c *conn) connected(ctx context.Context, deadline time.Time) (net.Conn, error) {
	if c.socket != nil {
		return c.socket, nil
	}
	dialer := net.Dialer{Deadline: deadline}
	socket, err := dialer.DialContext(ctx, "tcp", c.addrs[c.at])
	if err != nil {
		c.at = (c.at + 1) % len(c.addrs)
		return nil, fmt.Errorf("dial: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborted {
		_ = socket.Close() // nothing was sent on it
		return nil, net.ErrClosed
	}
	c.socket = socket
	c.reader.Reset(socket)
	return socket, nil
}

// hangUp closes the socket, if there is one.
func (c *conn) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.socket != nil {
		_ = c.socket.Close() // whatever it held is lost or was read
		c.socket = nil
	}
}

// abort makes the exchange under way, and every later one, fail at once.
// It may be called beside them.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	if c.socket != nil {
		_ = c.socket.Close() // to interrupt the exchange
	}
}

// read reads one answer. last says that the server closes the connection
// after it.
func (c *conn) read() (a answer, last bool, err error) {
	for range maxInterim {
		a, length, last, err := c.readHead()
		if err != nil {
			return answer{}, false, err
		}
		if a.status < 200 {
			continue
		}
		if length < 0 {
			return answer{}, false, fmt.Errorf("%w: status %d without Content-Length", errProtocol, a.status)
		}
		if cap(c.body) < length {
			c.body = make([]byte, length)
		}
		a.body = c.body[:length]
		if _, err := io.ReadFull(c.reader, a.body); err != nil {
			return answer{}, false, fmt.Errorf("read body of %d bytes: %w", length, err)
		}
		if extra := c.reader.Buffered(); extra > 0 {
			return answer{}, false, fmt.Errorf("%w: %d bytes after its end", errProtocol, extra)
		}
		return a, last, nil
	}
	return answer{}, false, fmt.Errorf("%w: more than %d interim answers", errProtocol, maxInterim-1)
}

// readHead reads a status line and headers. length is -1 if the head does not
// tell it.
func (c *conn) readHead() (a answer, length int, last bool, err error) {
	line, err := c.readLine()
	if err != nil {
		return a, 0, false, err
	}
	if a.status, err = parseStatus(line); err != nil {
		return a, 0, false, err
	}
	length = -1
	if a.status < 200 || a.status == 204 || a.status == 304 {
		length = 0
	}
	for range maxHeaders {
		if line, err = c.readLine(); err != nil {
			return a, 0, false, err
		}
		if len(line) == 0 {
			return a, length, last, nil
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			return a, 0, false, fmt.Errorf("%w: header line %.40q", errProtocol, line)
		}
		value = bytes.TrimSpace(value)
		// The length of a name tells apart nearly all others without a comparison.
		switch {
		case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = parseLength(value, length); err != nil {
				return a, 0, false, err
			}
		case len(name) == len("Idempotent-Replayed") && bytes.EqualFold(name, []byte("Idempotent-Replayed")):
			a.replayed = string(value) == "true"
		case len(name) == len("Connection") && bytes.EqualFold(name, []byte("Connection")):
			last = last || bytes.EqualFold(value, []byte("close"))
		case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return a, 0, false, fmt.Errorf("%w: Transfer-Encoding %.40q", errProtocol, value)
		}
	}
	return a, 0, false, fmt.Errorf("%w: more than %d header lines", errProtocol, maxHeaders)
}

// readLine reads a line of the head, without its end. It is valid until the
// next read.
func (c *conn) readLine() ([]byte, error) {
	line, err := c.reader.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: line of more than %d bytes", errProtocol, maxLine)
	}
	if err != nil {
		return nil, fmt.Errorf("read head: %w", err)
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// parseStatus reads "HTTP/1.1 201 Created".
func parseStatus(line []byte) (int, error) {
	const prefix = "HTTP/1.1 "
	if len(line) < len(prefix)+3 || string(line[:len(prefix)]) != prefix ||
		(len(line) > len(prefix)+3 && line[len(prefix)+3] != ' ') {
		return 0, fmt.Errorf("%w: status line %.40q", errProtocol, line)
	}
	status, err := strconv.Atoi(string(line[len(prefix) : len(prefix)+3]))
	if err != nil || status < 100 {
		return 0, fmt.Errorf("%w: status line %.40q", errProtocol, line)
	}
	return status, nil
}

// parseLength reads a Content-Length. known is the length already known, or
// -1; another one is an error.
func parseLength(value []byte, known int) (int, error) {
	length, err := strconv.ParseUint(string(value), 10, 31)
	if err != nil || length > maxBody {
		return 0, fmt.Errorf("%w: Content-Length %.40q", errProtocol, value)
	}
	if known >= 0 && known != int(length) {
		return 0, fmt.Errorf("%w: Content-Length %d where %d was known", errProtocol, length, known)
	}
	return int(length), nil
}
