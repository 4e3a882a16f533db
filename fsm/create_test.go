package fsm

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func duplicateBody(id string) string {
	return `{"type":"urn:onced:duplicate-resource","title":"A resource with the same unique field exists",` +
		`"status":409,"detail":"another resource has the same value of a unique field","retryable":false,"resource_id":"` + id + `"}`
}

func TestCreate(t *testing.T) {
	const first = `CREATED completed fence=1 attempt=1 ends@10000 201:{"id":"id1"}`
	email := unique("email", "x")
	taken := func(fence, at int64) string {
		return "CREATED completed fence=" + itoa(fence) + " attempt=1 ends@" + itoa(at+10_000) + " 409:" + duplicateBody("id1")
	}
	for _, s := range []script{
		{"the same request is answered as the first time", []step{{0, create("A", "id1", email), first}, {9, create("A", "id1", email), first}}},
		{"another request gets a replay of the same", []step{
			{0, create("A", "id1", email), first},
			{9, create("B", "id2", email), `REPLAY completed fence=1 attempt=1 ends@10000 201:{"id":"id1"}`},
		}},
		{"another request under the key is refused", []step{{0, create("A", "id1"), first}, {9, create("B", "id2", fingerprint("other")), "KEY_REUSED"}}},
		{"a claim of the key is another request", []step{{0, create("A", "id1"), first}, {9, claim("B"), "KEY_REUSED"}}},
		{"a unique value is taken under another key", []step{
			{0, create("A", "id1", email), first}, {1, create("B", "id2", email, key("k2")), taken(2, 1)},
		}},
		{"one of several is enough", []step{
			{0, create("A", "id1", email), first},
			{1, create("B", "id2", unique("phone", "y"), email, key("k2")), taken(2, 1)},
			{2, create("C", "id3", unique("phone", "y"), key("k3")), `CREATED completed fence=3 attempt=1 ends@10002 201:{"id":"id3"}`},
		}},
		{"a duplicate is recorded under its key and replayed", []step{
			{0, create("A", "id1", email), first},
			{1, create("B", "id2", email, key("k2")), taken(2, 1)},
			{2, create("B", "id2", email, key("k2")), taken(2, 1)},
			{3, create("C", "id3", email, key("k2")), strings.Replace(taken(2, 1), "CREATED", "REPLAY", 1)},
		}},
		{"the same value of another field, or in another namespace, is free", []step{
			{0, create("A", "id1", email), first},
			{0, create("B", "id2", unique("phone", "x"), key("k2")), `CREATED completed fence=2 attempt=1 ends@10000 201:{"id":"id2"}`},
			{0, create("C", "id3", email, namespace("ns2")), `CREATED completed fence=3 attempt=1 ends@10000 201:{"id":"id3"}`},
		}},
		{"retention ends at this very instant: the key is free, the unique value is not", []step{
			{0, create("A", "id1", email), first}, {10_000, create("B", "id2", email), taken(2, 10_000)},
		}},
		{"a resend after retention does not conflict with its own resource", []step{
			{0, create("A", "id1", email), first},
			{10_000, create("A", "id1", email), `CREATED completed fence=2 attempt=1 ends@20000 201:{"id":"id1"}`},
		}},
		{"an id in use is no other resource's", []step{
			{0, create("A", "id1"), first},
			{1, create("B", "id1", key("k2")), "REFUSED another resource has this id"},
		}},
		{"the fence of a create is of no use", []step{
			{0, create("A", "id1"), first}, {1, release(1), "STALE_FENCE"}, {1, renew(1, 1000), "STALE_FENCE"},
			{1, complete(1, "x"), "STALE_FENCE"}, {1, fail(1), "STALE_FENCE"},
		}},
	} {
		s.run(t)
	}
}

func TestCreatedBodyIsStoredOnceWithTheResource(t *testing.T) {
	r := newRig(t)
	body := bytes.Repeat([]byte("onced "), 1000)
	r.do(create("A", "id1", func(c *Command) { c.Response = NewResponse(201, nil, body) }))

	stored, err := readRecord(r.store, appendName(nil, tableRecord, "ns", "k"))
	if err != nil {
		t.Fatal(err)
	}
	if len(stored.Response.Body) != 0 {
		t.Errorf("the record holds %d bytes of body", len(stored.Response.Body))
	}
	resource, err := r.Resource("ns", "id1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := resource.Plain(); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the resource's body is %.20q…, %v", got, err)
	}
	if resource.Key != "k" || resource.CreatedAt != start {
		t.Errorf("the resource is of key %q, created at %d", resource.Key, resource.CreatedAt)
	}
	for name, rec := range map[string]*Record{"Lookup": r.lookup("k"), "READ": r.do(read()).Record, "replay": r.do(create("B", "id2")).Record} {
		if got, err := rec.Response.Plain(); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s gives body %.20q…, %v", name, got, err)
		}
	}
	if other, err := r.Resource("ns2", "id1"); other != nil || err != nil {
		t.Errorf("another namespace has the resource: %v, %v", other, err)
	}
}

func TestResourceOutlivesItsKey(t *testing.T) {
	r := newRig(t)
	r.do(create("A", "id1", unique("email", "x")))
	r.at(10_000).do(expire(10))
	if r.lookup("k") != nil {
		t.Error("the key is still there")
	}
	if got, err := r.Resource("ns", "id1"); err != nil || got == nil {
		t.Errorf("the resource is %v, %v", got, err)
	}
	if n := r.Meta().Resources; n != 1 {
		t.Errorf("%d resources are counted", n)
	}
	r.recount()
}

func TestRefusedCreateLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.do(create("A", "id1"))
	before := r.hash()
	r.do(create("B", "id1", key("k2"), unique("email", "x")))
	if r.hash() != before {
		t.Error("the state has changed")
	}
}
