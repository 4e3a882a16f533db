package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const maxBulk = 4 << 20 // bytes of an answer

func findRedis(ctx context.Context, t Tools) (string, error) {
	return t.packaged(ctx, "redis-server", func() (string, error) { return exec.LookPath("redis-server") })
}

func startRedis(_ context.Context, s *System, file, dir string) error {
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	if err := s.run("redis", dir, program{file: file, stop: syscall.SIGTERM, args: []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxclients", "5000",
	}}); err != nil {
		return err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	s.connect = func(ctx context.Context, _ int) (Conn, error) {
		var dialer net.Dialer
		socket, err := dialer.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("connect to Redis: %w", err)
		}
		return &redisConn{socket: socket, reader: bufio.NewReader(socket)}, nil
	}
	return nil
}

// redisConn speaks RESP, no more of it than SET needs.
type redisConn struct {
	socket  net.Conn
	reader  *bufio.Reader
	request []byte
}

func (c *redisConn) Close() { _ = c.socket.Close() } // nothing is under way

func (c *redisConn) Create(ctx context.Context, key string, value []byte) ([]byte, bool, error) {
	deadline, _ := ctx.Deadline() // none is the zero time, which is none here too
	if err := c.socket.SetDeadline(deadline); err != nil {
		return nil, false, fmt.Errorf("set deadline: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.socket.SetDeadline(time.Unix(1, 0)) })()
	c.request = appendCommand(c.request[:0], []byte("SET"), []byte(key), value, []byte("NX"), []byte("GET"))
	if _, err := c.socket.Write(c.request); err != nil {
		return nil, false, fmt.Errorf("write command: %w", err)
	}
	kept, exists, err := readBulk(c.reader)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("read answer: %w", err)
	case !exists:
		return value, true, nil
	}
	return kept, false, nil
}

// appendCommand appends a command as an array of strings.
func appendCommand(b []byte, words ...[]byte) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(words))
	for _, word := range words {
		b = fmt.Appendf(b, "$%d\r\n", len(word))
		b = append(b, word...)
		b = append(b, "\r\n"...)
	}
	return b
}

// readBulk reads a string, which may not exist.
func readBulk(r *bufio.Reader) (value []byte, exists bool, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, false, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	length, found := strings.CutPrefix(line, "$")
	if !found {
		return nil, false, fmt.Errorf("answered %.100q", line)
	}
	n, err := strconv.Atoi(length)
	switch {
	case err != nil || n < -1 || n > maxBulk:
		return nil, false, fmt.Errorf("answered a string of length %.20q", length)
	case n == -1:
		return nil, false, nil
	}
	value = make([]byte, n+2)
	if _, err := io.ReadFull(r, value); err != nil {
		return nil, false, err
	}
	if string(value[n:]) != "\r\n" {
		return nil, false, errors.New("answered a string without an end")
	}
	return value[:n], true, nil
}
