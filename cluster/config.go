package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/onced/onced/cluster/logstore"
)

// Peer is one line of the static list that every node of a new cluster is
// started with.
type Peer struct {
	ID   string
	Addr string // host:port of its peer listener
}

// Config is what a node is started with. The zero value of a field takes the
// default that is named with it; Validate says what is wrong.
type Config struct {
	// NodeID names this node in the cluster, 1 to 64 of A-Z a-z 0-9 . _ -
	NodeID string
	// DataDir holds everything the node keeps. It is created 0700 if missing
	// and locked against a second process.
	DataDir string
	// RaftAddr is where peers reach this node, and where it listens.
	RaftAddr string
	// HTTPAddr is where clients reach this node; it is only told to others.
	HTTPAddr string
	// Peers is the whole list of a new cluster, this node included. It is
	// used at the very first start only. Empty, without Join: a cluster of one.
	Peers []Peer
	// Join is the peer address of any member of a running cluster: the node
	// starts empty and waits until that cluster adds it.
	Join string

	// LogStore is "wal" (hashicorp/raft-wal, the default) or "bolt"
	// (raft-boltdb). It may not be changed on a used data directory.
	LogStore string
	// Profile is "lan" (the default: an unplanned failover in about a second)
	// or "wan" (heartbeats of two seconds, for links that stall).
	Profile string
	// RequestTimeout bounds how long a request waits for a leader and its
	// commit. Default 10 s.
	RequestTimeout time.Duration
	// MaxClockSkew is how far this node's clock may be off for it to answer
	// from its own state alone, and beyond which a node says so. Default 1 s.
	MaxClockSkew time.Duration
	// MaxWait caps how long a request may wait for one in flight. Default 30 s.
	MaxWait time.Duration
	// Settings are the node's other settings that must agree across the
	// cluster (such as the unique fields): a digest of them is shown with
	// the node's status.
	Settings string
	// SnapshotEntries is how many log entries are applied between snapshots,
	// and TrailingLogs how many are kept behind one, for followers that lag.
	// Defaults 8192 and 65536.
	SnapshotEntries, TrailingLogs uint64
	// SnapshotInterval is between two looks at whether a snapshot is due, up to
	// twice as long by chance. Default 10 s.
	SnapshotInterval time.Duration

	// Log takes the node's events; default slog.Default().
	Log *slog.Logger
	// Metrics takes the node's metrics; nil keeps them to itself.
	Metrics prometheus.Registerer
	// Clock tells the wall time; default time.Now. Only what is stamped into
	// log entries comes from it; every timeout is monotonic.
	Clock func() time.Time

	// Ground is what the node stands on, instead of DataDir, LogStore and TCP.
	Ground Ground

	// logOptions are those of the log store; tests have its disk hang.
	logOptions logstore.Options
}

func (c Config) withDefaults() Config {
	if c.LogStore == "" {
		c.LogStore = "wal"
	}
	if c.Profile == "" {
		c.Profile = "lan"
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 10 * time.Second
	}
	if c.MaxClockSkew == 0 {
		c.MaxClockSkew = time.Second
	}
	if c.MaxWait == 0 {
		c.MaxWait = 30 * time.Second
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 8192
	}
	if c.SnapshotInterval == 0 {
		c.SnapshotInterval = 10 * time.Second
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 65536
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c
}

// Mistake is one thing that is wrong with a Config.
type Mistake struct {
	Field string // of Config
	Err   error
}

// Error is the text of Err.
func (m *Mistake) Error() string { return m.Err.Error() }

// Unwrap returns Err.
func (m *Mistake) Unwrap() error { return m.Err }

type mistakes []*Mistake

func (all *mistakes) add(bad bool, field, format string, args ...any) {
	if bad {
		*all = append(*all, &Mistake{field, fmt.Errorf(format, args...)})
	}
}

// Validate reports everything that is wrong with c at once.
func (c Config) Validate() error {
	var errs []error
	for _, m := range c.Mistakes() {
		errs = append(errs, m)
	}
	return errors.Join(errs...)
}

// Mistakes is everything that is wrong with c.
func (c Config) Mistakes() []*Mistake {
	c = c.withDefaults()
	var m mistakes
	m.add(!validNodeID(c.NodeID), "NodeID", "node id %q: use 1 to 64 of A-Z a-z 0-9 . _ -", c.NodeID)
	m.add(c.DataDir == "", "DataDir", "no data directory: name one with --data-dir")
	if err := checkAddr(c.RaftAddr); err != nil {
		m.add(true, "RaftAddr", "raft address: %w", err)
	}
	m.add(c.LogStore != "wal" && c.LogStore != "bolt", "LogStore", "log store %q: use wal or bolt", c.LogStore)
	m.add(c.Profile != "lan" && c.Profile != "wan", "Profile", "raft profile %q: use lan or wan", c.Profile)
	m.add(c.RequestTimeout < 100*time.Millisecond || c.RequestTimeout > 5*time.Minute, "RequestTimeout", "request timeout %v: use 100ms to 5m", c.RequestTimeout)
	m.add(c.MaxClockSkew < time.Millisecond || c.MaxClockSkew > time.Hour, "MaxClockSkew", "max clock skew %v: use 1ms to 1h", c.MaxClockSkew)
	m.add(c.Join != "" && len(c.Peers) > 0, "Peers", "both --join and --peers: --peers is for the first start of a new cluster, --join for a node added to a running one; use one")
	if c.Join != "" {
		if err := checkAddr(c.Join); err != nil {
			m.add(true, "Join", "join address: %w", err)
		}
	}
	return append(m, c.peerMistakes()...)
}

func (c Config) peerMistakes() (m mistakes) {
	if len(c.Peers) == 0 {
		return nil
	}
	ids, addrs, self := map[string]bool{}, map[string]bool{}, false
	for _, p := range c.Peers {
		m.add(!validNodeID(p.ID), "Peers", "peer id %q: use 1 to 64 of A-Z a-z 0-9 . _ -", p.ID)
		if err := checkAddr(p.Addr); err != nil {
			m.add(true, "Peers", "peer %s: %w", p.ID, err)
		}
		m.add(ids[p.ID], "Peers", "peer %s is listed twice", p.ID)
		m.add(addrs[p.Addr], "Peers", "peer address %s is listed twice", p.Addr)
		ids[p.ID], addrs[p.Addr] = true, true
		self = self || p.ID == c.NodeID
		m.add(p.ID == c.NodeID && p.Addr != c.RaftAddr, "Peers", "peer list gives this node (%s) the address %s, but its raft address is %s: make them the same", p.ID, p.Addr, c.RaftAddr)
	}
	m.add(!self, "Peers", "peer list does not name this node (%s): every node is started with the whole list, itself included", c.NodeID)
	return m
}

func validNodeID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if host == "" {
		return fmt.Errorf("%q names no host: peers must be able to reach it", addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q has no valid port", addr)
	}
	return nil
}
