package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/api"
	"github.com/onced/onced/cluster"
)

// serveCmd is what a node is started with. A flag --some-name is also the
// variable ONCED_SOME_NAME and the member some-name of the YAML file; the
// command line goes before the environment, and that before the file.
type serveCmd struct {
	Config string `help:"YAML file with any of these flags as members." placeholder:"FILE"`

	NodeID   string   `name:"node-id" default:"n1" help:"Name of this node in its cluster."`
	DataDir  string   `default:"./onced-data" help:"Directory of everything the node keeps; created if missing."`
	HTTPAddr string   `name:"http-addr" default:"127.0.0.1:8001" help:"Where clients reach this node."`
	RaftAddr string   `default:"127.0.0.1:7001" help:"Where the other nodes reach this node."`
	Peers    peerList `help:"Every node of a new cluster, this one included: id=host:port,… Used at the first start only." placeholder:"LIST"`
	Join     string   `help:"Raft address of a member of a running cluster: start empty and wait to be added (onced node add)." placeholder:"HOST:PORT"`
	Insecure bool     `help:"Allow addresses beyond loopback. There is no TLS and no authentication yet: only for a network that you trust."`

	TTL          time.Duration `name:"ttl" default:"24h" help:"How long a finished key is kept: 1s to 720h."`
	Lease        time.Duration `default:"30s" help:"How long a claim stands without renewal, unless it says itself: 100ms to 1h."`
	Unique       []string      `help:"Members of a resource's data that are unique in their namespace. The same on every node." placeholder:"NAME"`
	MaxWait      time.Duration `default:"30s" help:"Longest Prefer: wait that is honoured."`
	MaxBody      byteSize      `default:"1MiB" help:"Largest request body: 1KiB to 16MiB."`
	MaxInHand    int           `default:"4096" help:"Most requests served at a time; more are answered 503."`
	MaxWaiters   int           `default:"1024" help:"Most of them that wait for a key in flight; more do not wait."`
	DrainDelay   time.Duration `default:"0s" help:"On a stop: time between turning not ready and taking no more connections, for a load balancer to notice. At most 15s."`
	LogLevel     slog.Level    `default:"info" help:"Least level logged: debug, info, warn or error."`
	LogFormat    string        `default:"text" enum:"text,json" help:"text or json."`
	LogStore     string        `default:"wal" enum:"wal,bolt" help:"How the Raft log is stored: wal or bolt. Fixed for a data directory."`
	RaftProfile  string        `default:"lan" enum:"lan,wan" help:"Timeouts between nodes: lan or wan."`
	ReqTimeout   time.Duration `name:"request-timeout" default:"10s" help:"How long a request waits for a leader and its commit."`
	SnapEntries  uint64        `name:"snapshot-entries" default:"8192" help:"Log entries between two snapshots, at least: 1 to 1048576."`
	SnapInterval time.Duration `name:"snapshot-interval" default:"10s" help:"Time between two looks at whether a snapshot is due, up to twice as long by chance: 100ms to 1h."`
	Trailing     uint64        `name:"trailing-entries" default:"65536" help:"Log entries kept behind a snapshot, for nodes that lag: 1 to 1048576. One that lags more is sent everything that is stored."`
	MaxClockSkew time.Duration `default:"1s" help:"How far this node's clock may be off for it to answer from its own state alone."`

	gatewayFlags

	// file is the YAML file, nil if there is none. flags are those of the
	// command, and origins where the value of each came from.
	file    *configFile
	flags   []*kong.Flag
	origins map[string]origin
}

// Limits of the settings that package cluster does not know.
const (
	minTTL, maxTTL     = time.Second, 720 * time.Hour
	minLease, maxLease = 100 * time.Millisecond, time.Hour
	minBody, maxBody   = 1 << 10, 16 << 20
	maxDrainDelay      = 15 * time.Second
	maxLogEntries      = 1 << 20
	minSnapInterval    = 100 * time.Millisecond
	minWait, maxWait   = time.Second, time.Hour
)

// BeforeResolve reads the YAML file, if one is named.
func (c *serveCmd) BeforeResolve(ctx *kong.Context) (err error) {
	if c.file, err = resolveConfigFile(ctx); err != nil {
		return err
	}
	if c.file != nil {
		c.routes = c.file.routes
	}
	c.flags = ctx.Selected().Flags
	c.origins = originsOf(ctx, c.file)
	return nil
}

// validate reports everything that is wrong at once, what came from the file
// with its line.
func (c *serveCmd) validate() error {
	var errs []error
	for _, m := range c.mistakes() {
		errs = append(errs, c.located(m))
	}
	return errors.Join(errs...)
}

// clusterFlags are the flags behind the fields of cluster.Config.
var clusterFlags = map[string]string{
	"NodeID": "node-id", "DataDir": "data-dir", "RaftAddr": "raft-addr", "Peers": "peers", "Join": "join",
	"LogStore": "log-store", "Profile": "raft-profile", "RequestTimeout": "request-timeout", "MaxClockSkew": "max-clock-skew",
}

// mistakes is everything that is wrong with the values, each of which is one
// for its flag.
func (c *serveCmd) mistakes() []*mistake {
	var m mistakes
	m.add(c.TTL < minTTL || c.TTL > maxTTL, "ttl", "--ttl %v: use 1s to 720h", c.TTL)
	m.add(c.Lease < minLease || c.Lease > maxLease, "lease", "--lease %v: use 100ms to 1h", c.Lease)
	m.add(c.MaxWait < minWait || c.MaxWait > maxWait, "max-wait", "--max-wait %v: use 1s to 1h", c.MaxWait)
	m.add(c.MaxBody < minBody || c.MaxBody > maxBody, "max-body", "--max-body %d: use 1KiB to 16MiB", c.MaxBody)
	m.add(c.MaxInHand < 1, "max-in-hand", "--max-in-hand %d: use at least 1", c.MaxInHand)
	m.add(c.MaxWaiters < 0, "max-waiters", "--max-waiters %d: use at least 0", c.MaxWaiters)
	m.add(c.DrainDelay < 0 || c.DrainDelay > maxDrainDelay, "drain-delay", "--drain-delay %v: use 0s to 15s", c.DrainDelay)
	// Zero is the default to package cluster, and a mistake here.
	m.add(c.SnapEntries < 1 || c.SnapEntries > maxLogEntries, "snapshot-entries", "--snapshot-entries %d: use 1 to %d", c.SnapEntries, maxLogEntries)
	m.add(c.Trailing < 1 || c.Trailing > maxLogEntries, "trailing-entries", "--trailing-entries %d: use 1 to %d", c.Trailing, maxLogEntries)
	m.add(c.SnapInterval < minSnapInterval || c.SnapInterval > time.Hour, "snapshot-interval", "--snapshot-interval %v: use 100ms to 1h", c.SnapInterval)
	sorted := slices.Sorted(slices.Values(c.Unique))
	m.add(slices.Contains(sorted, ""), "unique", "--unique: a name is empty")
	m.add(len(slices.Compact(sorted)) != len(c.Unique), "unique", "--unique: a name is listed twice")
	m.add(len(c.Unique) > 64, "unique", "--unique: %d names, at most 64", len(c.Unique))
	m.check("http-addr", c.checkAddr("--http-addr", c.HTTPAddr))
	m.check("raft-addr", c.checkAddr("--raft-addr", c.RaftAddr))
	m.add(c.HTTPAddr == c.RaftAddr, "http-addr", "--http-addr and --raft-addr are both %s: clients and nodes need a port each", c.HTTPAddr)
	for _, wrong := range c.clusterConfig(nil, nil).Mistakes() {
		m.check(clusterFlags[wrong.Field], wrong)
	}
	return append(m, c.gatewayMistakes()...)
}

// checkAddr refuses an address beyond loopback: without TLS and tokens anyone
// who reaches it could read and write every key.
func (c *serveCmd) checkAddr(flag, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s %q is not host:port", flag, addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%s %q has no valid port", flag, addr)
	}
	if c.Insecure || host == "localhost" || net.ParseIP(host).IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s %s is beyond loopback, where anyone who reaches it can read and write every key (there is no TLS and no authentication yet): use 127.0.0.1, or --insecure on a network that you trust", flag, addr)
}

func (c *serveCmd) clusterConfig(log *slog.Logger, metrics prometheus.Registerer) cluster.Config {
	unique := slices.Sorted(slices.Values(c.Unique))
	return cluster.Config{
		NodeID: c.NodeID, DataDir: c.DataDir, RaftAddr: c.RaftAddr, HTTPAddr: c.HTTPAddr,
		Peers: c.Peers, Join: c.Join,
		LogStore: c.LogStore, Profile: c.RaftProfile,
		RequestTimeout: c.ReqTimeout, MaxClockSkew: c.MaxClockSkew, MaxWait: c.MaxWait,
		SnapshotEntries: c.SnapEntries, SnapshotInterval: c.SnapInterval, TrailingLogs: c.Trailing,
		Settings: fmt.Sprintf("ttl=%v lease=%v unique=%q", c.TTL, c.Lease, unique),
		Log:      log, Metrics: metrics,
	}
}

func (c *serveCmd) apiConfig(node *cluster.Node, log *slog.Logger, metrics *prometheus.Registry) api.Config {
	return api.Config{
		Cluster: node, TTL: c.TTL, Lease: c.Lease, Unique: c.Unique,
		MaxBody: int64(c.MaxBody), MaxWait: c.MaxWait, MaxInHand: c.MaxInHand, MaxWaiters: c.MaxWaiters,
		Metrics: metrics, Gatherer: metrics, Log: log, Version: version,
	}
}

func (c *serveCmd) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
