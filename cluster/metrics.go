package cluster

import (
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a node can be watched by. Names are part of the contract
// with dashboards.
type metrics struct {
	to         prometheus.Registerer
	collectors []prometheus.Collector

	batchSize        prometheus.Histogram
	queueSeconds     prometheus.Histogram
	commitSeconds    prometheus.Histogram
	forwardSeconds   prometheus.Histogram
	logWriteSeconds  prometheus.Histogram
	replicateSeconds prometheus.Histogram
	applySeconds     prometheus.Histogram
	localReplays     prometheus.Counter
	leaderChanges    prometheus.Counter
	expired          prometheus.Counter

	snapshotSeconds prometheus.Histogram
	snapshotBytes   prometheus.Counter
}

// fast are buckets for what takes between 0.1 ms and some seconds.
var fast = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

func newMetrics(n *Node) *metrics {
	m := &metrics{to: n.cfg.Metrics}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "onced", Name: name, Help: help, Buckets: buckets})
		m.collectors = append(m.collectors, h)
		return h
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "onced", Name: name, Help: help})
		m.collectors = append(m.collectors, c)
		return c
	}
	m.batchSize = histogram("batch_commands", "Commands in a log entry that this node proposed.", prometheus.ExponentialBuckets(1, 2, 11))
	m.queueSeconds = histogram("queue_seconds", "A command's wait for the log entry that takes it, on the leader.", fast)
	m.commitSeconds = histogram("commit_seconds", "From proposing a log entry to its being applied, on the leader.", fast)
	m.forwardSeconds = histogram("forward_seconds", "From forwarding a command to the leader to its answer.", fast)
	m.logWriteSeconds = histogram("log_write_seconds", "Time to put log entries on this node's disk.", fast)
	m.replicateSeconds = histogram("replicate_seconds", "From sending log entries to a follower to its answer, which it gives when they are on its disk.", fast)
	m.applySeconds = histogram("apply_seconds", "Time to apply one batch of log entries.", fast)
	m.localReplays = counter("local_replays_total", "Requests answered from this node's applied state, without a commit.")
	m.leaderChanges = counter("leader_changes_total", "Changes of leader that this node saw.")
	m.expired = counter("expired_total", "Records and leases that this node's expire entries touched.")
	m.snapshotSeconds = histogram("snapshot_seconds", "Time to make one snapshot, which is to put on disk what was in memory.", fast)
	m.snapshotBytes = counter("snapshot_bytes_total", "Bytes written out for snapshots, and meanwhile.")
	m.gauges(n)
	if m.to != nil {
		m.to.MustRegister(m.collectors...)
	}
	return m
}

// gauges are read when they are asked for.
func (m *metrics) gauges(n *Node) {
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		m.collectors = append(m.collectors, prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "onced", Name: name, Help: help, ConstLabels: labels}, read))
	}
	gauge("applied_index", "Index of the last log entry applied here.", nil, func() float64 {
		i, _ := n.state.Applied()
		return float64(i)
	})
	gauge("applied_lag", "Log entries that the leader has applied and this node has not.", nil, func() float64 { return float64(n.ready.lag()) })
	gauge("is_leader", "1 on the leader.", nil, func() float64 { return n.ifRunning(func() float64 { return bit(n.raft.State() == raft.Leader) }) })
	gauge("raft_term", "Current term.", nil, func() float64 { return n.ifRunning(func() float64 { return float64(n.raft.CurrentTerm()) }) })
	gauge("ready", "1 while the node is ready.", nil, func() float64 { return bit(n.Ready() == nil) })
	gauge("clock_skew_seconds", "How far this node's clock is ahead of cluster time.", nil, func() float64 {
		skew, _ := n.clock.skew()
		return skew.Seconds()
	})
	gauge("store_bytes", "Bytes of the state on disk.", nil, func() float64 { return float64(n.state.Size()) })
	gauge("store_compactions", "Compactions of the state that have ended since it was opened.", nil, func() float64 { return float64(n.state.Compactions()) })
	gauge("snapshot_installs", "Snapshots installed from the leader since the start.", nil, func() float64 { return float64(n.state.Installs()) })
	gauge("log_first_index", "First log entry that is kept: a node that lags by more is sent a snapshot.", nil, func() float64 {
		return n.ifRunning(func() float64 {
			first, err := n.logs.FirstIndex()
			if err != nil {
				return 0 // the log store tells of it where entries are read
			}
			return float64(first)
		})
	})
	gauge("log_write_stalled_seconds", "How long the log write in hand has hung.", nil, func() float64 { return n.logs.Stalled().Seconds() })
	for name, read := range map[string]func() int64{
		"claimed":   func() int64 { return n.state.Meta().Claimed },
		"completed": func() int64 { return n.state.Meta().Completed },
		"unknown":   func() int64 { return n.state.Meta().Unknown },
	} {
		gauge("records", "Records by state.", prometheus.Labels{"state": name}, func() float64 { return float64(read()) })
	}
	gauge("resources", "Resources.", nil, func() float64 { return float64(n.state.Meta().Resources) })
}

func (n *Node) ifRunning(read func() float64) float64 {
	select {
	case <-n.running:
		return read()
	default:
		return 0
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) unregister() {
	if m.to == nil {
		return
	}
	for _, c := range m.collectors {
		m.to.Unregister(c)
	}
}
