package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/onced/onced/fsm"
)

// ping asks a peer how it is; the leader tells its time and progress along.
type ping struct {
	From    string `json:"from"`
	Leader  bool   `json:"leader,omitempty"`
	Time    int64  `json:"time,omitempty"`    // the leader's cluster time, ms
	Applied uint64 `json:"applied,omitempty"` // by the leader
}

type pong struct {
	Wall     int64  `json:"wall"` // this node's wall clock, ms
	Applied  uint64 `json:"applied"`
	HTTPAddr string `json:"http_addr"`
	Settings string `json:"settings"`
	Ready    bool   `json:"ready"`
	Level    uint32 `json:"level"` // the highest feature level it supports
}

// serveCommands answers one peer's commands connection until it breaks.
func (n *Node) serveCommands(ctx context.Context, conn net.Conn, from string) {
	w := newFrameWriter(conn)
	defer w.stop()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(conn, 64<<10)
	in := incoming{peer: from, sender: n.senders.of(from)}
	var err error
	if in.opening, err = readOpening(r); err == nil {
		err = in.sender.open(in.opening)
	}
	for err == nil {
		var f frame
		if f, err = readFrame(r); err == nil {
			err = n.answer(w, f, in)
		}
	}
	switch {
	case errors.Is(err, errOpening), errors.Is(err, errMalformed):
		n.log.Warn("a peer's connection is of no use", "peer", from, "err", err)
	case errors.Is(err, errLeft):
		n.log.Debug("a peer's connection is ended", "peer", from, "err", err)
	}
}

var errMalformed = errors.New("malformed frame")

// answer deals with one frame that came in, without blocking. After an error the
// connection is to end. A command that comes here is never sent on: one hop at most.
func (n *Node) answer(w *frameWriter, f frame, in incoming) error {
	switch f.kind {
	case framePropose:
		return n.takeCommand(w, f, in)
	case framePing:
		var p ping
		if err := json.Unmarshal(f.payload, &p); err != nil {
			return fmt.Errorf("%w: ping: %w", errMalformed, err)
		}
		n.heardPing(p)
		return sendJSON(w, framePong, f.id, n.pong())
	case frameAdmin:
		var req adminRequest
		if err := json.Unmarshal(f.payload, &req); err != nil {
			return fmt.Errorf("%w: request of an operator: %w", errMalformed, err)
		}
		n.goes(func() {
			ctx, cancel := context.WithTimeout(n.context, adminTimeout)
			defer cancel()
			_ = sendJSON(w, frameAdmined, f.id, answerOf(n.administer(ctx, req)))
		})
		return nil
	}
	return fmt.Errorf("%w of type %d", errMalformed, f.kind)
}

// takeCommand proposes what a peer encoded. An entry with a command that this
// binary does not understand would stop every node that is like this one, so
// it is refused, as a newer leader may understand it. One of another term would
// change nothing, and each has one.
func (n *Node) takeCommand(w *frameWriter, f frame, in incoming) error {
	term, err := fsm.CheckCommand(f.payload)
	if err != nil {
		n.log.Warn("a peer sent a command that this node does not understand", "peer", in.peer, "err", err)
	}
	if err != nil || term != n.term() {
		w.reply(f.id, result{verdict: notApplied})
		return nil
	}
	return in.sender.propose(in.opening, func() {
		n.proposer.propose(proposal{command: f.payload, done: func(r result) { w.reply(f.id, r) }})
	})
}

// sendJSON returns an error if v cannot be encoded. If the connection is gone its
// reader knows by itself.
func sendJSON(w *frameWriter, kind frameType, id uint64, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame of type %d: %w", kind, err)
	}
	_ = w.send(kind, id, func(buf []byte) ([]byte, error) { return append(buf, b...), nil })
	return nil
}

func (n *Node) pong() pong {
	applied, _ := n.state.Applied()
	return pong{
		Wall:     n.cfg.Clock().UnixMilli(),
		Applied:  applied,
		HTTPAddr: n.cfg.HTTPAddr,
		Settings: n.settings,
		Ready:    n.Ready() == nil,
		Level:    fsm.FeatureLevel,
	}
}

func (n *Node) heardPing(p ping) {
	if !p.Leader {
		return
	}
	if leader, _ := n.leadership.leader(); leader != p.From {
		return // of another term, or ahead of what raft has told us
	}
	n.clock.hear(p.Time)
	n.ready.leaderApplied(p.Applied)
}

// pingPeer asks one peer and returns its answer.
func (n *Node) pingPeer(ctx context.Context, id string, p ping) (pong, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return pong{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	f, err := n.links.to(id).ask(ctx, framePing, b)
	if err != nil {
		return pong{}, err
	}
	var answer pong
	if err := json.Unmarshal(f.payload, &answer); err != nil {
		return pong{}, err
	}
	n.contacts.set(id, contact{answer.HTTPAddr, answer.Applied, time.Now()})
	return answer, nil
}

const (
	pingTimeout  = 500 * time.Millisecond
	adminTimeout = 30 * time.Second
)
