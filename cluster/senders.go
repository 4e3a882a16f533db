package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"sync"
)

// opening is what a node says first on a commands connection: which of its
// connections this is.
type opening struct {
	process uint64 // random, made when the process started
	number  uint64 // of that process's connections to the same peer, rising
}

var (
	errOpening = errors.New("the first frame of a connection does not say which it is")
	errLeft    = errors.New("the peer has made another connection since")
)

func (o opening) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, o.process)
	return binary.BigEndian.AppendUint64(b, o.number)
}

func readOpening(r *bufio.Reader) (opening, error) {
	f, err := readFrame(r)
	if err != nil {
		return opening{}, err
	}
	if f.kind != frameOpen || len(f.payload) != 16 {
		return opening{}, errOpening
	}
	return opening{binary.BigEndian.Uint64(f.payload), binary.BigEndian.Uint64(f.payload[8:])}, nil
}

// senders are the peers that send commands here, by node id.
//
// A node that does not know what became of a command sends a copy of it, over a
// new connection if the one before broke. What it had sent over that one may be
// read here later still, after a stop of this process for example. It must
// not be proposed then: its sender may have had its answer, by the copy, and
// nobody would know of what it does. To a new leader a copy goes in another
// term; see fsm.Command.
type senders struct {
	mu   sync.Mutex
	byID map[string]*sender
}

// incoming is a connection over which a peer sends commands.
type incoming struct {
	peer   string // its node id
	sender *sender
	opening
}

// sender is one of the peers. Of its connections the newest alone counts.
type sender struct {
	mu     sync.Mutex
	newest opening
	last   map[uint64]uint64 // number of the last connection, by process
}

func (s *senders) of(id string) *sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] == nil {
		s.byID[id] = &sender{last: map[uint64]uint64{}}
	}
	return s.byID[id]
}

// open takes in a connection, or returns errLeft if it is not the newest. Which of
// two processes was there before is not known, and need not be: nobody waits any
// more for what that one sent, and the other dials again when it is cut off.
func (s *sender) open(o opening) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.number <= s.last[o.process] {
		return errLeft
	}
	s.newest, s.last[o.process] = o, o.number
	return nil
}

// propose calls propose, or returns errLeft if the connection is no longer the
// newest. No other can come to be it meanwhile.
func (s *sender) propose(o opening, propose func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o != s.newest {
		return errLeft
	}
	propose()
	return nil
}
