package fsm

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
)

func TestExpire(t *testing.T) {
	for _, s := range []script{
		{"a lease that ends at this very instant lapses", []step{
			granted1(block), {999, expire(9), "OK"}, {1000, expire(9), "OK 1"}, {1000, read(), "OK unknown fence=1 attempt=1 ends@11000"},
		}},
		{"a lapsed record is kept for its ttl from then", []step{
			granted1(block), {5000, expire(9), "OK 1"}, {14_999, expire(9), "OK"}, {15_000, expire(9), "OK 1"}, {15_000, expire(9), "OK"},
		}},
		{"a renewed lease lapses at its new end alone", []step{
			granted1(), {500, renew(1, 1000), "OK claimed fence=1 attempt=1 lease@1500"}, {1499, expire(9), "OK"}, {1500, expire(9), "OK 1"},
		}},
		{"retention that ends at this very instant is swept", []step{
			granted1(), completed1(1), {10_000, expire(9), "OK"}, {10_001, expire(9), "OK 1"}, {10_001, expire(9), "OK"},
		}},
		{"a memory of five minutes is swept", []step{
			granted1(), completed1(1), {2, forget("F", 1), "OK"}, {300_001, expire(9), "OK"}, {300_002, expire(9), "OK 1"},
		}},
		{"a limit of none touches nothing", []step{granted1(), {1000, expire(0), "OK"}, {1000, expire(9), "OK 1"}}},
	} {
		s.run(t)
	}
}

func TestExpireTouchesAtMostItsLimitEarliestFirst(t *testing.T) {
	r := newRig(t)
	for i, lease := range []int64{300, 100, 200, 100, 300} {
		r.do(claim(fmt.Sprint("A", i), key(fmt.Sprint("k", i)), leased(lease)))
	}
	var got [][]Key
	for range 4 {
		if n := r.at(1000).do(expire(2)).Count; int(n) != len(r.last.Changed) {
			t.Errorf("the outcome counts %d, changed are %v", n, r.last.Changed)
		}
		got = append(got, r.last.Changed)
	}
	want := [][]Key{{{"ns", "k1"}, {"ns", "k3"}}, {{"ns", "k2"}, {"ns", "k0"}}, {{"ns", "k4"}}, nil}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the sweeps touched\n%v, want\n%v", got, want)
	}
	r.recount()
}

func TestDue(t *testing.T) {
	r := newRig(t)
	const never = 0
	check := func(ms, want int64) {
		t.Helper()
		since, due, err := r.Due(start + ms)
		if due != (want != never) || due && since != start+want || err != nil {
			t.Errorf("Due at %d is %d, %t, %v", ms, since-start, due, err)
		}
	}
	check(1<<40, never)
	r.do(claim("A"))
	check(999, never)
	check(1000, 1000)
	check(5000, 1000)
	r.at(1000).do(expire(1))
	check(1000, never)
	check(10_999, never)
	check(11_000, 11_000)
	r.open()
	check(10_999, never)
	check(11_000, 11_000)
	check(0, never)
}

func TestSweepsBeginWhereTheLastEnded(t *testing.T) {
	r := newRig(t)
	for i := range 4 { // the second and the third end together
		r.do(claim(fmt.Sprint("A", i), key(fmt.Sprint("k", i)), leased(int64(100+100*((i+1)/2)))))
	}
	r.at(1000).do(expire(2))
	if got, last := *r.sweptTo.Load(), dueAt(start+200, "k1"); bytes.Compare(got, last) <= 0 || bytes.Compare(got, dueAt(start+200, "k2")) > 0 {
		t.Errorf("a sweep cut short ended with %q, and the next begins at %q", last, got)
	}
	r.do(expire(9))
	if got := *r.sweptTo.Load(); !bytes.Equal(got, appendDueKey(nil, start+1000, nil)) {
		t.Errorf("after a whole sweep the next begins at %q", got)
	}
	if r.do(expire(9)).Count != 0 {
		t.Error("the last sweep was not whole")
	}
}

func TestLooksForWhatIsDueBeginWhereTheLastEnded(t *testing.T) {
	r := newRig(t)
	check := func(ms int64, wantDue bool, wantFrom []byte) {
		t.Helper()
		if _, due, err := r.Due(start + ms); due != wantDue || err != nil {
			t.Errorf("Due at %d is %t, %v", ms, due, err)
		}
		if from := r.lookFrom(); !bytes.Equal(from, wantFrom) {
			t.Errorf("after a look at %d the next begins at %q, want %q", ms, from, wantFrom)
		}
	}
	r.do(claim("A", leased(100)))
	r.at(50).do(complete(1, "done"))
	check(5000, false, appendDueKey(nil, start+50, nil)) // a claim may come that ends before 5000
	r.do(claim("A", key("k2"), leased(100)))
	check(40, false, appendDueKey(nil, start+50, nil)) // by a clock that is behind
	check(5000, true, appendDueKey(nil, start+50, nil))
	r.at(200).do(claim("A", key("k3"), leased(100)))
	check(5000, true, dueAt(start+150, "k2"))
	r.do(expire(9))
	check(5000, true, appendDueKey(nil, start+200, nil))
}

func TestWhatIsDueBeforeWhereTheLastSweepEndedIsSwept(t *testing.T) {
	r := newRig(t)
	r.do(claim("A", key("k2")))
	r.at(1000).do(expire(1))
	tx := &transaction{batch: r.store.Batch(), sweptTo: r.sweptTo.Load(), scratch: new(scratch)}
	if err := tx.setDue(start+999, appendName(nil, tableRecord, "ns", "k1")); err != nil {
		t.Fatal(err)
	}
	if got := *tx.sweptTo; !bytes.Equal(got, dueAt(start+999, "k1")) || bytes.Equal(got, *r.sweptTo.Load()) {
		t.Errorf("the next sweep begins at %q", got)
	}
}

// dueAt is the key in the due index of a record of namespace "ns".
func dueAt(at int64, key string) []byte {
	return appendDueKey(nil, at, appendName(nil, tableRecord, "ns", key))
}

func TestChangedNamesWhoStoppedBeingClaimed(t *testing.T) {
	k := []Key{{"ns", "k"}}
	for _, test := range []struct {
		name   string
		before []step
		c      *Command
		want   []Key
	}{
		{"a grant", nil, claim("A"), nil},
		{"a takeover", []step{granted1(), {at: 1000}}, claim("B"), nil},
		{"a renewal", []step{granted1()}, renew(1, 2000), nil},
		{"a completion", []step{granted1()}, complete(1, "done"), k},
		{"a release", []step{granted1()}, release(1), k},
		{"a failure", []step{granted1()}, fail(1), k},
		{"a lapse that a claim notices", []step{granted1(block), {at: 1000}}, claim("B"), k},
		{"a lapse that a sweep notices", []step{granted1(), {at: 1000}}, expire(1), k},
		{"an end", []step{granted1(), completed1(1), {at: 10_001}}, expire(1), k},
		{"a resolution to retry", []step{granted1(), failed1(1)}, resolve("R", 1, retrying), k},
		{"a forced forgetting", []step{granted1()}, forget("F", 1, forced), k},
		{"a resend", []step{granted1(), completed1(1)}, complete(1, "done"), nil},
		{"a create", nil, create("A", "id1"), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			for _, s := range test.before {
				r.at(s.at)
				if s.c != nil {
					r.do(s.c)
				}
			}
			r.do(test.c)
			if !reflect.DeepEqual(r.last.Changed, test.want) {
				t.Errorf("changed are %v, want %v", r.last.Changed, test.want)
			}
		})
	}
}
