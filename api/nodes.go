package api

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// getCluster is GET /v1/cluster: the cluster as this node sees it.
func (s *server) getCluster(x *exchange) error {
	status, err := s.cluster.Status(x.r.Context())
	if err != nil {
		return fmt.Errorf("ask nodes: %w", err)
	}
	b := append([]byte(nil), `{"cluster_id":`...)
	b = wire.AppendString(b, status.ClusterID)
	b = append(b, `,"leader":`...)
	b = wire.AppendString(b, status.Leader)
	b = append(b, `,"term":`...)
	b = strconv.AppendUint(b, status.Term, 10)
	b = append(b, `,"nodes":[`...)
	for i, node := range status.Nodes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendNode(b, node)
	}
	b = append(b, `],"cluster_time":`...)
	b = appendTime(b, status.ClusterTime.UnixMilli())
	b = append(b, `,"feature_level":`...)
	b = strconv.AppendInt(b, int64(status.FeatureLevel), 10)
	b = append(b, `,"node":`...)
	b = wire.AppendString(b, status.Answered)
	b = append(b, `,"version":`...)
	b = wire.AppendString(b, s.cfg.Version)
	b = append(b, `,"records":`...)
	b = appendCounts(b, s.cluster.Meta())
	return x.sendJSON(http.StatusOK, append(b, '}'))
}

func appendNode(b []byte, n cluster.NodeStatus) []byte {
	b = append(b, `{"id":`...)
	b = wire.AppendString(b, n.ID)
	b = append(b, `,"raft_addr":`...)
	b = wire.AppendString(b, n.RaftAddr)
	b = append(b, `,"http_addr":`...)
	b = wire.AppendString(b, n.HTTPAddr)
	b = append(b, `,"voter":`...)
	b = strconv.AppendBool(b, n.Voter)
	b = append(b, `,"healthy":`...)
	b = strconv.AppendBool(b, n.Healthy)
	b = append(b, `,"applied_index":`...)
	b = strconv.AppendUint(b, n.AppliedIndex, 10)
	b = append(b, `,"last_contact":`...)
	if n.LastContact.IsZero() {
		b = append(b, `null`...)
	} else {
		b = appendTime(b, n.LastContact.UnixMilli())
	}
	b = append(b, `,"settings_digest":`...)
	b = wire.AppendString(b, n.SettingsDigest)
	return append(b, '}')
}

func appendCounts(b []byte, m *fsm.Meta) []byte {
	b = append(b, `{"claimed":`...)
	b = strconv.AppendInt(b, m.GetClaimed(), 10)
	b = append(b, `,"completed":`...)
	b = strconv.AppendInt(b, m.GetCompleted(), 10)
	b = append(b, `,"unknown":`...)
	b = strconv.AppendInt(b, m.GetUnknown(), 10)
	b = append(b, `,"resources":`...)
	b = strconv.AppendInt(b, m.GetResources(), 10)
	return append(b, '}')
}

// getState is GET /v1/cluster/state: what tells whether two nodes that have
// applied as much hold the same. The hash reads the whole state.
func (s *server) getState(x *exchange) error {
	status, err := s.cluster.Status(x.r.Context())
	if err != nil {
		return fmt.Errorf("ask nodes: %w", err)
	}
	meta, hash, err := s.hashState()
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"node":`...)
	b = wire.AppendString(b, status.Answered)
	b = append(b, `,"applied_index":`...)
	b = strconv.AppendUint(b, meta.GetAppliedIndex(), 10)
	b = append(b, `,"state_hash":"`...)
	b = hex.AppendEncode(b, hash[:])
	b = append(b, `","records":`...)
	b = appendCounts(b, meta)
	return x.sendJSON(http.StatusOK, append(b, '}'))
}

// hashState returns a hash and the meta that it belongs to.
func (s *server) hashState() (*fsm.Meta, [32]byte, error) {
	const attempts = 5
	for range attempts {
		before := s.cluster.Meta()
		hash, err := s.cluster.Hash()
		if err != nil {
			return nil, hash, fmt.Errorf("hash state: %w", err)
		}
		if s.cluster.Meta().GetAppliedIndex() == before.GetAppliedIndex() {
			return before, hash, nil
		}
	}
	return nil, [32]byte{}, wire.Unavailable.With("the state changes while it is hashed: ask again when fewer entries are applied")
}

// addNode is POST /v1/cluster/nodes.
func (s *server) addNode(x *exchange) error {
	var id, raftAddr string
	voter := true
	err := s.members(x, func(name string, v jsontext.Value) (err error) {
		switch name {
		case "id":
			id, err = asString("id", v, wire.MaxKey)
		case "raft_addr":
			raftAddr, err = asString("raft_addr", v, wire.MaxKey)
		case "voter":
			voter, err = asBool("voter", v)
		default:
			err = unknownMember("the body")
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case id == "":
		return wrong("id", "send the id that the new node was started with")
	case raftAddr == "":
		return wrong("raft_addr", "send the peer address of the new node, host:port")
	}
	if err := s.cluster.AddNode(x.r.Context(), id, raftAddr, voter); err != nil {
		return fmt.Errorf("add node: %w", err)
	}
	b := wire.AppendString([]byte(`{"id":`), id)
	b = append(b, `,"raft_addr":`...)
	b = wire.AppendString(b, raftAddr)
	b = append(b, `,"voter":`...)
	b = strconv.AppendBool(b, voter)
	return x.sendJSON(http.StatusCreated, append(b, '}'))
}

// removeNode is DELETE /v1/cluster/nodes/{id}.
func (s *server) removeNode(x *exchange) error {
	id, err := x.pathVar("id")
	if err != nil {
		return err
	}
	if err := s.cluster.RemoveNode(x.r.Context(), id); err != nil {
		return fmt.Errorf("remove node: %w", err)
	}
	return x.sendNothing()
}

// transfer is POST /v1/cluster/transfer.
func (s *server) transfer(x *exchange) error {
	var to string
	err := s.members(x, func(name string, v jsontext.Value) (err error) {
		if name != "to" {
			return unknownMember("the body")
		}
		to, err = asString("to", v, wire.MaxKey)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.cluster.Transfer(x.r.Context(), to); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return x.sendNothing()
}

// members reads the body and calls visit with each member of it.
func (s *server) members(x *exchange, visit func(string, jsontext.Value) error) error {
	body, done, err := s.body(x, false)
	if err != nil {
		return err
	}
	defer done()
	return eachMember(body, "the body", visit)
}

// backup is GET /v1/backup. Once bytes are out, a failure breaks the
// connection off, and the checksum at the end is missing.
func (s *server) backup(x *exchange) error {
	const mediaType = "application/octet-stream"
	if x.r.Method == http.MethodHead {
		x.Header().Set("Content-Type", mediaType)
		x.WriteHeader(http.StatusOK)
		return nil
	}
	if err := s.cluster.Backup(x.r.Context(), &download{x, mediaType}); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

// download sends the header with the first bytes: a failure before them has an
// answer of its own.
type download struct {
	x         *exchange
	mediaType string
}

// Write sends p.
func (d *download) Write(p []byte) (int, error) {
	if d.x.status == 0 {
		h := d.x.Header()
		h.Set("Content-Type", d.mediaType)
		h.Set("Content-Disposition", `attachment; filename="onced.backup"`)
		h.Set("Cache-Control", "no-store")
		d.x.WriteHeader(http.StatusOK)
	}
	return d.x.Write(p)
}
