package fsm

import (
	"bytes"
	"errors"
	"testing"
)

// set writes value under key, past the machine.
func set(t testing.TB, store Store, key, value []byte) {
	t.Helper()
	b := store.Batch()
	err := b.Set(key, value)
	if value == nil {
		err = b.Delete(key)
	}
	if err := errors.Join(err, b.Commit()); err != nil {
		t.Fatal(err)
	}
}

// put writes m under key as the machine would.
func put(t testing.TB, store Store, key []byte, m message) {
	t.Helper()
	value, err := appendValue(nil, key, m)
	if err != nil {
		t.Fatal(err)
	}
	set(t, store, key, value)
}

// The keys of what furnished stores.
var (
	createdKey  = appendName(nil, tableRecord, "ns", "created")
	claimedKey  = appendName(nil, tableRecord, "ns", "k")
	resourceKey = appendName(nil, tableResource, "ns", "id")
	uniqueKey   = appendUniqueKey(nil, "ns", create("", "", unique("email", "x")).Uniques[0])
	doneKey     = appendDoneKey(nil, requestID("F"))
)

// furnished returns a machine with something in every table.
func furnished(t testing.TB) *rig {
	r := newRig(t)
	r.do(claim("A", block))
	r.do(create("B", "id", key("created"), unique("email", "x")))
	r.do(claim("C", key("gone")))
	r.do(forget("F", 3, key("gone"), forced))
	return r
}

func TestAFlippedBitIsFoundWhereverItIsRead(t *testing.T) {
	applies := func(at int64, c *Command) func(*rig) error {
		return func(r *rig) error {
			_, err := r.Apply([]LogEntry{{Index: 100, Term: 1, Data: entry(r, start+at, c)}})
			return err
		}
	}
	lookup := func(r *rig) error { _, err := r.Lookup("ns", "created"); return err }
	list := func(r *rig) error { _, _, err := r.List("ns", ListQuery{Limit: 10}); return err }
	for _, test := range []struct {
		name string
		key  []byte
		read func(*rig) error
	}{
		{"record, by CLAIM", claimedKey, applies(0, claim("Z"))},
		{"record, by RENEW", claimedKey, applies(0, renew(1, 500))},
		{"record, by COMPLETE", claimedKey, applies(0, complete(1, "x"))},
		{"record, by RELEASE", claimedKey, applies(0, release(1))},
		{"record, by FAIL", claimedKey, applies(0, fail(1))},
		{"record, by RESOLVE", claimedKey, applies(0, resolve("R", 1, retrying))},
		{"record, by FORGET", claimedKey, applies(0, forget("G", 1))},
		{"record, by READ", claimedKey, applies(0, read())},
		{"record, by EXPIRE", claimedKey, applies(1000, expire(9))},
		{"record, by CREATE", createdKey, applies(0, create("Z", "id2", key("created")))},
		{"record, by Lookup", createdKey, lookup},
		{"record, by List", createdKey, list},
		{"resource, by CREATE", resourceKey, applies(0, create("Z", "id", key("k2")))},
		{"resource, by replay", resourceKey, applies(0, create("Z", "id2", key("created")))},
		{"resource, by READ", resourceKey, applies(0, command(Kind_READ, "", []change{key("created")}))},
		{"resource, by Lookup", resourceKey, lookup},
		{"resource, by List", resourceKey, list},
		{"resource, by Resource", resourceKey, func(r *rig) error { _, err := r.Resource("ns", "id"); return err }},
		{"resource, by Resources", resourceKey, func(r *rig) error { _, _, err := r.Resources("ns", "", 9); return err }},
		{"unique value, by CREATE", uniqueKey, applies(0, create("Z", "id2", key("k2"), unique("email", "x")))},
		{"memory, by FORGET", doneKey, applies(0, forget("F", 3, key("gone")))},
		{"memory, by EXPIRE", doneKey, applies(doneTTL, expire(9))},
		{"meta, by Open", metaKey, func(r *rig) error { _, err := Open(r.store); return err }},
		{"meta, by Hash", metaKey, hashes},
		{"record, by Hash", createdKey, hashes},
		{"resource, by Hash", resourceKey, hashes},
		{"unique value, by Hash", uniqueKey, hashes},
		{"memory, by Hash", doneKey, hashes},
		{"meta, by Verify", metaKey, verifies},
		{"record, by Verify", createdKey, verifies},
		{"resource, by Verify", resourceKey, verifies},
		{"unique value, by Verify", uniqueKey, verifies},
		{"memory, by Verify", doneKey, verifies},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := furnished(t)
			good, err := r.store.Get(test.key)
			if err != nil || good == nil {
				t.Fatalf("there is %q, %v", good, err)
			}
			for i := range len(good) * 8 {
				bad := bytes.Clone(good)
				bad[i/8] ^= 1 << (i % 8)
				set(t, r.store, test.key, bad)
				if err := test.read(r); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("with bit %d flipped it says %v", i, err)
				}
			}
			set(t, r.store, test.key, good[:4])
			if err := test.read(r); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut short it says %v", err)
			}
			set(t, r.store, test.key, good)
			if err := test.read(r); err != nil {
				t.Fatalf("mended it says %v", err)
			}
		})
	}
}

func hashes(r *rig) error { _, err := r.Hash(); return err }

func verifies(r *rig) error { return r.Verify() }

func TestAStoreThatContradictsItselfIsCorrupt(t *testing.T) {
	sweeps := func(r *rig) error {
		_, err := r.Apply([]LogEntry{{Index: 100, Term: 1, Data: entry(r, start+1000, expire(9))}})
		return err
	}
	looks := func(r *rig) error { _, err := r.Lookup("ns", "created"); return err }
	due := func(at int64, target string) []byte { return appendDueKey(nil, start+at, []byte(target)) }
	for _, test := range []struct {
		name       string
		key, value []byte
		read       func(*rig) error
	}{
		{"another record's value under a key", createdKey, swapped, looks},
		{"a resource that is lost", resourceKey, nil, looks},
		{"a meta that is lost", metaKey, nil, func(r *rig) error { _, err := Open(r.store); return err }},
		{"a table that does not exist", []byte("x"), []byte{}, hashes},
		{"a table that does not exist, by Verify", []byte("x"), []byte{}, verifies},
		{"a due record that does not exist", due(0, "rns\x00nobody"), []byte{}, sweeps},
		{"a due record that is due at another time", due(0, "rns\x00k"), []byte{}, sweeps},
		{"a due record without a name", due(0, "rn"), []byte{}, sweeps},
		{"a due memory that does not exist", due(0, "tnone"), []byte{}, sweeps},
		{"a due memory that ends at another time", due(0, string(doneKey)), []byte{}, sweeps},
		{"a due thing of another table", due(0, "mx"), []byte{}, sweeps},
		{"a due key cut short", due(0, ""), []byte{}, sweeps},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := furnished(t)
			value := test.value
			if bytes.Equal(value, swapped) {
				var err error
				if value, err = r.store.Get(claimedKey); err != nil {
					t.Fatal(err)
				}
			}
			set(t, r.store, test.key, value)
			if err := test.read(r); !errors.Is(err, ErrCorrupt) {
				t.Errorf("it says %v", err)
			}
		})
	}
}

// swapped stands for the value under claimedKey.
var swapped = []byte("swapped")

func TestARecordInNoStateIsCorrupt(t *testing.T) {
	for _, state := range []State{State_ABSENT, State_UNKNOWN + 1, -1} {
		r := furnished(t)
		put(t, r.store, claimedKey, &Record{State: state})
		if _, err := r.Lookup("ns", "k"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("in state %d Lookup says %v", state, err)
		}
	}
}

var errDisk = errors.New("the disk is broken")

// brokenStore fails at its nth call from now, of any kind.
type brokenStore struct {
	Store
	left *int
}

type brokenBatch struct {
	Batch
	left *int
}

func (b brokenStore) Batch() Batch { return brokenBatch{b.Store.Batch(), b.left} }

func (b brokenBatch) fails() bool { *b.left--; return *b.left < 0 }

func (b brokenBatch) Get(key []byte) ([]byte, error) {
	if b.fails() {
		return nil, errDisk
	}
	return b.Batch.Get(key)
}

func (b brokenBatch) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	if b.fails() {
		return errDisk
	}
	return b.Batch.Scan(from, to, visit)
}

func (b brokenBatch) Set(key, value []byte) error {
	if b.fails() {
		return errDisk
	}
	return b.Batch.Set(key, value)
}

func (b brokenBatch) Delete(key []byte) error {
	if b.fails() {
		return errDisk
	}
	return b.Batch.Delete(key)
}

func (b brokenBatch) Commit() error {
	if b.fails() {
		return errDisk
	}
	return b.Batch.Commit()
}

func TestAStoreThatFailsAtAnyCallLeavesNothingBehind(t *testing.T) {
	r := furnished(t)
	before, meta := r.hash(), r.Meta()
	left := 0
	m, err := Open(brokenStore{r.store, &left})
	if err != nil {
		t.Fatal(err)
	}
	data := entry(t, start+1000,
		claim("1", key("new")), renew(4, 2000), complete(1, "done"), create("2", "id2", key("k2"), unique("email", "y")),
		create("3", "id3", key("k3"), unique("email", "y")), create("4", "id4", key("k2")), forget("5", 4, key("new"), forced),
		forget("5", 4, key("new")), claim("6", key("k6"), leased(100)), release(7), read(), expire(9))
	for calls := 0; ; calls++ {
		if calls > 1000 {
			t.Fatal("it never succeeds")
		}
		left = calls
		applied, err := m.Apply([]LogEntry{{Index: 100, Term: 1, Data: data}})
		if err == nil {
			if calls < 20 {
				t.Errorf("it succeeded with %d calls", calls)
			}
			return
		}
		if !errors.Is(err, errDisk) || applied.Outcomes != nil {
			t.Fatalf("at call %d Apply gives %v, %v", calls, applied, err)
		}
		if r.hash() != before || !bytes.Equal(encode(t, m.Meta()), encode(t, meta)) || m.sweptTo.Load() != nil {
			t.Fatalf("call %d failed and something took effect", calls)
		}
	}
}
