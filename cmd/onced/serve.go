package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/onced/onced/api"
	"github.com/onced/onced/cluster"
	"github.com/onced/onced/cmd/internal/timers"
	"github.com/onced/onced/wire"
)

// stopTimeout bounds the wait for requests in hand when the node is stopped, so
// that all of it ends within 30 s.
const stopTimeout = 20 * time.Second

// closeTimeout bounds the closing of the node behind it.
const closeTimeout = 8 * time.Second

// handOnTimeout bounds the part of it that waits for another leader.
const handOnTimeout = 10 * time.Second

// Run serves until a signal asks for a stop, or the node cannot go on.
func (c *serveCmd) Run(s *session) error {
	if err := c.validate(); err != nil {
		return err
	}
	log := c.logger(s.stderr)
	defer tendCollector()()
	if err := timers.Coarsen(s.ctx); err != nil {
		log.Info("timers stay fine, which costs processor time", "error", err)
	}
	// Listening comes first: a port that is taken is told before anything on
	// disk is touched. Requests that arrive meanwhile wait in the backlog.
	listener, err := listen(s.ctx, "--http-addr", c.HTTPAddr)
	if err != nil {
		return err
	}
	defer listener.Close()
	var gatewayListener net.Listener
	if c.GatewayAddr != "" {
		if gatewayListener, err = listen(s.ctx, "--gateway-addr", c.GatewayAddr); err != nil {
			return err
		}
		defer gatewayListener.Close()
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	node, err := cluster.Open(s.ctx, c.clusterConfig(log, metrics))
	if err != nil {
		return err
	}
	handler, err := api.New(c.apiConfig(node, log, metrics))
	if err != nil {
		return errors.Join(err, node.Close())
	}
	server := api.NewHTTPServer(handler)
	// What it reports are clients that break off.
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	proxy, err := c.startGateway(gatewayListener, node, log, metrics)
	if err != nil {
		return errors.Join(err, node.Close())
	}
	log.Info("serving", "node", c.NodeID, "http", listener.Addr().String(), "raft", c.RaftAddr, "data", c.DataDir)
	return c.serve(s.ctx, server, proxy, listener, node, log)
}

func listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s is taken by another process: stop that one, or choose another port", flag, addr)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", flag, err)
	}
	return listener, nil
}

// serve runs server until ctx ends, and then stops everything in order.
func (c *serveCmd) serve(ctx context.Context, server *http.Server, proxy *gatewayServer, listener net.Listener, node *cluster.Node, log *slog.Logger) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(wire.ProblemListener(listener, c.maxConnections())) }()
	var fault error
	select {
	case <-ctx.Done():
		c.drain(context.WithoutCancel(ctx), server, proxy, node, log)
	case err := <-node.Fatal():
		fault = fmt.Errorf("node %s cannot go on: %w", c.NodeID, err)
		server.Close()
	case err := <-served:
		fault = fmt.Errorf("serve HTTP: %w", err)
		served <- err
	case err := <-proxy.served:
		fault = fmt.Errorf("serve gateway: %w", err)
		server.Close()
	}
	<-served
	proxy.close()
	if err := closeNode(node); err != nil && fault == nil {
		fault = fmt.Errorf("close node: %w", err)
	}
	return fault
}

// maxConnections is how many clients may be connected at once, of the API and of
// the gateway: they, and the connections to the upstreams, get half of the files
// that the process may have open, and the store, the log and the peers the other
// half.
func (c *serveCmd) maxConnections() int {
	const most = 16384
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return most
	}
	share := files.Cur / 2
	if c.GatewayAddr != "" {
		share /= 3
	}
	return int(min(max(share, 1), most))
}

// closeNode closes the node, but does not wait for ever for a disk that hangs:
// the process ends then, and its memory with it.
func closeNode(node *cluster.Node) error {
	closed := make(chan error, 1)
	go func() { closed <- node.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeTimeout):
		return fmt.Errorf("it did not end within %v", closeTimeout)
	}
}

// drain lets the requests in hand end: the node turns not ready, hands its
// leadership on, and only then takes no more connections. What it could not
// wait for is no failure of the stop that was asked for, so it is logged.
func (c *serveCmd) drain(ctx context.Context, server *http.Server, proxy *gatewayServer, node *cluster.Node, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	delay := time.NewTimer(c.DrainDelay)
	defer delay.Stop()
	handOn, cancelHandOn := context.WithTimeout(ctx, handOnTimeout)
	defer cancelHandOn()
	if err := node.Drain(handOn); err != nil {
		log.Warn("leadership was not handed on: the others elect", "error", err)
	}
	<-delay.C
	var both sync.WaitGroup
	both.Go(func() { proxy.shutDown(ctx, log) })
	both.Go(func() {
		if err := server.Shutdown(ctx); err != nil {
			log.Warn("requests were cut off", "after", stopTimeout, "error", err)
			server.Close()
		}
	})
	both.Wait()
}
