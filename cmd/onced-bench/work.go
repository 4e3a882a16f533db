package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The kinds of work.
const (
	workNew    = "new"    // POST under a key never used before
	workReplay = "replay" // the same POST again
	workClaim  = "claim"  // POST claim and complete on a new key, timed together
)

// material is what requests are made of. All of it follows from a seed and the
// operation's number, so that a replay is the same request without its being kept.
type material struct {
	seed     uint64
	min, max int    // bytes of a value
	padding  []byte // at least max bytes, without anything JSON escapes
}

// newMaterial returns the requests' material for values of min to max bytes.
func newMaterial(seed uint64, sizes byteRange) *material {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	random := rand.New(rand.NewPCG(seed, 0))
	padding := make([]byte, sizes.max+64<<10)
	for i := range padding {
		padding[i] = letters[random.IntN(len(letters))]
	}
	return &material{seed: seed, min: sizes.min, max: sizes.max, padding: padding}
}

// mix scatters n over all 64 bits, one to one (splitmix64's last step).
func mix(n uint64) uint64 {
	n ^= n >> 30
	n *= 0xbf58476d1ce4e5b9
	n ^= n >> 27
	n *= 0x94d049bb133111eb
	return n ^ n>>31
}

// appendKey appends the idempotency key of a number: a version 4 UUID.
func (m *material) appendKey(b []byte, number uint64) []byte {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], mix(mix(number)^m.seed))
	binary.BigEndian.PutUint64(id[8:], mix(number+m.seed))
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	b = hex.AppendEncode(b, id[:4])
	for _, part := range [][]byte{id[4:6], id[6:8], id[8:10], id[10:]} {
		b = append(b, '-')
		b = hex.AppendEncode(b, part)
	}
	return b
}

// text returns the characters of a number's value.
func (m *material) text(number uint64, overhead int) []byte {
	h := mix(number ^ m.seed>>1)
	length := m.min + int(h%uint64(m.max-m.min+1)) - overhead
	start := int(h>>32) % (len(m.padding) - length)
	return m.padding[start : start+length]
}

// appendData appends a number's value: a JSON object of min to max bytes.
func (m *material) appendData(b []byte, number uint64) []byte {
	const before, after = `{"note":"`, `"}`
	b = append(b, before...)
	b = append(b, m.text(number, len(before)+len(after))...)
	return append(b, after...)
}

// outcome says how an operation ended. What is not done or wrong is the status
// of the refusal, or the kind of error.
type outcome string

const (
	done  outcome = "done"
	wrong outcome = "wrong" // an answer that the service's contract does not allow

	// No answer. These are not sent again: the operation failed.
	connectionError outcome = "connection"
	timedOut        outcome = "timeout"
	protocolError   outcome = "protocol"

	// An open loop's operation that the connections were too busy to begin.
	unsent outcome = "unsent"

	// The refusal of a completion that took longer than its key was to be kept.
	late outcome = "late"
)

// operator runs operations of one kind on one connection. It belongs to one
// goroutine.
type operator struct {
	*conn
	material *material
	recorded [][]byte // what the first run of replay's key i was answered
	charges  bool     // requests are the service's own, not POST /create

	request []byte
	part    []byte
	granted bool // the last claim of claimAsked was
}

func (b *bench) newOperator(c *conn) *operator {
	return &operator{conn: c, material: b.material, recorded: b.recorded, charges: b.charges}
}

// operation runs one operation; detail explains an outcome other than done.
type operation func(ctx context.Context, number uint64) (result outcome, detail error)

// operation returns the operation of a kind of work.
func (o *operator) operation(work string) operation {
	switch work {
	case workReplay:
		return o.replay
	case workClaim:
		return o.claim
	default:
		return o.create
	}
}

// create creates a number's resource and checks that the answer is a first one.
func (o *operator) create(ctx context.Context, number uint64) (outcome, error) {
	a, data, err := o.post(ctx, number)
	if err != nil {
		return failed(err)
	}
	if a.status != 201 {
		return unexpected(a)
	}
	if a.replayed {
		return wrong, fmt.Errorf("a new key was answered with a replay")
	}
	return created(a, data)
}

// replay repeats a recorded request and checks that its answer is the recorded one.
func (o *operator) replay(ctx context.Context, number uint64) (outcome, error) {
	number %= uint64(len(o.recorded))
	a, _, err := o.post(ctx, number)
	if result, err := asReplay(a, err); result != done {
		return result, err
	}
	if !bytes.Equal(a.body, o.recorded[number]) {
		return wrong, fmt.Errorf("replayed %.200q, recorded was %.200q", a.body, o.recorded[number])
	}
	return done, nil
}

// asReplay judges what a replay was answered, but for the body.
func asReplay(a answer, err error) (outcome, error) {
	switch {
	case err != nil:
		return failed(err)
	case a.status != 201:
		return unexpected(a)
	case !a.replayed:
		return wrong, errors.New("a replay without Idempotent-Replayed: true: it was run again")
	}
	return done, nil
}

// record runs a number's create, for the first time or again, and keeps the
// answer for replays to be compared with.
func (o *operator) record(ctx context.Context, number uint64) (outcome, error) {
	a, data, err := o.post(ctx, number)
	if err != nil {
		return failed(err)
	}
	if a.status != 201 {
		return unexpected(a)
	}
	result, detail := created(a, data)
	if result == done {
		o.recorded[number] = bytes.Clone(a.body)
	}
	return result, detail
}

// post sends a number's request. The data that it sent is valid until the next
// operation.
func (o *operator) post(ctx context.Context, number uint64) (answer, []byte, error) {
	if o.charges {
		return o.postCharge(ctx, number)
	}
	return o.postCreate(ctx, number)
}

// postCharge sends a number's request to the service behind the gateway, or as
// the gateway would be sent it.
func (o *operator) postCharge(ctx context.Context, number uint64) (answer, []byte, error) {
	o.part = o.material.appendData(o.part[:0], number)
	o.request = append(o.request[:0], "POST "+chargePath+" HTTP/1.1\r\nHost: onced\r\nIdempotency-Key: "...)
	o.request = o.material.appendKey(o.request, number)
	o.finishHeaders()
	a, err := o.exchange(ctx, o.request)
	return a, o.part, err
}

func (o *operator) postCreate(ctx context.Context, number uint64) (answer, []byte, error) {
	o.part = append(o.part[:0], `{"idempotencyKey":"`...)
	o.part = o.material.appendKey(o.part, number)
	o.part = append(o.part, `","data":`...)
	start := len(o.part)
	o.part = o.material.appendData(o.part, number)
	data := o.part[start:]
	o.part = append(o.part, '}')
	o.request = append(o.request[:0], "POST /create"...)
	o.finishRequest()
	a, err := o.exchange(ctx, o.request)
	return a, data, err
}

// claim claims a new key and completes it.
func (o *operator) claim(ctx context.Context, number uint64) (outcome, error) {
	o.part = append(o.part[:0], `{"lease":"30s"}`...)
	return o.claimAsked(ctx, number)
}

// claimAsked claims a new key, with the request's body in o.part, and completes it.
func (o *operator) claimAsked(ctx context.Context, number uint64) (outcome, error) {
	o.granted = false
	o.keyRequest(number, "/claim")
	a, err := o.exchange(ctx, o.request)
	if err != nil {
		return failed(err)
	}
	if a.status != 201 {
		return unexpected(a)
	}
	fence, found := fenceOf(a.body)
	if !found || !bytes.Contains(a.body, []byte(`"state":"claimed"`)) {
		return wrong, fmt.Errorf("claim answered %.200q", a.body)
	}
	o.granted = true

	const before, after = `,"response":{"status":201,"headers":{"Content-Type":["text/plain"]},"body":"`, `"}}`
	o.part = append(o.part[:0], `{"fence":`...)
	o.part = strconv.AppendUint(o.part, fence, 10)
	o.part = append(o.part, before...)
	text := o.material.text(number, 0)
	o.part = append(o.part, text...)
	o.part = append(o.part, after...)
	o.keyRequest(number, "/complete")
	if a, err = o.exchange(ctx, o.request); err != nil {
		return failed(err)
	}
	if a.status != 200 {
		return unexpected(a)
	}
	if kept, found := fenceOf(a.body); !found || kept != fence ||
		!bytes.Contains(a.body, []byte(`"state":"completed"`)) || !bytes.Contains(a.body, text) {
		return wrong, fmt.Errorf("complete with fence %d answered %.200q", fence, a.body)
	}
	return done, nil
}

// keyRequest builds the request for a call on a number's key, with the body in
// o.part.
func (o *operator) keyRequest(number uint64, call string) {
	o.request = append(o.request[:0], "POST /v1/keys/"...)
	o.request = o.material.appendKey(o.request, number)
	o.request = append(o.request, call...)
	o.finishRequest()
}

// finishRequest completes a request of which the method and path are there
// with the body in o.part.
func (o *operator) finishRequest() {
	o.request = append(o.request, " HTTP/1.1\r\nHost: onced"...)
	o.finishHeaders()
}

// finishHeaders completes a request that ends within its headers with the body
// in o.part.
func (o *operator) finishHeaders() {
	o.request = append(o.request, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	o.request = strconv.AppendInt(o.request, int64(len(o.part)), 10)
	o.request = append(o.request, "\r\n\r\n"...)
	o.request = append(o.request, o.part...)
}

// created checks the body of an answer to /create, or of a charge: they look
// the same.
func created(a answer, data []byte) (outcome, error) {
	const before, between, idLen = `{"id":"`, `","data":`, 36
	body, found := bytes.CutPrefix(bytes.TrimSuffix(a.body, []byte("\n")), []byte(before))
	if found && len(body) > idLen {
		body, found = bytes.CutPrefix(body[idLen:], []byte(between))
	}
	if !found || len(body) != len(data)+1 || !bytes.HasPrefix(body, data) || body[len(data)] != '}' {
		return wrong, fmt.Errorf("create with data %.200q answered %.200q", data, a.body)
	}
	return done, nil
}

// failed names the kind of an error.
func failed(err error) (outcome, error) {
	var network net.Error
	switch {
	case errors.Is(err, errProtocol):
		return protocolError, err
	case errors.As(err, &network) && network.Timeout():
		return timedOut, err
	default:
		return connectionError, err
	}
}

// unexpected judges an answer with another status than the one hoped for: an
// error status is a refusal, counted by its number; anything else is wrong.
func unexpected(a answer) (outcome, error) {
	if a.status < 400 {
		return wrong, fmt.Errorf("status %d: %.200q", a.status, a.body)
	}
	return outcome(strconv.Itoa(a.status)), fmt.Errorf("status %d: %.200q", a.status, a.body)
}

// fenceOf returns the member "fence" of an answer. The server's JSON has no
// spaces, and no string before the fence that could hold one.
func fenceOf(body []byte) (fence uint64, found bool) {
	_, rest, found := bytes.Cut(body, []byte(`"fence":`))
	if !found {
		return 0, false
	}
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	fence, err := strconv.ParseUint(string(rest[:digits]), 10, 53)
	return fence, err == nil
}
