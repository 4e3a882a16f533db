package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestRead(t *testing.T) {
	for _, s := range []script{
		{"an absent key is not found", []step{{0, read(), "NOT_FOUND"}}},
		{"a claim that stands", []step{granted1(), {999, read(), "OK claimed fence=1 attempt=1 lease@1000"}}},
		{"a lapsed one is unknown, which it does not record", []step{
			granted1(), {1000, read(), "OK unknown fence=1 attempt=1 ends@11000"}, {1001, read(), "OK unknown fence=1 attempt=1 ends@11001"},
		}},
		{"a completed one", []step{granted1(), completed1(1), {10_000, read(), "OK completed fence=1 attempt=1 ends@10001 200:done"}}},
		{"an ended one is not found", []step{granted1(), completed1(1), {10_001, read(), "NOT_FOUND"}}},
		{"no key is a place in the log", []step{{0, &Command{Kind: Kind_READ}, "OK"}}},
	} {
		s.run(t)
	}
}

func TestReadWritesNothing(t *testing.T) {
	r := newRig(t)
	r.do(claim("A"))
	r.at(1000).do(&Command{Kind: Kind_READ})
	before := r.hash()
	r.do(read())
	if r.hash() != before {
		t.Error("the state has changed")
	}
}

func TestLookupSeesTheRecordAsOfTheLastEntry(t *testing.T) {
	barrier := &Command{Kind: Kind_READ}
	r := newRig(t)
	see := func(want string) {
		t.Helper()
		if got := strings.Join(briefRecord(r.lookup("k")), " "); got != want {
			t.Errorf("at %d Lookup sees %q, want %q", r.now-start, got, want)
		}
	}
	see("")
	r.do(claim("A"))
	see("claimed fence=1 attempt=1 lease@1000")
	r.at(1000).do(barrier)
	see("unknown fence=1 attempt=1 ends@11000")
	r.at(1001).do(complete(1, "done"))
	see("completed fence=1 attempt=1 ends@11001 200:done")
	r.at(11_001).do(barrier)
	see("")
}

func TestList(t *testing.T) {
	r := newRig(t)
	for i, k := range []string{"a1", "a2", "a3", "b1", "~"} {
		r.do(claim(k, key(k), block))
		switch i {
		case 1:
			r.do(command(Kind_COMPLETE, "c", []change{key(k), fenced(2), answering("done")}))
		case 2:
			r.do(command(Kind_FAIL, "f", []change{key(k), fenced(3)}))
		}
	}
	r.do(claim("x", namespace("ns2"), key("a1")))
	r.do(claim("x", namespace("n"), key("a1")))
	r.do(create("y", "id", key("c1")))
	for _, test := range []struct {
		name string
		q    ListQuery
		want string
		more bool
	}{
		{"all", ListQuery{Limit: 10}, "a1 a2 a3 b1 c1 ~", false},
		{"exactly as many as there are", ListQuery{Limit: 6}, "a1 a2 a3 b1 c1 ~", false},
		{"one fewer", ListQuery{Limit: 5}, "a1 a2 a3 b1 c1", true},
		{"none", ListQuery{}, "", true},
		{"a prefix", ListQuery{Prefix: "a", Limit: 10}, "a1 a2 a3", false},
		{"a prefix, cut", ListQuery{Prefix: "a", Limit: 2}, "a1 a2", true},
		{"behind a key", ListQuery{After: "a2", Limit: 10}, "a3 b1 c1 ~", false},
		{"behind a key that is not there", ListQuery{After: "a22", Limit: 10}, "a3 b1 c1 ~", false},
		{"behind the last", ListQuery{After: "~", Limit: 10}, "", false},
		{"a prefix behind a key", ListQuery{Prefix: "a", After: "a1", Limit: 10}, "a2 a3", false},
		{"a prefix behind a key before it", ListQuery{Prefix: "b", After: "a1", Limit: 10}, "b1", false},
		{"a prefix behind a key past it", ListQuery{Prefix: "a", After: "b1", Limit: 10}, "", false},
		{"claimed", ListQuery{State: State_CLAIMED, Limit: 10}, "a1 b1 ~", false},
		{"completed", ListQuery{State: State_COMPLETED, Limit: 10}, "a2 c1", false},
		{"unknown", ListQuery{State: State_UNKNOWN, Limit: 10}, "a3", false},
		{"in a state, cut", ListQuery{State: State_COMPLETED, Limit: 1}, "a2", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, more, err := r.List("ns", test.q)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, l := range got {
				keys = append(keys, l.Key)
			}
			if strings.Join(keys, " ") != test.want || more != test.more {
				t.Errorf("listed are %v, more: %t; want %s, %t", keys, more, test.want, test.more)
			}
		})
	}
}

func TestListShowsWhatLookupDoes(t *testing.T) {
	r := newRig(t)
	r.do(claim("A", key("lapsed")))
	r.do(create("B", "id", key("created"), ttl(2000)))
	r.do(create("C", "id2", key("ended"), ttl(1000)))
	r.at(1000).do(&Command{Kind: Kind_READ})
	got, _, err := r.List("ns", ListQuery{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range got {
		all = append(all, l.Key+" "+strings.Join(briefRecord(l.Record), " "))
	}
	want := `created completed fence=2 attempt=1 ends@2000 201:{"id":"id"}, lapsed unknown fence=1 attempt=1 ends@11000`
	if s := strings.Join(all, ", "); s != want {
		t.Errorf("listed are\n%s, want\n%s", s, want)
	}
}

func TestListsEndBeforeTheyGrowTooLarge(t *testing.T) {
	r := newRig(t)
	body := bytes.Repeat([]byte("a"), maxPage/2)
	for i := range 5 {
		name := fmt.Sprint("k", i)
		r.do(create(name, name, key(name), func(c *Command) { c.Response = NewResponse(201, nil, body) }))
	}
	var keys, ids []string
	for more := true; more; {
		var listed []Listed
		var err error
		listed, more, err = r.List("ns", ListQuery{Limit: 10, After: last(keys)})
		if err != nil || len(listed) == 0 || len(listed) > 2 {
			t.Fatalf("a page has %d records, %v", len(listed), err)
		}
		for _, l := range listed {
			keys = append(keys, l.Key)
		}
	}
	for more := true; more; {
		var listed []ListedResource
		var err error
		listed, more, err = r.Resources("ns", last(ids), 10)
		if err != nil || len(listed) == 0 || len(listed) > 2 {
			t.Fatalf("a page has %d resources, %v", len(listed), err)
		}
		for _, l := range listed {
			ids = append(ids, l.ID)
		}
	}
	if want := "k0 k1 k2 k3 k4"; strings.Join(keys, " ") != want || strings.Join(ids, " ") != want {
		t.Errorf("the pages together are %v and %v", keys, ids)
	}
}

func TestWhatIsLargerThanAPageIsListedAlone(t *testing.T) {
	r := newRig(t)
	r.do(create("A", "a", key("a"), func(c *Command) { c.Response = NewResponse(201, nil, make([]byte, maxPage+1)) }))
	r.do(create("B", "b", key("b")))
	if got, more, err := r.List("ns", ListQuery{Limit: 9}); err != nil || len(got) != 1 || !more {
		t.Errorf("%d records are listed, more: %t, %v", len(got), more, err)
	}
	if got, more, err := r.Resources("ns", "", 9); err != nil || len(got) != 1 || !more {
		t.Errorf("%d resources are listed, more: %t, %v", len(got), more, err)
	}
}

func last(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1]
}

func TestResources(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"c", "a", "b"} {
		r.do(create(id, id, key(id)))
	}
	r.do(create("d", "d", namespace("ns2")))
	for _, test := range []struct {
		after string
		limit int
		want  string
		more  bool
	}{
		{"", 10, "a b c", false}, {"", 3, "a b c", false}, {"", 2, "a b", true}, {"a", 10, "b c", false}, {"c", 10, "", false},
	} {
		got, more, err := r.Resources("ns", test.after, test.limit)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, l := range got {
			ids = append(ids, l.ID)
		}
		if strings.Join(ids, " ") != test.want || more != test.more {
			t.Errorf("%d behind %q are %v, more: %t", test.limit, test.after, ids, more)
		}
	}
}

func TestReadsRunBesideApply(t *testing.T) {
	r := newRig(t)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if rec, err := r.Lookup("ns", "k"); err != nil || rec != nil && rec.State == State_COMPLETED && len(rec.Response.Body) == 0 {
					t.Errorf("Lookup gives %v, %v", rec, err)
				}
				if _, _, err := r.Due(r.Meta().Time); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 300 {
		r.at(int64(i)*2000).apply(create(fmt.Sprint(i), fmt.Sprint(i), ttl(1000)), expire(9))
	}
	close(stop)
	readers.Wait()
}
