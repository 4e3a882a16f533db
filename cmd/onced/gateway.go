package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/gateway"
	"github.com/onced/onced/gateway/framing"
	"github.com/onced/onced/wire"
)

// gatewayFlags are the settings of the gateway. Those of requests are what a
// route has where it says nothing itself; routes are in the YAML file alone.
type gatewayFlags struct {
	GatewayAddr string   `placeholder:"HOST:PORT" help:"Where clients reach the gateway. Needs --upstream."`
	Upstream    []string `placeholder:"URL" help:"Base URL of the service behind the gateway; several for several instances of it."`

	UpstreamHealth      string        `placeholder:"PATH" help:"Path that is asked of each upstream every two seconds; one that fails gets no requests while another does not."`
	UpstreamHost        bool          `help:"Send the upstream its own name as Host, not the one that the client asked for."`
	UpstreamIdleTimeout time.Duration `default:"4s" help:"How long a connection to an upstream is kept unused: shorter than the upstream's own limit."`

	GatewayKey         string        `default:"optional" enum:"optional,required,off" help:"A POST or PATCH without a key: optional passes it through, required refuses it."`
	GatewayOnLapse     string        `default:"block" enum:"block,retry" help:"When an outcome is unknown: block until it is resolved, or let a retry run again."`
	GatewayLease       time.Duration `default:"15s" help:"How long a claim stands without a word from its node: 1s to 1h."`
	GatewayTimeout     time.Duration `default:"60s" help:"How long the upstream may take for a keyed request: to 1h."`
	GatewayMaxRequest  byteSize      `default:"1MiB" help:"Largest body of a keyed request: to 16MiB."`
	GatewayMaxResponse byteSize      `default:"512KiB" help:"Largest body of a response that is kept: to 16MiB."`
	GatewayKeepHeaders []string      `placeholder:"NAME" help:"Response headers that are kept beside the usual ones."`
	GatewayNamespace   string        `default:"authorization" help:"Whose a key is: authorization (a hash of that header), header:NAME, cookie:NAME, host or shared."`
	GatewayMaxBuffered byteSize      `default:"256MiB" help:"Most bytes of request bodies and answers held at once; while there are more, new keyed requests are answered 503."`
	MaxWaitersPerKey   int           `default:"128" help:"Most requests to the gateway that wait for one key in flight."`

	routes []fileRoute
}

// gatewayDefaults are the settings of requests that no route says anything of.
func (c *serveCmd) gatewayDefaults() gateway.Settings {
	canonical := false
	return gateway.Settings{
		Key: gateway.KeyPolicy(c.GatewayKey), OnLapse: c.GatewayOnLapse,
		TTL: c.TTL, Lease: c.GatewayLease, Timeout: c.GatewayTimeout,
		MaxRequest: int64(c.GatewayMaxRequest), MaxResponse: int64(c.GatewayMaxResponse),
		KeepHeaders: c.GatewayKeepHeaders, Canonical: &canonical, Namespace: c.GatewayNamespace,
	}
}

// gatewayFlag are the flags behind the fields of gateway.Settings.
var gatewayFlag = map[string]string{
	"Key": "gateway-key", "OnLapse": "gateway-on-lapse", "TTL": "ttl", "Lease": "gateway-lease", "Timeout": "gateway-timeout",
	"MaxRequest": "gateway-max-request", "MaxResponse": "gateway-max-response", "KeepHeaders": "gateway-keep-headers",
	"Namespace": "gateway-namespace",
}

// gatewayMistakes is everything that is wrong with the gateway's settings.
func (c *serveCmd) gatewayMistakes() []*mistake {
	var m mistakes
	m.add(c.GatewayAddr == "" && len(c.Upstream)+len(c.routes) > 0, "upstream", "--upstream and routes are of the gateway: say with --gateway-addr where it listens").
		and(routesMember)
	if c.GatewayAddr != "" {
		m.check("gateway-addr", c.checkAddr("--gateway-addr", c.GatewayAddr))
		m.add(len(c.Upstream) == 0, "gateway-addr", "--gateway-addr needs --upstream: the URL of the service behind the gateway")
	}
	for _, raw := range c.Upstream {
		_, err := parseUpstream(raw)
		m.check("upstream", err)
	}
	m.add(c.UpstreamHealth != "" && c.UpstreamHealth[0] != '/', "upstream-health", "--upstream-health %q: begin it with /", c.UpstreamHealth)
	m.add(c.UpstreamIdleTimeout < time.Millisecond, "upstream-idle-timeout", "--upstream-idle-timeout %v: use at least 1ms", c.UpstreamIdleTimeout)
	m.add(c.GatewayMaxBuffered < 1<<20, "gateway-max-buffered", "--gateway-max-buffered %d: use at least 1MiB", c.GatewayMaxBuffered)
	m.add(c.MaxWaitersPerKey < 1, "max-waiters-per-key", "--max-waiters-per-key %d: use at least 1", c.MaxWaitersPerKey)
	defaults := c.gatewayDefaults()
	for _, wrong := range defaults.Mistakes() {
		if flag := gatewayFlag[wrong.Field]; flag != "ttl" { // --ttl has been looked at
			m.check(flag, fmt.Errorf("--gateway-%w", wrong))
		}
	}
	return append(m, c.routeMistakes(defaults)...)
}

// routeMistakes is everything that is wrong with the routes, each with its line.
func (c *serveCmd) routeMistakes(defaults gateway.Settings) (all mistakes) {
	var before []gateway.Route
	for _, r := range c.routes {
		for _, wrong := range r.Mistakes(defaults) {
			if line := r.lineOf(wrong.Field); line > 0 { // else it is wrong in the defaults
				all = append(all, &mistake{line: line, err: fmt.Errorf("route %s: %w", r.Path, wrong)})
			}
		}
		if place, hidden := r.HiddenBy(before); hidden {
			all = append(all, &mistake{line: r.line, err: fmt.Errorf("route %s: it never matches, the one in line %d has its path and methods", r.Path, c.routes[place].line)})
		}
		before = append(before, r.Route)
	}
	return all
}

func parseUpstream(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("--upstream %q is no URL", raw)
	}
	if err := gateway.CheckUpstream(u); err != nil {
		return nil, fmt.Errorf("--upstream: %w", err)
	}
	return u, nil
}

func (c *serveCmd) gatewayConfig(node *cluster.Node, log *slog.Logger, metrics prometheus.Registerer) gateway.Config {
	cfg := gateway.Config{
		Cluster: node, HealthPath: c.UpstreamHealth, Default: c.gatewayDefaults(),
		MaxInHand: c.MaxInHand, MaxBuffered: int64(c.GatewayMaxBuffered), MaxWait: c.MaxWait,
		MaxWaiters: c.MaxWaiters, MaxWaitersPerKey: c.MaxWaitersPerKey,
		IdleTimeout: c.UpstreamIdleTimeout, UpstreamHost: c.UpstreamHost, Metrics: metrics, Log: log,
	}
	for _, raw := range c.Upstream {
		if u, err := parseUpstream(raw); err == nil { // it was validated
			cfg.Upstreams = append(cfg.Upstreams, u)
		}
	}
	for _, r := range c.routes {
		cfg.Routes = append(cfg.Routes, r.Route)
	}
	return cfg
}

// gatewayServer is the gateway with the server in front of it; the zero value
// is none.
type gatewayServer struct {
	gateway *gateway.Gateway
	server  *http.Server
	served  chan error // closed when the server has ended
}

// startGateway begins to serve on listener, which is nil where there is no
// gateway.
func (c *serveCmd) startGateway(listener net.Listener, node *cluster.Node, log *slog.Logger, metrics prometheus.Registerer) (*gatewayServer, error) {
	if listener == nil {
		return &gatewayServer{}, nil
	}
	g, err := gateway.New(c.gatewayConfig(node, log, metrics))
	if err != nil {
		return nil, err
	}
	s := &gatewayServer{gateway: g, server: gateway.NewHTTPServer(g, log), served: make(chan error, 1)}
	s.server.ConnContext = framing.ConnContext
	s.server.ConnState = func(conn net.Conn, state http.ConnState) {
		framing.ConnState(conn, state)
		wire.ConnState(conn, state)
	}
	// A request that goes on to an upstream takes a second connection there.
	guarded := framing.NewListener(wire.ProblemListener(listener, c.maxConnections()), framing.Limits{})
	go func() {
		defer close(s.served)
		s.served <- s.server.Serve(guarded)
	}()
	log.Info("serving gateway", "http", listener.Addr().String(), "upstream", c.Upstream)
	return s, nil
}

// shutDown waits for the requests in hand until ctx ends, and cuts off the rest.
func (s *gatewayServer) shutDown(ctx context.Context, log *slog.Logger) {
	if s.server == nil {
		return
	}
	if err := s.server.Shutdown(ctx); err != nil {
		log.Warn("gateway requests were cut off", "error", err)
	}
	s.close()
}

// close ends the gateway at once, and waits for it.
func (s *gatewayServer) close() {
	if s.server == nil {
		return
	}
	s.server.Close()
	s.gateway.Close()
	for range s.served {
	}
}
