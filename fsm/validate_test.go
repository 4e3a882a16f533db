package fsm

import (
	"strings"
	"testing"
)

// long is one byte longer than a name may be.
var long = strings.Repeat("x", 256)

func TestInvalidNamesAndTermsAreRefused(t *testing.T) {
	request := func(id string) change { return func(c *Command) { c.RequestId = []byte(id) } }
	for name, c := range map[string]*Command{
		"no namespace":            claim("A", namespace("")),
		"a long namespace":        claim("A", namespace(long)),
		"a NUL in the namespace":  claim("A", namespace("a\x00b")),
		"no key":                  claim("A", key("")),
		"a long key":              claim("A", key(long)),
		"a space in the key":      claim("A", key("a b")),
		"a DEL in the key":        claim("A", key("a\x7f")),
		"a key beyond ASCII":      claim("A", key("é")),
		"a bad key read":          command(Kind_READ, "", []change{key("a b")}),
		"no request id":           claim("A", request("")),
		"a short request id":      claim("A", request("123456789012345")),
		"a long request id":       renewWith(request("12345678901234567")),
		"a lease of 99 ms":        claim("A", leased(99)),
		"a lease over an hour":    claim("A", leased(3_600_001)),
		"a renewal of 99 ms":      renewWith(leased(99)),
		"a renewal over an hour":  renewWith(leased(3_600_001)),
		"a ttl of 999 ms":         claim("A", ttl(999)),
		"a ttl over 720 h":        claim("A", ttl(2_592_000_001)),
		"a create's ttl":          create("A", "id", ttl(999)),
		"a long attempt id":       claim("A", attempt(long)),
		"a long fingerprint":      claim("A", fingerprint(long)),
		"a claim of no surface":   claim("A", surface(Surface_SURFACE_NONE)),
		"a claim of /create":      claim("A", surface(Surface_SURFACE_CREATE)),
		"a create of the key API": create("A", "id", surface(Surface_SURFACE_KEYS)),
	} {
		refuses(t, name, c)
	}
}

func TestInvalidWritesAreRefused(t *testing.T) {
	id := func(id string) change { return func(c *Command) { c.ResourceId = id } }
	answer := func(f func(*Response)) change { return func(c *Command) { f(c.Response) } }
	member := func(f func(*Member)) *Command {
		c := &Command{Kind: Kind_ADMIT, Members: []*Member{node("n3", "c", 'C')}}
		f(c.Members[0])
		return c
	}
	completing := func(changes ...change) *Command {
		return command(Kind_COMPLETE, "c", append([]change{fenced(1), answering("x")}, changes...))
	}
	for name, c := range map[string]*Command{
		"a fence of 2^53":             release(1 << 53),
		"no resource id":              create("A", ""),
		"a long resource id":          create("A", long[:65]),
		"a NUL in the resource id":    create("A", "a", id("a\x00")),
		"a quote in the resource id":  create("A", "a", id(`a"`)),
		"65 unique values":            create("A", "id", func(c *Command) { c.Uniques = make65() }),
		"a unique without a field":    create("A", "id", unique("", "x")),
		"a NUL in a unique's field":   create("A", "id", unique("a\x00", "x")),
		"a unique's value too short":  create("A", "id", unique("f", "x"), func(c *Command) { c.Uniques[0].Value = []byte("x") }),
		"a create without response":   create("A", "id", func(c *Command) { c.Response = nil }),
		"a create without body":       create("A", "id", answer(func(r *Response) { r.BodyDropped, r.Body = true, nil })),
		"a complete without response": command(Kind_COMPLETE, "c", []change{fenced(1)}),
		"a status of two digits":      completing(answer(func(r *Response) { r.Status = 99 })),
		"a status of four digits":     completing(answer(func(r *Response) { r.Status = 1000 })),
		"a digest of 31 bytes":        completing(answer(func(r *Response) { r.Digest = r.Digest[:31] })),
		"a size that is not the body": completing(answer(func(r *Response) { r.Size++ })),
		"a negative size":             completing(answer(func(r *Response) { r.Size, r.Encoding = -1, BodyEncoding_ZSTD })),
		"a body over 64 MiB":          completing(answer(func(r *Response) { r.Size, r.Encoding = MaxBody+1, BodyEncoding_ZSTD })),
		"a body kept and dropped":     completing(answer(func(r *Response) { r.BodyDropped = true })),
		"a resolve to nothing":        resolve("R", 1),
		"a resolve to both":           resolve("R", 1, retrying, answering("x")),
		"an admit of nobody":          {Kind: Kind_ADMIT},
		"an admit of two":             {Kind: Kind_ADMIT, Members: bindCommand().Members},
		"a dismiss of nobody":         {Kind: Kind_DISMISS},
		"a node without id":           member(func(m *Member) { m.Id = "" }),
		"a node of a long id":         member(func(m *Member) { m.Id = long[:65] }),
		"a node without address":      member(func(m *Member) { m.RaftAddr = "" }),
		"a node without incarnation":  member(func(m *Member) { m.Incarnation = nil }),
		"a binding of nobody":         {Kind: Kind_BIND, ClusterId: []byte("cluster")},
		"a binding without cluster":   {Kind: Kind_BIND, Members: bindCommand().Members},
		"a binding of one twice":      {Kind: Kind_BIND, ClusterId: []byte("c"), Members: []*Member{node("n", "a", 1), node("n", "b", 2)}},
		"a binding of a node half":    {Kind: Kind_BIND, ClusterId: []byte("c"), Members: []*Member{{Id: "n"}}},
	} {
		refuses(t, name, c)
	}
}

// refuses checks that c is refused and changes nothing.
func refuses(t *testing.T, name string, c *Command) {
	t.Run(name, func(t *testing.T) {
		r := newRig(t)
		r.do(claim("first"))
		before := r.hash()
		if o := r.do(c); o.Code != Code_REFUSED || o.Reason == "" {
			t.Errorf("the outcome is %s", brief(o))
		}
		if r.hash() != before {
			t.Error("the state has changed")
		}
	})
}

func TestTheBoundsThemselvesAreAllowed(t *testing.T) {
	longest := strings.Repeat("~", 255)
	for name, c := range map[string]*Command{
		"longest names":            claim("A", namespace(longest), key(longest), attempt(longest), fingerprint(longest)),
		"shortest names":           claim("A", namespace("n"), key("!"), attempt(""), fingerprint("")),
		"shortest lease and ttl":   claim("A", leased(100), ttl(1000)),
		"longest lease and ttl":    claim("A", leased(3_600_000), ttl(2_592_000_000)),
		"longest resource id":      create("A", strings.Repeat("x", 64)),
		"64 unique values":         create("A", "id", func(c *Command) { c.Uniques = make65()[:64] }),
		"a response without body":  create("A", "id", func(c *Command) { c.Response = NewResponse(204, nil, nil) }),
		"a namespace of any bytes": claim("A", namespace("\xff\x01 é")),
	} {
		t.Run(name, func(t *testing.T) {
			if o := newRig(t).do(c); o.Code != Code_GRANTED && o.Code != Code_CREATED {
				t.Errorf("the outcome is %s", brief(o))
			}
		})
	}
}

func TestADroppedBodyMayHaveAnySize(t *testing.T) {
	r := newRig(t)
	r.do(claim("A"))
	c := complete(1, "")
	c.Response.BodyDropped, c.Response.Size = true, 1<<40
	if o := r.do(c); o.Code != Code_OK || !o.Record.Response.BodyDropped {
		t.Errorf("the outcome is %s", brief(o))
	}
}

func renewWith(changes ...change) *Command {
	return command(Kind_RENEW, "renew", append([]change{fenced(1), leased(1000)}, changes...))
}

func make65() []*Unique {
	c := new(Command)
	for i := range 65 {
		unique("f", itoa(int64(i)))(c)
	}
	return c.Uniques
}
