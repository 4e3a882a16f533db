package fsm

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
)

func TestPresenceNeverSaysNoForYes(t *testing.T) {
	const keys = 200
	m, err := Open(NewMem())
	if err != nil {
		t.Fatal(err)
	}
	p := &m.presence
	if p.lacks([]byte("anything")) {
		t.Error("it knows what is not there before Warm")
	}
	if err := m.Warm(nil)(); err != nil {
		t.Fatal(err)
	}
	stored := map[int]bool{}
	for range 10_000 {
		k := rand.IntN(keys)
		key := fmt.Append(nil, "key", k)
		if stored[k] {
			p.remove([]uint64{xxhash.Sum64(key)})
		} else {
			p.add(key)
		}
		stored[k] = !stored[k]
		for k, is := range stored {
			if p.lacks(fmt.Append(nil, "key", k)) == is {
				t.Fatalf("key %d: stored %v, lacks says the same", k, is)
			}
		}
	}
}

func TestPresenceOutlivesKeysWhoseHashesCollide(t *testing.T) {
	var p presence
	p.begin()
	p.end(true)
	key := []byte("k")
	h := xxhash.Sum64(key)
	for range 3 { // as three keys of one hash
		p.add(key)
	}
	for left := 2; left >= 0; left-- {
		p.remove([]uint64{h})
		if p.lacks(key) != (left == 0) {
			t.Errorf("with %d keys of that hash left, lacks says %v", left, p.lacks(key))
		}
	}
	if len(p.stored.more) != 0 {
		t.Errorf("%d hashes are left over", len(p.stored.more))
	}
}

func TestAWarmMachineAnswersAsAColdOne(t *testing.T) {
	stores := [2]*Mem{NewMem(), NewMem()}
	var machines [2]*Machine
	reopen := func() {
		for i, s := range stores {
			m, err := Open(s)
			if err != nil {
				t.Fatal(err)
			}
			machines[i] = m
		}
		if err := machines[1].Warm(nil)(); err != nil {
			t.Fatal(err)
		}
	}
	reopen()
	index, now := uint64(0), int64(1_000_000)
	apply := func(c *Command) {
		t.Helper()
		b, err := c.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		index++
		entry := LogEntry{Index: index, Term: 1, Data: EncodeEntry(now, [][]byte{b})}
		var got [2]string
		for i, m := range machines {
			a, err := m.Apply([]LogEntry{entry})
			if err != nil {
				t.Fatal(err)
			}
			got[i] = a.Outcomes[0][0].String()
		}
		if got[0] != got[1] {
			t.Fatalf("entry %d, %v: cold %s, warm %s", index, c.Kind, got[0], got[1])
		}
	}
	apply(&Command{Kind: Kind_BIND, ClusterId: make([]byte, 16), Members: []*Member{{Id: "a", RaftAddr: "h:1", Incarnation: []byte("0123456789abcdef")}}})
	kinds := []Kind{Kind_CLAIM, Kind_CLAIM, Kind_COMPLETE, Kind_RELEASE, Kind_FORGET, Kind_CREATE, Kind_EXPIRE, Kind_READ}
	for n := range 5_000 {
		now += rand.Int64N(400)
		kind := kinds[rand.IntN(len(kinds))]
		c := &Command{
			Kind: kind, RequestId: fmt.Appendf(nil, "%016d", n), Namespace: "ns", Key: fmt.Sprint("k", rand.IntN(12)),
			Surface: Surface_SURFACE_KEYS, Lease: 1000, Ttl: 2000, Force: true, Limit: 3,
		}
		if meta := machines[0].Meta(); meta.Fence > 0 {
			c.Fence = meta.Fence - rand.Uint64N(min(meta.Fence, 12))
		}
		switch kind {
		case Kind_CREATE:
			c.Surface, c.ResourceId = Surface_SURFACE_CREATE, fmt.Sprint("id", rand.IntN(50))
			c.Uniques = []*Unique{{Field: "f", Value: fmt.Appendf(nil, "%032d", rand.IntN(80))}}
			fallthrough
		case Kind_COMPLETE:
			c.Response = NewResponse(201, nil, []byte("body"))
		}
		apply(c)
		if n%1000 == 999 {
			reopen()
		}
	}
	var hashes [2][32]byte
	for i, m := range machines {
		var err error
		if hashes[i], err = m.Hash(); err != nil {
			t.Fatal(err)
		}
	}
	if hashes[0] != hashes[1] {
		t.Error("the states differ")
	}
}

// slowStore has its scans stand still behind the first key.
type slowStore struct {
	Store
	goOn chan struct{}
}

func (s slowStore) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	first := true
	return s.Store.Scan(from, to, func(key, value []byte) bool {
		if !first {
			<-s.goOn
		}
		first = false
		return visit(key, value)
	})
}

func TestAMachineKnowsWhatWasAppliedWhileItWarmed(t *testing.T) {
	r := newRig(t)
	store := slowStore{r.store, make(chan struct{})}
	r.store = store
	close(store.goOn)
	next := 0
	claim := func(key int) {
		next++
		r.do(&Command{
			Kind: Kind_CLAIM, RequestId: fmt.Appendf(nil, "%016d", next), Namespace: "ns", Key: fmt.Sprint(key),
			Surface: Surface_SURFACE_KEYS, Lease: 1000, Ttl: 2000,
		})
	}
	release := func(key int) {
		rec, err := r.Lookup("ns", fmt.Sprint(key))
		if err != nil || rec == nil {
			t.Fatalf("look up key %d: %v, %v", key, rec, err)
		}
		r.do(&Command{Kind: Kind_RELEASE, RequestId: fmt.Appendf(nil, "r%015d", next), Namespace: "ns", Key: fmt.Sprint(key), Fence: rec.Fence})
	}
	for key := range 300 {
		claim(key)
	}
	store.goOn = make(chan struct{})
	r.store = store
	r.open()
	wait := r.Warm(nil)
	for key := range 300 {
		if key%3 > 0 {
			release(key)
		}
		if key%3 > 1 {
			claim(key)
		}
		claim(1000 + key)
	}
	if r.presence.lacks([]byte("anything")) {
		t.Error("it knows what is not there before it is warm")
	}
	close(store.goOn)
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	for key := range 1300 {
		stored := key < 300 && key%3 != 1 || key >= 1000
		if lacks := r.presence.lacks(appendName(nil, tableRecord, "ns", fmt.Sprint(key))); lacks == stored {
			t.Errorf("key %d: stored %v, lacks %v", key, stored, lacks)
		}
	}
}

func TestWarmingThatIsStoppedKnowsNothing(t *testing.T) {
	r := newRig(t)
	store := slowStore{r.store, make(chan struct{})}
	for i := range 2 * warmStride {
		b := r.store.Batch()
		_ = b.Set(fmt.Append([]byte{tableUnique}, i), nil)
		_ = b.Commit()
	}
	r.store = store
	r.open()
	stop := make(chan struct{})
	wait := r.Warm(stop)
	close(stop)
	close(store.goOn)
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r.presence.phase != cold || r.presence.lacks([]byte("anything")) {
		t.Error("it takes what it has read for all")
	}
}
