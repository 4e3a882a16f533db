package fsm

import (
	"bytes"
	"testing"
)

func TestReseatedStateBelongsToNoClusterAndKeepsTheRest(t *testing.T) {
	r := newRig(t)
	r.do(create("A", "id-1", key("made"), unique("email", "a@example.com")))
	granted := r.do(claim("B", key("held")))
	r.do(&Command{Kind: Kind_FEATURE_LEVEL, Level: 1})
	r.index++
	if _, err := r.Apply([]LogEntry{{Index: r.index, Term: 3, Configuration: []byte("servers")}}); err != nil {
		t.Fatal(err)
	}
	was, before := r.Meta(), contents(t, r.store)
	if err := r.Reseat(); err != nil {
		t.Fatal(err)
	}
	want := &Meta{
		Time: was.Time, Fence: was.Fence + fenceLeap, FeatureLevel: was.FeatureLevel,
		Claimed: was.Claimed, Completed: was.Completed, Unknown: was.Unknown, Resources: was.Resources,
	}
	check := func() {
		t.Helper()
		got, err := r.Meta().MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, encode(t, want)) {
			t.Errorf("meta is %v, want %v", r.Meta(), want)
		}
	}
	check()
	r.open()
	check()
	for k, v := range contents(t, r.store) {
		if k != string(metaKey) && before[k] != v {
			t.Errorf("what is stored under table %q was changed", k[:1])
		}
		delete(before, k)
	}
	if len(before) > 0 {
		t.Errorf("%d entries of the store are gone", len(before))
	}

	// The new cluster's log begins at its beginning.
	r.index = 0
	if o := r.do(claim("C", key("new"))); o.Code != Code_NOT_BOUND {
		t.Errorf("before its binding it answers %s", brief(o))
	}
	r.do(&Command{Kind: Kind_BIND, ClusterId: bytes.Repeat([]byte{7}, 16), Members: []*Member{node("m1", "x", 'X')}})
	if o := r.do(create("A", "id-1", key("made"), unique("email", "a@example.com"))); o.Code != Code_CREATED {
		t.Errorf("the create again: %s", brief(o))
	}
	if o := r.do(claim("C", key("new"))); o.Code != Code_GRANTED || o.Record.Fence <= granted.Record.Fence+fenceLeap {
		t.Errorf("a new claim: %s", brief(o))
	}
	late := complete(granted.Record.Fence, "x")
	key("held")(late)
	if o := r.do(late); o.Code != Code_OK {
		t.Errorf("the completion of a claim that was backed up: %s", brief(o))
	}
}

func TestReseatRefusesToRunOutOfFences(t *testing.T) {
	r := newRig(t)
	for range maxFence / fenceLeap {
		if err := r.Reseat(); err != nil {
			t.Fatal(err)
		}
	}
	before := r.hash()
	if err := r.Reseat(); err == nil {
		t.Error("the fence may pass 2^53")
	}
	if r.hash() != before {
		t.Error("the refusal changed the state")
	}
}

func contents(t *testing.T, store Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := store.Scan(nil, nil, func(key, value []byte) bool {
		all[string(key)] = string(value)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
