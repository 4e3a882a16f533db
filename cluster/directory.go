//go:build !wasip1

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/durable"
	"github.com/onced/onced/cluster/logstore"
	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/cluster/state"
)

const (
	logDir = "raft" // in the data directory
	// startedName is a file in the data directory that says that raft has kept
	// something here.
	startedName = "started"
)

// directory is the product's Ground: a data directory, and TCP.
type directory struct {
	path string
	log  string // kind of the log store
}

func defaultGround(c Config) Ground { return directory{c.DataDir, c.LogStore} }

func (d directory) Dir(nodeID string) (*peer.Dir, error) { return peer.OpenDir(d.path, nodeID) }

func (d directory) State(o state.Options) (*state.State, error) {
	return state.Open(filepath.Join(d.path, stateDir), o)
}

func (d directory) Log(o logstore.Options) (*logstore.Store, error) {
	return logstore.Open(filepath.Join(d.path, logDir), d.log, o)
}

func (d directory) Stable() (StableStore, error) {
	s, err := logstore.OpenStable(filepath.Join(d.path, logDir))
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d directory) Started() (bool, error) {
	_, err := os.Stat(filepath.Join(d.path, startedName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("check data directory: %w", err)
	}
	return true, nil
}

func (d directory) MarkStarted() error {
	return durable.WriteFile(filepath.Join(d.path, startedName), nil)
}

func (directory) Listen() func(addr string) (net.Listener, error) { return nil }

func (directory) Dial() func(ctx context.Context, addr string) (net.Conn, error) { return nil }

func (directory) RaftTransport(layer raft.StreamLayer, log hclog.Logger) RaftTransport {
	return networkTransport(layer, log)
}
