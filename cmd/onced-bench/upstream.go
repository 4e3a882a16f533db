package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// chargePath is where the service charges, of a fixed length and at once.
	chargePath       = "/charges"
	upstreamWithin   = 10 * time.Second // it starts
	upstreamStopped  = 5 * time.Second  // after it was asked to stop
	maxCharge        = 1 << 20
	upstreamIdleTime = time.Minute
)

// upstreamCommand is the service behind the gateway, in a process of its own. It
// prints where it listens, and ends when its standard input does: with whoever
// started it, however that ends.
type upstreamCommand struct{}

// Run serves until the input or ctx ends.
func (upstreamCommand) Run(ctx context.Context, to streams) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: new(charges), ReadHeaderTimeout: upstreamWithin, IdleTimeout: upstreamIdleTime}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	left := make(chan struct{})
	go func() { // ends with the process at the latest
		defer close(left)
		_, _ = io.Copy(io.Discard, os.Stdin) // an error is an end as well
	}()
	if _, err := fmt.Fprintln(to.out, listener.Addr()); err != nil {
		return errors.Join(fmt.Errorf("say where: %w", err), server.Close())
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-left:
	case <-ctx.Done():
	}
	err = server.Close()
	<-served
	return err
}

// charges is the service: each request makes a charge of its own. It answers
// with what was sent, under an id as long as those of /create.
type charges struct{ made atomic.Int64 }

func (c *charges) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxCharge))
	if err != nil || r.Method != http.MethodPost || r.URL.Path != chargePath {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	answer := fmt.Appendf(make([]byte, 0, len(data)+64), `{"id":"%036d","data":%s}`, c.made.Add(1), data)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer) // a client that has gone is not told
}

// upstream is that process, seen from the one that started it.
type upstream struct {
	addr    string
	process *exec.Cmd
	input   io.Closer
}

// startUpstream starts this program again as the service.
func startUpstream(ctx context.Context) (*upstream, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	u := &upstream{process: exec.Command(self, "upstream")}
	// An interrupt at the terminal is for this program, which stops it.
	u.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	u.process.Stderr = os.Stderr
	if u.input, err = u.process.StdinPipe(); err != nil {
		return nil, fmt.Errorf("make input of service: %w", err)
	}
	out, err := u.process.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make output of service: %w", err)
	}
	if err := u.process.Start(); err != nil {
		return nil, fmt.Errorf("start service: %w", err)
	}
	limit, cancel := context.WithTimeout(ctx, upstreamWithin)
	defer cancel()
	defer context.AfterFunc(limit, func() { _ = u.process.Process.Kill() })() // ends the read below
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hear where the service listens: %w", err), context.Cause(limit), u.stop())
	}
	u.addr = strings.TrimSuffix(line, "\n")
	return u, nil
}

// stop ends the process, and waits for it.
func (u *upstream) stop() error {
	_ = u.input.Close() // it may have ended
	kill := time.AfterFunc(upstreamStopped, func() { _ = u.process.Process.Kill() })
	defer kill.Stop()
	if err := u.process.Wait(); err != nil {
		return fmt.Errorf("service ended with %w", err)
	}
	return nil
}
