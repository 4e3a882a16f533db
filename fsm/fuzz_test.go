package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// FuzzEntry: whatever bytes come as a log entry, with their digest set right so
// that they are looked into, Apply refuses them as undecodable and changes
// nothing, or applies them and stays whole.
func FuzzEntry(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(EncodeEntry(start, nil))
	f.Add(entry(f, start, goldenCommands()...))
	f.Add(entry(f, start, bindCommand(), claim("A"), complete(1, "x"), create("B", "id", key("k2")), expire(9)))
	f.Add(append(EncodeEntry(start, nil), unknown...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := CheckEntry(data); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("CheckEntry says %v", err)
		}
		if len(data) < headerSize {
			return
		}
		data = bytes.Clone(data)
		data[0] = entryVersion
		binary.BigEndian.PutUint64(data[1:], xxhash.Sum64(data[headerSize:]))
		for _, r := range []*rig{newUnboundRig(t), furnished(t)} {
			before := r.hash()
			foreseen, unforeseen := Foresee(r.Meta(), data)
			applied, err := r.Apply([]LogEntry{{Index: 1000, Term: 1, Data: data}})
			if err != nil {
				if !errors.Is(err, ErrUndecodable) || applied.Outcomes != nil || r.hash() != before {
					t.Fatalf("Apply says %v", err)
				}
				continue
			}
			if m := r.Meta(); unforeseen != nil || foreseen.Time != m.Time || !slices.EqualFunc(foreseen.Members, m.Members, sameMember) {
				t.Errorf("%v was foreseen (%v), and came to be %v", foreseen, unforeseen, m)
			}
			for _, o := range applied.Outcomes[0] {
				if o.Code == Code_CODE_NONE {
					t.Error("an outcome has no code")
				}
			}
			r.hash()
			r.recount()
		}
	})
}

// FuzzCommand: what decodes can be encoded again and decodes to the same, and
// decoding takes no more memory than the input deserves.
func FuzzCommand(f *testing.F) {
	for _, c := range goldenCommands() {
		f.Add(encode(f, c))
	}
	f.Add(bytes.Repeat([]byte{0x8a, 0x01, 0x00}, 1000)) // empty uniques
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := decodeCommand(data)
		runtime.ReadMemStats(&after)
		// An element takes two bytes at least, and a struct of some 100.
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+200*len(data)); got > most {
			t.Errorf("%d bytes decode into %d", len(data), got)
		}
		if err != nil {
			if !errors.Is(err, ErrUndecodable) {
				t.Errorf("decodeCommand says %v", err)
			}
			return
		}
		again, err := decodeCommand(encode(t, c))
		if err != nil || !bytes.Equal(encode(t, again), encode(t, c)) {
			t.Errorf("%v comes back as %v, %v", c, again, err)
		}
	})
}

// FuzzValue: whatever is stored under a key, reading it gives a value or says
// that it is corrupt.
func FuzzValue(f *testing.F) {
	tables := [][]byte{metaKey, createdKey, resourceKey, doneKey, uniqueKey}
	r := furnished(f)
	for i, key := range tables {
		value, err := r.store.Get(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), true, value)
		f.Add(byte(i), false, value[:len(value)-1])
	}
	f.Fuzz(func(t *testing.T, table byte, sealed bool, value []byte) {
		at := tables[int(table)%len(tables)]
		value = bytes.Clone(value)
		if sealed && len(value) >= headerSize {
			seal(value, at)
		}
		r := furnished(t)
		set(t, r.store, at, append([]byte{}, value...))
		if _, err := Open(r.store); err != nil && !errors.Is(err, ErrCorrupt) && at[0] != tableMeta {
			t.Errorf("Open says %v", err)
		}
		for name, read := range map[string]func() error{
			"Hash":      func() error { _, err := r.Hash(); return err },
			"Verify":    r.Verify,
			"Lookup":    func() error { _, err := r.Lookup("ns", "created"); return err },
			"List":      func() error { _, _, err := r.List("ns", ListQuery{Limit: 9}); return err },
			"Resources": func() error { _, _, err := r.Resources("ns", "", 9); return err },
			"Apply": func() error {
				_, err := r.Apply([]LogEntry{{Index: 1000, Term: 1, Data: entry(t, start+doneTTL,
					forget("F", 3), create("Z", "id9", unique("email", "x"), key("created")), expire(9))}})
				return err
			},
		} {
			if err := read(); err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s says %v", name, err)
			}
		}
	})
}

// FuzzPlain: a body unfolds to its size or not at all.
func FuzzPlain(f *testing.F) {
	z := NewResponse(200, nil, bytes.Repeat([]byte("onced"), 1000))
	f.Add(z.Body, z.Size)
	f.Add(z.Body, int64(1))
	f.Add([]byte("no zstd"), int64(MaxBody+1))
	f.Fuzz(func(t *testing.T, body []byte, size int64) {
		if size > 1<<20 {
			size %= 1 << 20
		}
		b, err := (&Response{Encoding: BodyEncoding_ZSTD, Body: body, Size: size}).Plain()
		if err == nil && int64(len(b)) != size {
			t.Errorf("%d bytes unfold, not %d", len(b), size)
		}
	})
}
