package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// maxStall is how long a log write may hang before this node, if it leads,
// falls silent.
const maxStall = 500 * time.Millisecond

// transport is raft's transport less three of its habits.
//
// The heartbeat fast path lets a heartbeat change term and state beside raft's
// main loop, which can make logs diverge (hashicorp/raft#695). Without a
// handler, heartbeats queue with the other RPCs and the race is gone.
//
// A leader whose log disk hangs goes on sending heartbeats, so it stays leader
// and the cluster stands still (hashicorp/raft#503). While a log write has
// hung for maxStall it sends neither heartbeats nor entries, and the others
// elect. That works with pipelining off only, which hashicorp/raft#612 (a
// wedged pipeline) asks for anyway.
//
// A peer that comes back would hear of entries long after it has heard of the leader: see
// absences.
//
// Its log is written beside the sending (logstore.Options.Deferred): what comes
// in waits until it is on disk, and no commit goes out that it does not hold.
type transport struct {
	RaftTransport
	logs   sink
	intake *intake
	absent *absences
	sent   func(took time.Duration) // told of entries that a follower has answered
}

// sink is what the transport has to know of the log: *logstore.Store.
type sink interface {
	Stalled() time.Duration
	Settle(stop <-chan struct{})
	Known(commit uint64) uint64
}

func newTransport(t RaftTransport, logs sink, reached func() (index, term uint64), running func() *raft.Raft, sent func(time.Duration)) transport {
	in := newIntake(t.Consumer(), logs.Settle, reached, running)
	return transport{t, logs, in, newAbsences(running, in.closed), sent}
}

// Pre-vote is silently off where a transport lacks this.
var (
	_ raft.WithPreVote = transport{}
	_ RaftTransport    = (*raft.NetworkTransport)(nil)
)

var errStalled = errors.New("log disk hangs: heartbeat withheld")

// Consumer yields what peers send, as intake passes it on.
func (t transport) Consumer() <-chan raft.RPC { return t.intake.taken }

// Close closes the transport. It may be called again.
func (t transport) Close() error {
	t.intake.close()
	return t.RaftTransport.Close()
}

// SetHeartbeatHandler drops the handler.
func (transport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntries sends entries or a heartbeat, unless the log disk hangs. Entries for a
// peer that is away fail once it answers again.
func (t transport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := isHeartbeat(req)
	if !heartbeat && t.absent.misses(id, req.Term) {
		req.Entries = nil // not to be held meanwhile: raft reads them again, and the address
		t.absent.await(id, req.Term)
		return errWasAway
	}
	if t.logs.Stalled() > maxStall {
		return errStalled
	}
	req.LeaderCommitIndex = t.logs.Known(req.LeaderCommitIndex)
	began := time.Now()
	err := t.RaftTransport.AppendEntries(id, addr, req, resp)
	t.absent.note(id, req.Term, heartbeat, err)
	if err == nil && len(req.Entries) > 0 {
		t.sent(time.Since(began))
	}
	return err
}

// InstallSnapshot sends a snapshot. One for a peer that is away is closed, so that no old
// files of the store are kept meanwhile, and fails once the peer answers again.
func (t transport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if t.absent.misses(id, req.Term) {
		var err error
		if snapshot, ok := data.(io.Closer); ok { // raft does so again
			err = snapshot.Close()
		}
		t.absent.await(id, req.Term)
		return errors.Join(errWasAway, err)
	}
	err := t.RaftTransport.InstallSnapshot(id, addr, req, resp, data)
	t.absent.note(id, req.Term, false, err)
	return err
}

// AppendEntriesPipeline is not offered.
func (transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func networkTransport(layer raft.StreamLayer, logger hclog.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          layer,
		MaxPool:         3,
		MaxRPCsInFlight: 1,
		Timeout:         5 * time.Second,
		Logger:          logger,
	})
}

// Timeouts are raft's: how long a follower goes without a word from the leader
// before it asks for votes, and a candidate without winning before it asks again,
// each up to twice as long by chance; and how long a leader goes without a
// majority before it steps down.
type Timeouts struct{ Heartbeat, Election, LeaderLease time.Duration }

// TimeoutsOf returns those of a profile, lan or wan.
func TimeoutsOf(profile string) Timeouts {
	if profile == "wan" {
		return Timeouts{2 * time.Second, 2 * time.Second, 1500 * time.Millisecond}
	}
	return Timeouts{400 * time.Millisecond, 400 * time.Millisecond, 300 * time.Millisecond}
}

// raftConfig returns raft's settings for a profile.
func raftConfig(c Config, logger hclog.Logger) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.NodeID)
	timeouts := TimeoutsOf(c.Profile)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = timeouts.Heartbeat, timeouts.Election, timeouts.LeaderLease
	// How soon an idle follower learns that an entry was committed, and so
	// wakes those who wait for it.
	rc.CommitTimeout = 20 * time.Millisecond
	rc.MaxAppendEntries = 64
	rc.SnapshotInterval = c.SnapshotInterval
	rc.SnapshotThreshold = c.SnapshotEntries
	rc.TrailingLogs = c.TrailingLogs
	rc.BatchApplyCh = false            // hashicorp/raft#498: buffered entries are never answered at shutdown
	rc.NoSnapshotRestoreOnStart = true // the store is durable; restart replays the tail only
	rc.ShutdownOnRemove = false        // a removed node tells its clients so
	rc.NoLegacyTelemetry = true
	rc.Logger = logger
	return rc
}

// raftLogger gives raft's log to slog: errors once in a while, the rest as
// debug, for raft tells of each connection and election at length.
func raftLogger(l *slog.Logger) hclog.Logger {
	return &slogAdapter{log: l, said: &sayings{last: map[string]time.Time{}}}
}

type slogAdapter struct {
	log  *slog.Logger
	said *sayings
	name string
	with []any
}

// sayings remembers when raft last said what.
type sayings struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// repeats reports whether msg was said less than half a minute ago. Raft's
// messages are constants, so there are few.
func (s *sayings) repeats(msg string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last[msg]) < 30*time.Second {
		return true
	}
	s.last[msg] = time.Now()
	return false
}

func (a *slogAdapter) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Error:
		// Raft reports every try to reach a peer that is away as an error.
		if !a.said.repeats(msg) {
			to = slog.LevelInfo
		}
	case hclog.Off:
		return
	}
	if a.log.Enabled(context.Background(), to) {
		for i, v := range args {
			if f, ok := v.(hclog.Format); ok && len(f) > 0 {
				if s, ok := f[0].(string); ok {
					args[i] = fmt.Sprintf(s, f[1:]...)
				}
			}
		}
		a.log.Log(context.Background(), to, "raft: "+msg, append(a.with[:len(a.with):len(a.with)], args...)...)
	}
}

func (a *slogAdapter) Trace(msg string, args ...any) { a.Log(hclog.Trace, msg, args...) }
func (a *slogAdapter) Debug(msg string, args ...any) { a.Log(hclog.Debug, msg, args...) }
func (a *slogAdapter) Info(msg string, args ...any)  { a.Log(hclog.Info, msg, args...) }
func (a *slogAdapter) Warn(msg string, args ...any)  { a.Log(hclog.Warn, msg, args...) }
func (a *slogAdapter) Error(msg string, args ...any) { a.Log(hclog.Error, msg, args...) }
func (a *slogAdapter) IsTrace() bool                 { return false }
func (a *slogAdapter) IsDebug() bool                 { return a.log.Enabled(context.Background(), slog.LevelDebug) }
func (a *slogAdapter) IsInfo() bool                  { return a.IsDebug() }
func (a *slogAdapter) IsWarn() bool                  { return true }
func (a *slogAdapter) IsError() bool                 { return true }
func (a *slogAdapter) ImpliedArgs() []any            { return a.with }
func (a *slogAdapter) Name() string                  { return a.name }
func (a *slogAdapter) SetLevel(hclog.Level)          {}
func (a *slogAdapter) GetLevel() hclog.Level         { return hclog.NoLevel }

func (a *slogAdapter) With(args ...any) hclog.Logger {
	b := *a
	b.with = append(a.with[:len(a.with):len(a.with)], args...)
	return &b
}

func (a *slogAdapter) Named(name string) hclog.Logger {
	b := *a
	b.name = name
	return &b
}

func (a *slogAdapter) ResetNamed(name string) hclog.Logger { return a.Named(name) }

func (a *slogAdapter) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(a.StandardWriter(nil), "", 0)
}

func (a *slogAdapter) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return slog.NewLogLogger(a.log.Handler(), slog.LevelDebug).Writer()
}
