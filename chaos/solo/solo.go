// Package solo makes a short, real history without a cluster: one node in this
// process, with its API and its gateway on sockets, under the load of a run.
package solo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/onced/onced/api"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/load"
	"github.com/onced/onced/cluster"
	"github.com/onced/onced/gateway"
)

// ttl is the retention of records that do not say it themselves: short, so that
// some end.
const ttl = 2 * time.Second

// readyWithin bounds the start of the node.
const readyWithin = 30 * time.Second

// Config says what history is made.
type Config struct {
	Dir      string        // for the node's data
	Seed     uint64        // of the load
	Duration time.Duration // of the load
	To       io.Writer     // the history is written there as well
}

// Run makes a history.
func Run(ctx context.Context, cfg Config) (h *history.History, err error) {
	began := time.Now()
	clock := func() history.Nano { return history.Span(time.Since(began)) }
	writer := history.NewWriter(cfg.To, history.Run{
		Seed: cfg.Seed, Started: began.UTC(), Nodes: []string{nodeID}, TTL: history.Span(ttl), Load: history.Span(cfg.Duration),
	})
	n, err := start(ctx, cfg.Dir, writer, clock)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	l := load.New(load.Config{
		Nodes:   []load.Node{{ID: nodeID, API: n.api.url(), Gateway: n.gateway.url()}},
		Dial:    new(net.Dialer).DialContext,
		History: writer, Clock: clock, Seed: cfg.Seed, TTL: ttl, Pause: 10 * time.Millisecond,
	})
	defer l.Close()
	loading, cancel := context.WithTimeout(ctx, cfg.Duration)
	defer cancel()
	l.Run(loading)
	ended := clock()
	l.ReadBack(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	hash, err := n.node.Hash()
	if err != nil {
		return nil, fmt.Errorf("hash state: %w", err)
	}
	writer.State(&history.State{Node: nodeID, Index: n.node.Meta().GetAppliedIndex(), Hash: fmt.Sprintf("%x", hash)})
	n.upstream.Close()
	return writer.Finish(history.End{At: clock(), LoadEnded: ended})
}

const nodeID = "n1"

// node is what Run starts.
type node struct {
	node     *cluster.Node
	proxy    *gateway.Gateway
	upstream *load.Upstream
	api      *server
	gateway  *server
}

func start(ctx context.Context, dir string, to *history.Writer, clock func() history.Nano) (n *node, err error) {
	n = new(node)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.stop())
		}
	}()
	log := slog.New(slog.DiscardHandler)
	listeners, err := listen(4)
	if err != nil {
		return n, err
	}
	// The node listens itself on the last.
	raft := listeners[3].Addr().String()
	if err := listeners[3].Close(); err != nil {
		return n, fmt.Errorf("free port: %w", err)
	}
	n.upstream = load.StartUpstream(listeners[2], to, clock)
	n.node, err = cluster.Open(ctx, cluster.Config{
		NodeID: nodeID, DataDir: filepath.Join(dir, nodeID), RaftAddr: raft, HTTPAddr: listeners[0].Addr().String(), Log: log,
	})
	if err != nil {
		return n, fmt.Errorf("open node: %w", err)
	}
	handler, err := api.New(api.Config{Cluster: n.node, TTL: ttl, Unique: []string{"email"}, Log: log})
	if err != nil {
		return n, fmt.Errorf("make API: %w", err)
	}
	n.api = serve(listeners[0], api.NewHTTPServer(handler))
	n.proxy, err = gateway.New(gateway.Config{
		Cluster: n.node, Upstreams: []*url.URL{{Scheme: "http", Host: listeners[2].Addr().String()}}, Routes: load.Routes(), Log: log,
	})
	if err != nil {
		return n, fmt.Errorf("make gateway: %w", err)
	}
	n.gateway = serve(listeners[1], gateway.NewHTTPServer(n.proxy, log))
	return n, n.awaitReady(ctx)
}

func listen(count int) (all []net.Listener, err error) {
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		all = append(all, l)
	}
	return all, nil
}

func (n *node) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := n.node.Barrier(ctx); err != nil {
		return fmt.Errorf("wait for node: %w", err)
	}
	return nil
}

func (n *node) stop() error {
	var errs []error
	for _, s := range []*server{n.gateway, n.api} {
		if s != nil {
			errs = append(errs, s.stop())
		}
	}
	if n.proxy != nil {
		n.proxy.Close()
	}
	if n.upstream != nil {
		n.upstream.Close()
	}
	if n.node != nil {
		errs = append(errs, n.node.Close())
	}
	return errors.Join(errs...)
}

// server serves until stop, which waits for it.
type server struct {
	http   *http.Server
	on     net.Listener
	served sync.WaitGroup
}

func serve(on net.Listener, s *http.Server) *server {
	r := &server{http: s, on: on}
	r.served.Go(func() { _ = s.Serve(on) })
	return r
}

func (s *server) url() string { return "http://" + s.on.Addr().String() }

func (s *server) stop() error {
	defer s.served.Wait()
	return s.http.Close()
}
