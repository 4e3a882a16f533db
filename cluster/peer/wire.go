package peer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What goes over a connection before it is handed to its user. Integers are
// big endian, id and address strings are preceded by their length in a byte.
//
//	dialer:   "onced" version length16 | purpose id incarnation[16] cluster[16] index64 want-id want-incarnation[16]
//	acceptor: "onced" version length16 | code id incarnation[16] reason (the rest)
//
// After an accepted hello the acceptor sends one message and hangs up. After an
// accepted admit the dialer sends one message and gets a second answer. A
// message is length32 and JSON.
const (
	magic           = "onced"
	protocolVersion = 1

	maxFrame   = 2 << 10  // preface or answer
	maxReason  = 1 << 10  // text of a refusal
	maxMessage = 64 << 10 // hello or admission
)

type purpose byte

const (
	forHello purpose = iota + 1
	forRaft
	forCommands
	forAdmit
)

func (p purpose) String() string {
	switch p {
	case forHello:
		return "hello"
	case forRaft:
		return "raft"
	case forCommands:
		return "commands"
	case forAdmit:
		return "admit"
	}
	return fmt.Sprintf("purpose %d", byte(p))
}

// preface is how a connection begins: who dials, and whom the dialer expects.
type preface struct {
	Purpose         purpose
	ID              string
	Incarnation     tag
	Cluster         tag    // zero: the dialer belongs to none yet
	Index           uint64 // of the dialer's member table
	WantID          string // empty: whoever answers
	WantIncarnation tag    // zero: any
}

// answer is what the acceptor says to a preface or an admission.
type answer struct {
	Code        Code
	ID          string
	Incarnation tag
	Reason      string // empty when accepted
}

var (
	errNotPeer = errors.New("it does not speak the protocol of onced's peers (is the port right, and is TLS on at both ends or at neither?)")
	errVersion = errors.New("it speaks another version of the peer protocol")
)

func (p preface) append(b []byte) []byte {
	return appendFrame(b, func(b []byte) []byte {
		b = append(b, byte(p.Purpose))
		b = appendString(b, p.ID)
		b = append(b, p.Incarnation[:]...)
		b = append(b, p.Cluster[:]...)
		b = binary.BigEndian.AppendUint64(b, p.Index)
		b = appendString(b, p.WantID)
		return append(b, p.WantIncarnation[:]...)
	})
}

func parsePreface(b []byte) (p preface, err error) {
	c := cursor{rest: b}
	p.Purpose = purpose(c.byte())
	p.ID = c.string()
	p.Incarnation = c.tag()
	p.Cluster = c.tag()
	p.Index = binary.BigEndian.Uint64(c.take(8))
	p.WantID = c.string()
	p.WantIncarnation = c.tag()
	switch {
	case c.short || len(c.rest) > 0:
		return preface{}, errors.New("preface has the wrong length")
	case p.Purpose < forHello || p.Purpose > forAdmit:
		return preface{}, fmt.Errorf("preface has unknown %v", p.Purpose)
	case !validID(p.ID) || p.Incarnation == tag{}:
		return preface{}, errors.New("preface does not say who dials")
	case p.WantID != "" && !validID(p.WantID):
		return preface{}, errors.New("preface expects no node id")
	}
	return p, nil
}

func readPreface(r io.Reader) (preface, error) {
	b, err := readFrame(r)
	if err != nil {
		return preface{}, err
	}
	return parsePreface(b)
}

func (a answer) append(b []byte) []byte {
	return appendFrame(b, func(b []byte) []byte {
		b = append(b, byte(a.Code))
		b = appendString(b, a.ID)
		b = append(b, a.Incarnation[:]...)
		return append(b, line(a.Reason)...)
	})
}

// line makes a reason fit: it may quote errors of any length and content.
func line(reason string) string {
	reason = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, reason)
	return reason[:min(len(reason), maxReason)]
}

func parseAnswer(b []byte) (a answer, err error) {
	c := cursor{rest: b}
	a.Code = Code(c.byte())
	a.ID = c.string()
	a.Incarnation = c.tag()
	a.Reason = string(c.rest)
	switch {
	case c.short || len(a.Reason) > maxReason:
		return answer{}, errors.New("answer has the wrong length")
	case !validID(a.ID) || a.Incarnation == tag{}:
		return answer{}, errors.New("answer does not say who answers")
	}
	// It will be logged: an acceptor must not be able to write what it likes.
	if a.Reason != line(a.Reason) {
		return answer{}, errors.New("answer has a reason that is no text")
	}
	return a, nil
}

func readAnswer(r io.Reader) (answer, error) {
	b, err := readFrame(r)
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(b)
}

const frameHeader = len(magic) + 1 + 2

func appendFrame(b []byte, body func([]byte) []byte) []byte {
	b = append(b, magic...)
	b = append(b, protocolVersion, 0, 0)
	start := len(b)
	b = body(b)
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

// readFrame reads no byte past the frame, and none of its body before the
// header is seen to be sound.
func readFrame(r io.Reader) ([]byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	if string(h[:len(magic)]) != magic {
		return nil, errNotPeer
	}
	if v := h[len(magic)]; v != protocolVersion {
		return nil, fmt.Errorf("%w: %d, not %d", errVersion, v, protocolVersion)
	}
	n := int(binary.BigEndian.Uint16(h[len(magic)+1:]))
	if n > maxFrame {
		return nil, errNotPeer
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read the rest: %w", err)
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

// cursor takes fields off the front of a body. Past the end it yields zeros
// and is short from then on.
type cursor struct {
	rest  []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if len(c.rest) < n {
		c.rest, c.short = nil, true
		return make([]byte, n)
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) byte() byte     { return c.take(1)[0] }
func (c *cursor) tag() tag       { return tag(c.take(len(tag{}))) }
func (c *cursor) string() string { return string(c.take(int(c.byte()))) }

// hello is what a node tells of itself to a peer that may ask.
type hello struct {
	NodeID      string `json:"node_id"`
	Incarnation tag    `json:"incarnation"`
	Joining     bool   `json:"joining,omitempty"` // waits to be admitted
	List        []Peer `json:"list,omitempty"`    // the static list, while it forms a cluster
	Seed        string `json:"seed,omitempty"`    // the backup that it began with
	roster
}

func parseHello(data []byte) (h hello, err error) {
	if err := decodeStrictly(data, &h); err != nil {
		return hello{}, err
	}
	if !validID(h.NodeID) || h.Incarnation == (tag{}) {
		return hello{}, errors.New("hello does not say who answers")
	}
	if !validSeed(h.Seed) {
		return hello{}, errors.New("hello has a seed that is no SHA-256")
	}
	if err := checkList(h.List); err != nil {
		return hello{}, err
	}
	if h.formed() || len(h.Members) > 0 {
		if err := h.check(); err != nil {
			return hello{}, fmt.Errorf("roster: %w", err)
		}
	}
	return h, nil
}

// admission tells a waiting node which cluster it now belongs to.
type admission struct {
	roster
}

func parseAdmission(data []byte) (a admission, err error) {
	if err := decodeStrictly(data, &a); err != nil {
		return admission{}, err
	}
	if err := a.check(); err != nil {
		return admission{}, fmt.Errorf("roster: %w", err)
	}
	return a, nil
}

func writeMessage(w io.Writer, m any) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(data) > maxMessage {
		return fmt.Errorf("message of %d bytes is longer than %d", len(data), maxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

func readMessage(r io.Reader) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes is longer than %d", n, maxMessage)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return data, nil
}
