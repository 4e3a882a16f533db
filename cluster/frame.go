package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/onced/onced/fsm"
)

// Between nodes, after the preface of package peer, a commands connection
// carries frames both ways, the first of them an opening by the node that dialled:
//
//	length  4 bytes, big endian, of what follows
//	type    1 byte
//	id      8 bytes, chosen by the asking side, repeated in the answer
//	payload the rest
const (
	frameHeader = 4 + 1 + 8
	// maxFrame bounds what one frame may make a node allocate. The largest
	// command carries one response body and its headers.
	maxFrame = 40 << 20
	// maxCommand leaves room in a frame for what the outcome of a command says
	// beside the response that the command brought: a record that fits in no
	// frame would break the connection of everyone who asks for it.
	maxCommand = maxFrame - 64<<10
)

type frameType byte

const (
	framePropose frameType = 1 // payload: an encoded fsm.Command
	frameResult  frameType = 2 // payload: see appendResult
	framePing    frameType = 3 // payload: JSON ping
	framePong    frameType = 4 // payload: JSON pong
	frameAdmin   frameType = 5 // payload: JSON adminRequest
	frameAdmined frameType = 6 // payload: JSON adminAnswer
	frameOpen    frameType = 7 // payload: see opening
)

type frame struct {
	kind    frameType
	id      uint64
	payload []byte
}

func appendFrameHeader(b []byte, kind frameType, id uint64, payload int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(1+8+payload))
	b = append(b, byte(kind))
	return binary.BigEndian.AppendUint64(b, id)
}

// readFrame reads one frame. The payload is the caller's to keep.
func readFrame(r *bufio.Reader) (frame, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:4])
	if n < 9 || n > maxFrame {
		return frame{}, fmt.Errorf("read frame: length %d is out of range", n)
	}
	f := frame{kind: frameType(head[4]), id: binary.BigEndian.Uint64(head[5:])}
	payload, err := readExactly(r, int(n)-9)
	if err != nil {
		return frame{}, fmt.Errorf("read frame: %w", err)
	}
	f.payload = payload
	return f, nil
}

// readExactly reads n bytes, allocating no faster than they arrive: a length
// alone must not cost memory.
func readExactly(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	if n <= step {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b := make([]byte, 0, step)
	for len(b) < n {
		part := min(n-len(b), max(step, len(b)))
		b = append(b, make([]byte, part)...)
		if _, err := io.ReadFull(r, b[len(b)-part:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// verdict is what became of a command at one node: a typed value, never
// matched text.
type verdict byte

const (
	// applied: it is in the log and was applied; outcome says what it did.
	applied verdict = 1
	// notLeader: certainly not applied here; hint names the leader, if known.
	notLeader verdict = 2
	// notApplied: certainly not applied, for a passing reason.
	notApplied verdict = 3
	// unknown: it may or may not be applied, now or later.
	unknown verdict = 4
)

// result answers one proposal.
type result struct {
	verdict verdict
	index   uint64       // applied: of the log entry
	outcome *fsm.Outcome // applied
	hint    string       // notLeader
}

// appendResult encodes r as: verdict, then for applied the index (8 bytes) and
// the outcome, for notLeader the hint.
func appendResult(b []byte, r result) ([]byte, error) {
	b = append(b, byte(r.verdict))
	switch r.verdict {
	case applied:
		b = binary.BigEndian.AppendUint64(b, r.index)
		at := len(b)
		b = append(b, make([]byte, r.outcome.SizeVT())...)
		if _, err := r.outcome.MarshalToSizedBufferVT(b[at:]); err != nil {
			return nil, fmt.Errorf("encode outcome: %w", err)
		}
	case notLeader:
		b = append(b, r.hint...)
	}
	return b, nil
}

var errResult = errors.New("malformed result")

func decodeResult(b []byte) (result, error) {
	if len(b) == 0 {
		return result{}, errResult
	}
	r := result{verdict: verdict(b[0])}
	b = b[1:]
	switch r.verdict {
	case applied:
		if len(b) < 8 {
			return result{}, errResult
		}
		r.index = binary.BigEndian.Uint64(b)
		r.outcome = new(fsm.Outcome)
		if err := r.outcome.UnmarshalVT(b[8:]); err != nil {
			return result{}, fmt.Errorf("%w: %w", errResult, err)
		}
	case notLeader:
		if len(b) > 64 {
			return result{}, errResult
		}
		r.hint = string(b)
	case notApplied, unknown:
	default:
		return result{}, errResult
	}
	return r, nil
}

// frameWriter sends frames on a connection from a goroutine of its own, so
// that no caller hangs on a peer that does not read. Frames that come while a
// write is under way leave together in the next one.
type frameWriter struct {
	conn net.Conn
	wake chan struct{} // depth 1: there is something in buf, or stop was called
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	buf     []byte
	stopped bool
}

func newFrameWriter(conn net.Conn) *frameWriter {
	w := &frameWriter{conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// errWriterStopped is returned for a frame that certainly was not sent.
var errWriterStopped = errors.New("connection closed")

// errQueueFull is returned for a frame that was not sent because the peer reads
// more slowly than it is answered.
var errQueueFull = errors.New("too many bytes wait for the peer already")

const (
	// maxQueued bounds the bytes that wait for a peer that does not read.
	maxQueued = 64 << 20
	// maxOverflow is for the few bytes that say so.
	maxOverflow = 1 << 20
)

// send queues a frame whose payload is appended by fill. On an error nothing
// of it was sent.
func (w *frameWriter) send(kind frameType, id uint64, fill func([]byte) ([]byte, error)) error {
	return w.enqueue(maxQueued, kind, id, fill)
}

// reply sends the result of one proposal. Of one that does not fit now the
// peer is told no more than that it must ask again.
func (w *frameWriter) reply(id uint64, r result) {
	err := w.send(frameResult, id, func(b []byte) ([]byte, error) { return appendResult(b, r) })
	if err != nil {
		// If the connection is gone the asking node knows by itself.
		_ = w.enqueue(maxQueued+maxOverflow, frameResult, id, func(b []byte) ([]byte, error) {
			return appendResult(b, result{verdict: unknown})
		})
	}
}

func (w *frameWriter) enqueue(limit int, kind frameType, id uint64, fill func([]byte) ([]byte, error)) error {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return errWriterStopped
	}
	at := len(w.buf)
	if at > limit {
		w.mu.Unlock()
		return errQueueFull
	}
	b, err := fill(appendFrameHeader(w.buf, kind, id, 0))
	if err != nil {
		w.buf = w.buf[:at]
		w.mu.Unlock()
		return err
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	w.buf = b
	w.mu.Unlock()
	if at == 0 {
		w.signal()
	}
	return nil
}

func (w *frameWriter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// stop closes the connection and waits for the goroutine.
func (w *frameWriter) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.conn.Close()
	w.signal()
	<-w.done
}

// maxIdleBuffer is the largest buffer that is kept for the next write.
const maxIdleBuffer = 1 << 20

func (w *frameWriter) run() {
	defer close(w.done)
	var out []byte
	for range w.wake {
		w.mu.Lock()
		if w.stopped {
			w.mu.Unlock()
			return
		}
		w.buf, out = out[:0], w.buf
		w.mu.Unlock()
		if _, err := w.conn.Write(out); err != nil {
			w.mu.Lock()
			w.stopped = true
			w.mu.Unlock()
			w.conn.Close() // the connection's reader ends it for all
			return
		}
		if cap(out) > maxIdleBuffer {
			out = nil
		}
	}
}
