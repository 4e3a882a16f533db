package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// Hash returns the SHA-256 over the decoded state: equal on every node that
// has applied the same entries, however it stores them. What raft alone is
// about is left out: the applied index and term, and the configuration.
//
// It reads everything, and reports ErrCorrupt for whatever is not as it was
// written.
func (m *Machine) Hash() ([32]byte, error) {
	var (
		d      = digest{sha256.New()}
		failed error
	)
	err := m.store.Scan(nil, nil, func(key, value []byte) bool {
		failed = d.pair(key, value)
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return [32]byte{}, fmt.Errorf("hash state: %w", err)
	}
	return [32]byte(d.Sum(nil)), nil
}

// digest takes fields in a fixed order: numbers as 8 bytes, big endian, and
// bytes behind their length.
type digest struct{ hash.Hash }

// pair adds a key and its decoded value.
func (d digest) pair(key, value []byte) error {
	decoded, err := openStored(key, value)
	if err != nil {
		return err
	}
	d.bytes(key)
	switch x := decoded.(type) {
	case *Meta:
		d.meta(x)
	case *Record:
		d.record(x)
	case *Resource:
		d.resource(x)
	case *Done:
		d.done(x)
	case []byte:
		d.bytes(x)
	}
	return nil
}

func (d digest) meta(x *Meta) {
	d.number(x.Time)
	d.number(int64(x.Fence))
	d.number(int64(x.FeatureLevel))
	d.bytes(x.ClusterId)
	d.number(int64(len(x.Members)))
	for _, m := range x.Members {
		d.text(m.Id)
		d.text(m.RaftAddr)
		d.bytes(m.Incarnation)
	}
	d.number(x.Claimed)
	d.number(x.Completed)
	d.number(x.Unknown)
	d.number(x.Resources)
}

func (d digest) record(x *Record) {
	d.number(int64(x.State))
	d.number(int64(x.Surface))
	d.bytes(x.Fingerprint)
	d.number(int64(x.Fence))
	d.number(int64(x.Attempt))
	d.text(x.AttemptId)
	d.bytes(x.RequestId)
	d.number(int64(x.OnLapse))
	d.number(x.Ttl)
	d.number(x.Lease)
	d.number(x.CreatedAt)
	d.number(x.LeaseExpiresAt)
	d.number(x.CompletedAt)
	d.number(x.ExpiresAt)
	d.text(x.ResourceId)
	d.flag(x.Failed)
	d.flag(x.Answered)
	d.flag(x.Response != nil)
	if x.Response != nil {
		d.response(x.Response, x.ResourceId == "")
	}
}

func (d digest) response(x *Response, hasBody bool) {
	d.number(int64(x.Status))
	d.number(int64(len(x.Headers)))
	for _, h := range x.Headers {
		d.text(h.Name)
		d.text(h.Value)
	}
	d.number(x.Size)
	d.bytes(x.Digest)
	d.flag(x.BodyDropped)
	if hasBody {
		d.body(x.Plain, x.Body)
	}
}

func (d digest) resource(x *Resource) {
	d.body(x.Plain, x.Body)
	d.number(x.Size)
	d.number(x.CreatedAt)
	d.text(x.Key)
}

func (d digest) done(x *Done) {
	d.number(int64(x.Outcome.GetCode()))
	d.number(x.Outcome.GetTime())
	d.number(x.ExpiresAt)
}

// body adds what plain makes of stored. The machine takes bodies as the edge
// gives them: one that cannot be decompressed counts as it is.
func (d digest) body(plain func() ([]byte, error), stored []byte) {
	b, err := plain()
	d.flag(err == nil)
	if err != nil {
		b = stored
	}
	d.bytes(b)
}

func (d digest) number(n int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.Write(b[:])
}

func (d digest) bytes(b []byte) {
	d.number(int64(len(b)))
	d.Write(b)
}

func (d digest) text(s string) { d.bytes([]byte(s)) }

func (d digest) flag(b bool) {
	if b {
		d.number(1)
	} else {
		d.number(0)
	}
}
