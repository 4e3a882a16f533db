package fsm

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func TestHashIsAboveCompression(t *testing.T) {
	body := bytes.Repeat([]byte("a"), 5000)
	hashes := map[[32]byte]bool{}
	for _, compressed := range []bool{true, false} {
		r := newRig(t)
		r.do(claim("A"))
		r.do(create("B", "id", key("k2")))
		answer := NewResponse(200, nil, body)
		if !compressed {
			answer.Body, answer.Encoding = body, BodyEncoding_IDENTITY
		}
		r.do(command(Kind_COMPLETE, "c", []change{fenced(1), func(c *Command) { c.Response = answer }}))
		r.do(create("C", "id2", key("k3"), func(c *Command) { c.Response = answer }))
		hashes[r.hash()] = true
	}
	if len(hashes) != 1 {
		t.Error("the same body, stored in two ways, has two hashes")
	}
}

func TestHashTakesABodyThatCannotBeDecompressed(t *testing.T) {
	r := newRig(t)
	r.do(claim("A"))
	c := complete(1, "x")
	c.Response.Encoding, c.Response.Body = BodyEncoding_ZSTD, []byte("no zstd")
	if o := r.do(c); o.Code != Code_OK {
		t.Fatalf("the outcome is %s", brief(o))
	}
	r.hash()
}

func TestHashLeavesOutWhatIsRaftsAlone(t *testing.T) {
	r := newRig(t)
	before := r.hash()
	if _, err := r.Apply([]LogEntry{{Index: 50, Term: 9, Configuration: []byte("c")}}); err != nil {
		t.Fatal(err)
	}
	if r.hash() != before {
		t.Error("the hash depends on raft's configuration, index or term")
	}
}

// TestHashCoversEveryField changes one field after the other. Whoever adds a
// field must hash it, or say here why not.
func TestHashCoversEveryField(t *testing.T) {
	leftOut := map[protoreflect.FullName]bool{
		"onced.fsm.v1.Meta.applied_index":       true, // raft's
		"onced.fsm.v1.Meta.applied_term":        true,
		"onced.fsm.v1.Meta.configuration":       true,
		"onced.fsm.v1.Meta.configuration_index": true,
		"onced.fsm.v1.Outcome.record":           true, // never remembered
		"onced.fsm.v1.Outcome.repeated":         true,
		"onced.fsm.v1.Outcome.reason":           true,
		"onced.fsm.v1.Outcome.count":            true,
	}
	for _, test := range []struct {
		key  []byte
		make func() (root message, part proto.Message)
	}{
		{metaKey, func() (message, proto.Message) { x := &Meta{}; return x, x }},
		{metaKey, func() (message, proto.Message) {
			x := &Meta{Members: []*Member{node("n1", "a", 'A')}}
			return x, x.Members[0]
		}},
		{claimedKey, func() (message, proto.Message) { x := completedRecord(); return x, x }},
		{claimedKey, func() (message, proto.Message) { x := completedRecord(); return x, x.Response }},
		{claimedKey, func() (message, proto.Message) { x := completedRecord(); return x, x.Response.Headers[0] }},
		{resourceKey, func() (message, proto.Message) { x := &Resource{Body: []byte("body")}; return x, x }},
		{doneKey, func() (message, proto.Message) { x := &Done{Outcome: &Outcome{Code: Code_OK}}; return x, x }},
		{doneKey, func() (message, proto.Message) { x := &Done{Outcome: &Outcome{Code: Code_OK}}; return x, x.Outcome }},
	} {
		root, part := test.make()
		before := hashOf(t, test.key, root)
		fields := part.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			root, part := test.make()
			part.ProtoReflect().Set(f, other(part.ProtoReflect(), f))
			if changed := hashOf(t, test.key, root) != before; changed == leftOut[f.FullName()] {
				t.Errorf("the hash changes with %s: %t", f.FullName(), changed)
			}
		}
	}
}

func completedRecord() *Record {
	return &Record{State: State_COMPLETED, Response: response(200, "body")}
}

// other returns a value that f does not have in m.
func other(m protoreflect.Message, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch {
	case f.IsList():
		list := m.NewField(f).List()
		for range m.Get(f).List().Len() + 1 {
			list.AppendMutable()
		}
		return protoreflect.ValueOfList(list)
	case f.Kind() == protoreflect.MessageKind:
		if m.Has(f) {
			return m.NewField(f)
		}
		return protoreflect.ValueOfMessage(m.NewField(f).Message())
	case f.Kind() == protoreflect.EnumKind:
		if m.Get(f).Enum() == 1 {
			return protoreflect.ValueOfEnum(2)
		}
		return protoreflect.ValueOfEnum(1)
	case f.Kind() == protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!m.Get(f).Bool())
	case f.Kind() == protoreflect.StringKind:
		return protoreflect.ValueOfString(m.Get(f).String() + "x")
	case f.Kind() == protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(append(bytes.Clone(m.Get(f).Bytes()), 'x'))
	case f.Kind() == protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(m.Get(f).Uint() + 1)
	case f.Kind() == protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(m.Get(f).Uint()) + 1)
	case f.Kind() == protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(m.Get(f).Int()) + 1)
	default:
		return protoreflect.ValueOfInt64(m.Get(f).Int() + 1)
	}
}

// hashOf returns the hash of a state that is root alone.
func hashOf(t *testing.T, key []byte, root message) [32]byte {
	t.Helper()
	store := NewMem()
	m, err := Open(store)
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, key, root)
	h, err := m.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}
