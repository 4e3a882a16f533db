package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/fsm"
)

// adminRequest is a change of membership or leadership, done by the leader.
type adminRequest struct {
	Op    string `json:"op"` // add, remove, transfer
	ID    string `json:"id,omitempty"`
	Addr  string `json:"addr,omitempty"`
	Voter bool   `json:"voter,omitempty"`
}

// adminAnswer carries an error between nodes as its kind and text.
type adminAnswer struct {
	Kind string `json:"kind,omitempty"` // "" is success
	Text string `json:"text,omitempty"`
}

var adminKinds = map[string]error{
	"moved":       errMoved,
	"unavailable": ErrUnavailable,
	"unknown":     ErrUnknownNode,
	"invalid":     ErrInvalidNode,
	"conflict":    ErrConflict,
}

// errMoved: nothing was done, for another node leads or is about to.
var errMoved = errors.New("another node leads")

func answerOf(err error) adminAnswer {
	if err == nil {
		return adminAnswer{}
	}
	for kind, target := range adminKinds {
		if errors.Is(err, target) {
			return adminAnswer{kind, err.Error()}
		}
	}
	return adminAnswer{"internal", err.Error()}
}

func (a adminAnswer) err() error {
	if a.Kind == "" {
		return nil
	}
	if target, ok := adminKinds[a.Kind]; ok {
		return fmt.Errorf("%w: %s", target, a.Text)
	}
	return errors.New(a.Text)
}

// AddNode adds a node that was started with --join and waits at addr. It
// learns the node's incarnation from the node itself. A voter counts in the
// majority.
func (n *Node) AddNode(ctx context.Context, id, addr string, voter bool) error {
	if !validNodeID(id) {
		return fmt.Errorf("%w: node id %q: use 1 to 64 of A-Z a-z 0-9 . _ -", ErrInvalidNode, id)
	}
	if err := checkAddr(addr); err != nil {
		return fmt.Errorf("%w: raft address: %w", ErrInvalidNode, err)
	}
	return n.administrate(ctx, adminRequest{Op: "add", ID: id, Addr: addr, Voter: voter})
}

// RemoveNode takes a node out for good: its data directory is never let in
// again.
func (n *Node) RemoveNode(ctx context.Context, id string) error {
	return n.administrate(ctx, adminRequest{Op: "remove", ID: id})
}

// Transfer hands leadership to the named node, or with to "" to the voter
// that is furthest along.
func (n *Node) Transfer(ctx context.Context, to string) error {
	return n.administrate(ctx, adminRequest{Op: "transfer", ID: to})
}

// administrate has the leader do req, waiting for one if there is none.
func (n *Node) administrate(ctx context.Context, req adminRequest) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	last := ""
	for tries := 0; ; tries++ {
		leader, changed := n.leadership.leader()
		if leader == "" {
			leader = last // it knows who leads now, or that this node was removed
		}
		last = leader
		err := errMoved
		switch leader {
		case "":
		case n.cfg.NodeID:
			err = n.administer(ctx, req)
		default:
			err = n.askToAdminister(ctx, leader, req)
		}
		if !errors.Is(err, errMoved) {
			return err
		}
		if err := n.holdOn(ctx, tries, changed); err != nil {
			return &unavailable{}
		}
	}
}

func (n *Node) askToAdminister(ctx context.Context, leader string, req adminRequest) error {
	b, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	f, err := n.links.to(leader).ask(ctx, frameAdmin, b)
	removing := req.Op == "remove" && req.ID == n.cfg.NodeID
	var refused *peer.Refusal
	switch {
	case removing && errors.As(err, &refused) && refused.Code == peer.CodeNotMember:
		return nil // the leader hung up on this node before it could say so
	case errors.Is(err, errNotSent), removing && errors.Is(err, errBroken):
		return errMoved
	case err != nil:
		return &unavailable{maybe: true}
	}
	var a adminAnswer
	if err := json.Unmarshal(f.payload, &a); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return a.err()
}

// administer does req on the leader.
func (n *Node) administer(ctx context.Context, req adminRequest) error {
	if n.raft.State() != raft.Leader {
		return errMoved
	}
	switch req.Op {
	case "add":
		return n.add(ctx, req)
	case "remove":
		return n.remove(ctx, req.ID)
	case "transfer":
		return n.transfer(ctx, req.ID)
	}
	return fmt.Errorf("%w: operation %q", ErrInvalidNode, req.Op)
}

func (n *Node) add(ctx context.Context, req adminRequest) error {
	hello, err := n.whoIs(ctx, req)
	if err != nil {
		return err
	}
	if err := mayAdd(n.state.Meta(), req, hello); err != nil {
		return err
	}
	member := &fsm.Member{Id: req.ID, RaftAddr: req.Addr, Incarnation: hello.Incarnation}
	if err := n.commitMember(ctx, fsm.Kind_ADMIT, member); err != nil {
		return err
	}
	n.refreshMembers()
	meta := n.state.Meta()
	if !bytes.Equal(hello.ClusterID, meta.ClusterId) {
		if err := n.peers.Admit(ctx, req.Addr, meta.ClusterId, meta.Members); err != nil {
			return fmt.Errorf("%w: admit the node at %s: %w", ErrConflict, req.Addr, err)
		}
	}
	id, addr := raft.ServerID(req.ID), raft.ServerAddress(req.Addr)
	if req.Voter {
		return n.change(ctx, n.raft.AddVoter(id, addr, 0, adminTimeout))
	}
	return n.change(ctx, n.raft.AddNonvoter(id, addr, 0, adminTimeout))
}

// whoIs returns what the node that is to be added says of itself. This node does
// not ask itself: it may have been added by a request whose answer was lost, and
// lead by the time that comes again.
func (n *Node) whoIs(ctx context.Context, req adminRequest) (peer.Hello, error) {
	meta := n.state.Meta()
	for _, m := range meta.Members {
		if m.Id == n.cfg.NodeID && m.Id == req.ID && m.RaftAddr == req.Addr {
			return peer.Hello{NodeID: m.Id, Incarnation: m.Incarnation, ClusterID: meta.ClusterId}, nil
		}
	}
	hello, err := n.peers.Hello(ctx, req.Addr)
	if err != nil {
		return hello, fmt.Errorf("%w: ask the node at %s who it is: %w", ErrInvalidNode, req.Addr, err)
	}
	return hello, nil
}

// mayAdd says why the node that answers at the address may not be added, before
// anything is committed: a member that cannot come, or with the address of
// another, would stay in the table.
func mayAdd(meta *fsm.Meta, req adminRequest, hello peer.Hello) error {
	if len(meta.ClusterId) == 0 {
		return fmt.Errorf("%w: %w", ErrConflict, errNotBound)
	}
	if hello.NodeID != req.ID {
		return fmt.Errorf("%w: the node at %s calls itself %s, not %s", ErrInvalidNode, req.Addr, hello.NodeID, req.ID)
	}
	known := false
	for _, m := range meta.Members {
		switch {
		case m.Id != req.ID && m.RaftAddr == req.Addr:
			return fmt.Errorf("%w: %s is the address of %s: remove that node first", ErrConflict, req.Addr, m.Id)
		case m.Id == req.ID && !bytes.Equal(m.Incarnation, hello.Incarnation):
			return fmt.Errorf("%w: %s is a member with another data directory: remove it first, and start the new one under a new id", ErrConflict, req.ID)
		}
		known = known || m.Id == req.ID
	}
	switch ours := bytes.Equal(hello.ClusterID, meta.ClusterId); {
	case ours && !known:
		return fmt.Errorf("%w: %s was removed: start it empty, under a new id, with --join", ErrConflict, req.ID)
	case !ours && !hello.Joining:
		return fmt.Errorf("%w: %s does not wait to be added: start it empty, with --join", ErrInvalidNode, req.ID)
	}
	return nil
}

// commitMember commits a change of the member table, and waits until it has
// been applied here.
func (n *Node) commitMember(ctx context.Context, kind fsm.Kind, m *fsm.Member) error {
	r, err := n.commit(ctx, &fsm.Command{Kind: kind, Members: []*fsm.Member{m}})
	if err != nil {
		return err
	}
	if r.outcome.Code != fsm.Code_OK {
		return fmt.Errorf("%w: %s", ErrConflict, r.outcome.Reason)
	}
	if err := n.progress.await(ctx, r.index); err != nil {
		return &unavailable{maybe: true}
	}
	return nil
}

func (n *Node) remove(ctx context.Context, id string) error {
	servers := n.servers()
	known := slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
	member := &fsm.Member{Id: id}
	for _, m := range n.state.Meta().Members {
		if m.Id == id {
			known, member = true, m
		}
	}
	switch {
	case !known:
		return fmt.Errorf("%w: %s", ErrUnknownNode, id)
	case len(servers) == 1:
		return fmt.Errorf("%w: %s is the last node", ErrConflict, id)
	case id == n.cfg.NodeID:
		// Who removes itself hears of nothing any more, so another does it.
		if err := changed(n.handOver(ctx, "")); err != nil {
			return err
		}
		return errMoved
	}
	if err := n.change(ctx, n.raft.RemoveServer(raft.ServerID(id), 0, adminTimeout)); err != nil {
		return err
	}
	return n.commitMember(ctx, fsm.Kind_DISMISS, member)
}

func (n *Node) transfer(ctx context.Context, to string) error {
	if to == "" {
		return changed(n.handOver(ctx, ""))
	}
	for _, s := range n.servers() {
		switch {
		case string(s.ID) != to:
			continue
		case to == n.cfg.NodeID:
			return nil
		case s.Suffrage != raft.Voter:
			return fmt.Errorf("%w: %s is no voter", ErrConflict, to)
		}
		return changed(n.handOver(ctx, s.ID))
	}
	return fmt.Errorf("%w: %s", ErrUnknownNode, to)
}

// change waits for a change of raft's.
func (n *Node) change(ctx context.Context, f raft.Future) error {
	return changed(awaitContext(ctx, f, n.stopped))
}

// changed judges what raft, or the wait for it, said of a change; errMoved stays what it is.
func changed(err error) error {
	if err == nil || errors.Is(err, errMoved) {
		return err
	}
	for _, passing := range []error{
		raft.ErrNotLeader, raft.ErrLeadershipLost, raft.ErrEnqueueTimeout, raft.ErrLeadershipTransferInProgress, raft.ErrRaftShutdown,
		context.DeadlineExceeded, context.Canceled, errStopped,
	} {
		if errors.Is(err, passing) {
			return &unavailable{maybe: true}
		}
	}
	return fmt.Errorf("%w: %w", ErrConflict, err)
}

// refreshMembers tells the transport who the members are, once the replicated
// state names them. Before, it goes by the roster that the node stored.
func (n *Node) refreshMembers() {
	meta := n.state.Meta()
	if len(meta.ClusterId) > 0 {
		n.peers.SetMembers(meta.ClusterId, meta.Members, meta.AppliedIndex)
	}
}

func (n *Node) dialCommands(ctx context.Context, id string) (net.Conn, error) {
	return n.peers.DialCommands(ctx, id)
}

// Status asks every member how it is.
func (n *Node) Status(ctx context.Context) (ClusterStatus, error) {
	meta := n.state.Meta()
	s := ClusterStatus{
		ClusterID: clusterIDString(meta.ClusterId), Answered: n.cfg.NodeID,
		ClusterTime: time.UnixMilli(n.Now()).UTC(), FeatureLevel: int(meta.FeatureLevel),
	}
	select {
	case <-n.running:
	default:
		return s, nil
	}
	s.Leader, _ = n.leadership.leader()
	s.Term = n.raft.CurrentTerm()
	servers := n.servers()
	nodes := make([]NodeStatus, len(servers))
	done := make(chan int, len(servers))
	for i, srv := range servers {
		n.goes(func() {
			nodes[i] = n.nodeStatus(ctx, srv)
			done <- i
		})
	}
	for range servers {
		select {
		case <-done:
		case <-n.stopped:
			return s, &unavailable{}
		}
	}
	s.Nodes = nodes
	return s, nil
}

func (n *Node) nodeStatus(ctx context.Context, srv raft.Server) NodeStatus {
	s := NodeStatus{ID: string(srv.ID), RaftAddr: string(srv.Address), Voter: srv.Suffrage == raft.Voter}
	var p pong
	if s.ID == n.cfg.NodeID {
		p = n.pong()
		s.LastContact = time.Now().UTC()
	} else {
		var err error
		if p, err = n.pingPeer(ctx, s.ID, ping{From: n.cfg.NodeID}); err != nil {
			last := n.contacts.get(s.ID)
			s.HTTPAddr, s.LastContact = last.httpAddr, last.at.UTC()
			return s
		}
		s.LastContact = n.contacts.get(s.ID).at.UTC()
	}
	s.HTTPAddr, s.AppliedIndex, s.SettingsDigest, s.Healthy = p.HTTPAddr, p.Applied, p.Settings, p.Ready
	return s
}
