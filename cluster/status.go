package cluster

import "time"

// ClusterStatus is the cluster as the answering node sees it.
type ClusterStatus struct {
	// Answered is the node that made this answer.
	Answered  string
	ClusterID string // a UUID; "" until the cluster is bound
	Leader    string // node id; "" while none is known
	Term      uint64
	Nodes     []NodeStatus
	// ClusterTime is this node's estimate of cluster time.
	ClusterTime  time.Time
	FeatureLevel int
}

// NodeStatus is one server of the cluster.
type NodeStatus struct {
	ID, RaftAddr string
	HTTPAddr     string // as the node told; "" if it never answered
	Voter        bool
	// Healthy: the node answered just now, and is ready.
	Healthy      bool
	AppliedIndex uint64
	// LastContact is when the node last answered; zero if it never did.
	LastContact time.Time
	// SettingsDigest tells nodes apart whose settings should agree.
	SettingsDigest string
}
