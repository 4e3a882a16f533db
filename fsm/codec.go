package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

var (
	// ErrCorrupt marks bytes that are not what was once written. The node
	// must stop: its peers carry on.
	ErrCorrupt = errors.New("data is corrupt")
	// ErrUndecodable marks a log entry that this binary does not understand.
	// The node must stop: to skip the entry would be to diverge in silence.
	ErrUndecodable = errors.New("entry cannot be decoded")
)

const (
	entryVersion = 1
	valueVersion = 1
	// Version and digest come before an entry's or a value's payload.
	headerSize = 1 + 8
)

// The fields of Entry, which is read and written without its struct so that
// commands are not copied on the way.
const (
	entryTime     protowire.Number = 1
	entryCommands protowire.Number = 2
)

// EncodeEntry returns the payload of one log entry: commands, each an encoded
// Command, to be applied in order at cluster time time.
//
// The payload is a version byte, the xxhash64 of the rest (8 bytes, big
// endian), and an Entry.
func EncodeEntry(time int64, commands [][]byte) []byte {
	size := headerSize + protowire.SizeTag(entryTime) + protowire.SizeVarint(uint64(time))
	for _, c := range commands {
		size += protowire.SizeTag(entryCommands) + protowire.SizeBytes(len(c))
	}
	b := make([]byte, headerSize, size)
	b[0] = entryVersion
	b = protowire.AppendTag(b, entryTime, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(time))
	for _, c := range commands {
		b = protowire.AppendTag(b, entryCommands, protowire.BytesType)
		b = protowire.AppendBytes(b, c)
	}
	binary.BigEndian.PutUint64(b[1:], xxhash.Sum64(b[headerSize:]))
	return b
}

// CheckEntry reports whether data still has the digest it was encoded with. It
// does not look inside.
func CheckEntry(data []byte) error {
	if len(data) < headerSize || data[0] != entryVersion ||
		binary.BigEndian.Uint64(data[1:]) != xxhash.Sum64(data[headerSize:]) {
		return fmt.Errorf("check entry of %d bytes: %w", len(data), ErrCorrupt)
	}
	return nil
}

// decodeEntry returns what EncodeEntry was given. The commands are parts of
// data.
func decodeEntry(data []byte) (time int64, commands [][]byte, err error) {
	if err := CheckEntry(data); err != nil {
		return 0, nil, err
	}
	for b := data[headerSize:]; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, nil, fmt.Errorf("decode entry: %w: %w", ErrUndecodable, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case number == entryTime && kind == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			time = int64(v)
		case number == entryCommands && kind == protowire.BytesType:
			var c []byte
			c, n = protowire.ConsumeBytes(b)
			commands = append(commands, c)
		default:
			return 0, nil, fmt.Errorf("decode entry: %w: field %d of type %d", ErrUndecodable, number, kind)
		}
		if n < 0 {
			return 0, nil, fmt.Errorf("decode entry: %w: %w", ErrUndecodable, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return time, commands, nil
}

// decodeCommand refuses whatever this binary would have to leave out: another
// binary would act on it.
func decodeCommand(b []byte) (*Command, error) {
	c := new(Command)
	if err := c.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("decode command: %w: %w", ErrUndecodable, err)
	}
	switch {
	case c.Kind <= Kind_KIND_NONE || c.Kind > Kind_DISMISS:
		return nil, fmt.Errorf("decode command: %w: kind %d", ErrUndecodable, c.Kind)
	case !c.onlyKnown():
		return nil, fmt.Errorf("decode command: %w: unknown field or value in %v", ErrUndecodable, c.Kind)
	case c.Kind == Kind_FEATURE_LEVEL && c.Level > FeatureLevel:
		return nil, fmt.Errorf("decode command: %w: feature level %d, this binary has %d", ErrUndecodable, c.Level, FeatureLevel)
	}
	return c, nil
}

// CheckCommand reports whether this binary would apply b, an encoded Command, and
// in entries of which term: the error is ErrUndecodable if not. Whoever puts into
// the log what others encoded checks it first, for there it would stop every node.
func CheckCommand(b []byte) (term uint64, err error) {
	c, err := decodeCommand(b)
	return c.GetTerm(), err
}

// onlyKnown reports whether every field and every enumerated value in c, at
// each level, is one that this binary knows.
func (c *Command) onlyKnown() bool {
	known := len(c.unknownFields) == 0 &&
		c.Surface >= 0 && c.Surface <= Surface_SURFACE_GATEWAY &&
		c.OnLapse >= 0 && c.OnLapse <= OnLapse_BLOCK
	if r := c.Response; r != nil {
		known = known && len(r.unknownFields) == 0 && r.Encoding >= 0 && r.Encoding <= BodyEncoding_ZSTD
		for _, h := range r.Headers {
			known = known && len(h.unknownFields) == 0
		}
	}
	for _, u := range c.Uniques {
		known = known && len(u.unknownFields) == 0
	}
	for _, m := range c.Members {
		known = known && len(m.unknownFields) == 0
	}
	return known
}

// message is what the generated types have in common.
type message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// appendValue appends what is stored for m under key: a version byte, the
// xxhash64 of key and payload (8 bytes, big endian), and m as the payload.
func appendValue(b, key []byte, m message) ([]byte, error) {
	start, size := len(b), m.SizeVT()
	b = append(b, make([]byte, headerSize+size)...)
	if _, err := m.MarshalToSizedBufferVT(b[start+headerSize:]); err != nil {
		return nil, fmt.Errorf("encode value in table %q: %w", key[:1], err)
	}
	seal(b[start:], key)
	return b, nil
}

// appendText is appendValue where the payload is text as it stands.
func appendText(b, key []byte, text string) []byte {
	start := len(b)
	b = append(b, make([]byte, headerSize)...)
	b = append(b, text...)
	seal(b[start:], key)
	return b
}

// seal fills in the header of value, whose payload is in place.
func seal(value, key []byte) {
	value[0] = valueVersion
	binary.BigEndian.PutUint64(value[1:], valueDigest(key, value[headerSize:]))
}

// openValue checks value, read from under key, and decodes it into m.
func openValue(key, value []byte, m message) error {
	payload, err := openPayload(key, value)
	if err != nil {
		return err
	}
	if err := m.UnmarshalVT(payload); err != nil {
		return corrupt(key, err.Error())
	}
	return nil
}

// openPayload checks value, read from under key, and returns its payload, a
// part of value.
func openPayload(key, value []byte) ([]byte, error) {
	if len(value) < headerSize || value[0] != valueVersion ||
		binary.BigEndian.Uint64(value[1:]) != valueDigest(key, value[headerSize:]) {
		return nil, corrupt(key, "digest differs")
	}
	return value[headerSize:], nil
}

// corrupt names the stored value by the table it is in alone: the rest of its
// key is a client's.
func corrupt(key []byte, what string) error {
	return fmt.Errorf("read table %q of store: %s: %w", key[:min(1, len(key))], what, ErrCorrupt)
}

func valueDigest(key, payload []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.Write(key)
	d.Write(payload)
	return d.Sum64()
}

// The first byte of a key in the store says what is under it.
const (
	tableDue      = 'd' // time, key of what is due then: nothing
	tableMeta     = 'm' // Meta
	tableResource = 'o' // namespace, id: Resource
	tableRecord   = 'r' // namespace, key: Record
	tableDone     = 't' // request id: Done
	tableUnique   = 'u' // namespace, field, value: resource id
)

var metaKey = []byte{tableMeta}

// appendName appends the key of what is called name in a namespace: a record
// or a resource. No namespace has a NUL, so none is another's beginning.
func appendName(b []byte, table byte, namespace, name string) []byte {
	b = append(b, table)
	b = append(b, namespace...)
	b = append(b, 0)
	return append(b, name...)
}

// splitName takes apart what appendName made.
func splitName(key []byte) (namespace, name string, ok bool) {
	for i := 1; i < len(key); i++ {
		if key[i] == 0 {
			return string(key[1:i]), string(key[i+1:]), true
		}
	}
	return "", "", false
}

func appendDoneKey(b, requestID []byte) []byte {
	return append(append(b, tableDone), requestID...)
}

func appendUniqueKey(b []byte, namespace string, u *Unique) []byte {
	b = appendName(b, tableUnique, namespace, u.Field)
	b = append(b, 0)
	return append(b, u.Value...)
}

// appendDueKey appends the key that puts target in the due index. Times are
// never negative, so their bytes sort as they do.
func appendDueKey(b []byte, at int64, target []byte) []byte {
	b = append(b, tableDue)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	return append(b, target...)
}

// splitDueKey takes apart what appendDueKey made. target is part of key.
func splitDueKey(key []byte) (at int64, target []byte, ok bool) {
	if len(key) < 1+8+2 {
		return 0, nil, false
	}
	return int64(binary.BigEndian.Uint64(key[1:])), key[9:], true
}
