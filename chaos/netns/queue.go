//go:build linux

package netns

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Of the kernel's interface for packets that wait for a verdict
// (linux/netfilter/nfnetlink_queue.h). Attributes are in network byte order,
// the headers around them in that of the machine.
const (
	queueSubsystem = 3 << 8 // NFNL_SUBSYS_QUEUE, in the upper byte of a type

	packetMessage  = queueSubsystem     // NFQNL_MSG_PACKET, which is 0
	verdictMessage = queueSubsystem | 1 // NFQNL_MSG_VERDICT
	configMessage  = queueSubsystem | 2 // NFQNL_MSG_CONFIG

	packetHeaderAttr = 1 // NFQA_PACKET_HDR: packet id, protocol, hook
	verdictAttr      = 2 // NFQA_VERDICT_HDR: verdict, packet id

	commandAttr = 1 // NFQA_CFG_CMD
	copyAttr    = 2 // NFQA_CFG_PARAMS
	lengthAttr  = 3 // NFQA_CFG_QUEUE_MAXLEN
	bindCommand = 1 // NFQNL_CFG_CMD_BIND
	copyNothing = 1 // NFQNL_COPY_META

	accept = 1 // NF_ACCEPT

	netlinkHead, queueHead, attrHead = 16, 4, 4

	// queueLength is how many packets a host may have waiting; more are
	// dropped.
	queueLength = 16384
)

// numbered counts the queues of this process: their numbers must differ in a
// namespace.
var numbered atomic.Uint32

// queue holds packets that arrive at a host, each for a while.
type queue struct {
	number uint16
	fd     int
	delay  func() time.Duration
	done   sync.WaitGroup // its two goroutines

	mu      sync.Mutex
	held    heldPackets
	earlier chan struct{} // one slot: the first of held has changed
	closing chan struct{}
}

// openQueue makes a queue on h whose packets are held as long as delay says.
func (h *Host) openQueue(delay func() time.Duration) (q *queue, err error) {
	q = &queue{
		number: uint16(numbered.Add(1)), delay: delay,
		earlier: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	err = h.space.do(func() error {
		q.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet queue on %s: %w", h.Name, err)
	}
	if err := q.configure(); err != nil {
		return nil, errors.Join(fmt.Errorf("open packet queue on %s: %w", h.Name, err), unix.Close(q.fd))
	}
	q.done.Go(q.receive)
	q.done.Go(q.letGo)
	return q, nil
}

func (q *queue) configure() error {
	wake := unix.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
	err := errors.Join(
		unix.Bind(q.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptInt(q.fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1),
		unix.SetsockoptTimeval(q.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wake), // so that receive can end
	)
	if err != nil {
		return err
	}
	for _, attr := range [][]byte{
		attribute(commandAttr, []byte{bindCommand, 0, 0, 0}),
		attribute(copyAttr, []byte{0, 0, 0, 0, copyNothing}),
		attribute(lengthAttr, binary.BigEndian.AppendUint32(nil, queueLength)),
	} {
		if err := q.send(configMessage, unix.NLM_F_REQUEST|unix.NLM_F_ACK, attr); err != nil {
			return err
		}
		if err := q.acknowledged(); err != nil {
			return err
		}
	}
	return nil
}

// attribute is one attribute of a message, padded.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(attrHead+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func (q *queue) send(kind, flags uint16, attr []byte) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(netlinkHead+queueHead+len(attr)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, make([]byte, 8)...) // sequence and port, not used
	b = append(b, unix.AF_UNSPEC, 0)  // family, version
	b = binary.BigEndian.AppendUint16(b, q.number)
	return unix.Sendto(q.fd, append(b, attr...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// acknowledged reads the kernel's answer to a configuration.
func (q *queue) acknowledged() error {
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(q.fd, b, 0)
	switch {
	case err != nil:
		return err
	case n < netlinkHead+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR:
		return errors.New("the kernel's answer is none")
	}
	if code := int32(binary.NativeEndian.Uint32(b[netlinkHead:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// packetIDs are the ids of the packets that one read of the socket tells of.
func packetIDs(b []byte) (ids []uint32) {
	for len(b) >= netlinkHead+queueHead {
		size := int(binary.NativeEndian.Uint32(b))
		if size < netlinkHead+queueHead || size > len(b) {
			return ids
		}
		if binary.NativeEndian.Uint16(b[4:]) == packetMessage {
			if id, ok := packetID(b[netlinkHead+queueHead : size]); ok {
				ids = append(ids, id)
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return ids
}

// packetID finds the packet's header among the attributes.
func packetID(attrs []byte) (id uint32, ok bool) {
	for len(attrs) >= attrHead {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < attrHead || size > len(attrs) {
			return 0, false
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == packetHeaderAttr && size >= attrHead+4 {
			return binary.BigEndian.Uint32(attrs[attrHead:]), true
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return 0, false
}

// receive takes in packets until the queue closes.
func (q *queue) receive() {
	b := make([]byte, 64<<10)
	for {
		select {
		case <-q.closing:
			return
		default:
		}
		n, _, err := unix.Recvfrom(q.fd, b, 0)
		if err != nil {
			continue // it woke to see whether it is to end
		}
		now := time.Now()
		q.mu.Lock()
		for _, id := range packetIDs(b[:n]) {
			heap.Push(&q.held, heldPacket{id, now.Add(q.delay())})
		}
		q.mu.Unlock()
		select {
		case q.earlier <- struct{}{}:
		default:
		}
	}
}

// letGo lets each packet go on when its time has come.
func (q *queue) letGo() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(q.acceptDue())
		select {
		case <-timer.C:
		case <-q.earlier:
		case <-q.closing:
			return
		}
	}
}

// acceptDue lets those go on whose time has come, and returns how long the next
// one has.
func (q *queue) acceptDue() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.held) > 0 {
		if wait := time.Until(q.held[0].until); wait > 0 {
			return wait
		}
		packet := heap.Pop(&q.held).(heldPacket)
		verdict := binary.BigEndian.AppendUint32(nil, accept)
		verdict = binary.BigEndian.AppendUint32(verdict, packet.id)
		// A packet without its verdict is lost, which networks do.
		_ = q.send(verdictMessage, unix.NLM_F_REQUEST, attribute(verdictAttr, verdict))
	}
	return time.Hour
}

// close lets everything go on that is still held. No rule leads to the queue
// any more.
func (q *queue) close() error {
	close(q.closing)
	q.done.Wait()
	q.mu.Lock()
	for i := range q.held {
		q.held[i].until = time.Time{}
	}
	q.mu.Unlock()
	q.acceptDue()
	if err := unix.Close(q.fd); err != nil {
		return fmt.Errorf("close packet queue: %w", err)
	}
	return nil
}

// heldPackets is a heap, the one that is due first in front.
type heldPackets []heldPacket

type heldPacket struct {
	id    uint32
	until time.Time
}

func (h heldPackets) Len() int           { return len(h) }
func (h heldPackets) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h heldPackets) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are for package heap alone.
func (h *heldPackets) Push(x any) { *h = append(*h, x.(heldPacket)) }
func (h *heldPackets) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
