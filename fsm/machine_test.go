package fsm

import (
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// eachKind returns a command of each kind.
func eachKind() []*Command {
	return []*Command{
		claim("A"), create("A", "id"), renew(1, 500), complete(1, "x"), release(1), fail(1), resolve("R", 1, retrying), forget("F", 1, forced),
		read(), expire(9), {Kind: Kind_FEATURE_LEVEL, Level: 1}, bindCommand(),
		{Kind: Kind_ADMIT, Members: []*Member{node("n3", "c", 'C')}}, {Kind: Kind_DISMISS, Members: []*Member{node("n2", "b", 'B')}},
	}
}

func TestNothingIsDoneAfterNotAfter(t *testing.T) {
	for _, c := range eachKind() {
		t.Run(c.Kind.String(), func(t *testing.T) {
			r := newRig(t)
			r.do(claim("other", leased(100)))
			r.at(201).do(&Command{Kind: Kind_READ})
			before := r.hash()
			notAfter(200)(c)
			if o := r.do(c); o.Code != Code_TOO_LATE || r.hash() != before {
				t.Errorf("a command that came 1 ms late: %s", brief(o))
			}
			notAfter(201)(c)
			if o := r.do(c); o.Code == Code_TOO_LATE {
				t.Error("a command at its last instant came too late")
			}
		})
	}
}

// TestNothingIsDoneInAnotherTerm: of two copies that went to two leaders, the first
// must not come second.
func TestNothingIsDoneInAnotherTerm(t *testing.T) {
	for _, c := range eachKind() {
		t.Run(c.Kind.String(), func(t *testing.T) {
			r := newRig(t)
			r.do(claim("other"))
			before := r.hash()
			for _, term := range []uint64{2, 1<<64 - 1} {
				inTerm(term)(c)
				if o := r.do(c); o.Code != Code_TOO_LATE || r.hash() != before {
					t.Errorf("a command of term %d: %s", term, brief(o))
				}
			}
			inTerm(1)(c)
			if o := r.do(c); o.Code == Code_TOO_LATE {
				t.Error("a command of the entry's own term came too late")
			}
		})
	}
}

func TestBeforeBindingNoClientIsServed(t *testing.T) {
	for _, test := range []struct {
		c    *Command
		want Code
	}{
		{claim("A"), Code_NOT_BOUND}, {create("A", "id"), Code_NOT_BOUND}, {renew(1, 500), Code_NOT_BOUND},
		{complete(1, "x"), Code_NOT_BOUND}, {release(1), Code_NOT_BOUND}, {fail(1), Code_NOT_BOUND},
		{resolve("R", 1, retrying), Code_NOT_BOUND}, {forget("F", 1), Code_NOT_BOUND}, {read(), Code_NOT_BOUND},
		{&Command{Kind: Kind_ADMIT}, Code_NOT_BOUND}, {&Command{Kind: Kind_DISMISS}, Code_NOT_BOUND},
		{&Command{Kind: Kind_READ}, Code_OK}, {expire(1), Code_OK}, {&Command{Kind: Kind_FEATURE_LEVEL, Level: 1}, Code_OK},
		{bindCommand(), Code_OK},
	} {
		if got := newUnboundRig(t).do(test.c).Code; got != test.want {
			t.Errorf("%v of key %q before binding is %v", test.c.Kind, test.c.Key, got)
		}
	}
}

func TestMembership(t *testing.T) {
	bind := func(id string, members ...*Member) *Command {
		return &Command{Kind: Kind_BIND, ClusterId: []byte(id), Members: members}
	}
	admit := func(m *Member) *Command { return &Command{Kind: Kind_ADMIT, Members: []*Member{m}} }
	dismiss := func(m *Member) *Command { return &Command{Kind: Kind_DISMISS, Members: []*Member{m}} }
	type change struct {
		c       *Command
		want    string
		members string
	}
	for _, test := range []struct {
		name  string
		steps []change
	}{
		{"the same binding again", []change{{bindCommand(), "OK", "n1@aA n2@bB"}}},
		{"another cluster id", []change{{bind("other", bindCommand().Members...), "REFUSED the cluster is bound already", "n1@aA n2@bB"}}},
		{"other nodes", []change{{bind("cluster", node("n1", "a", 'A')), "REFUSED the cluster is bound already", "n1@aA n2@bB"}}},
		{"a node with another data directory", []change{
			{bind("cluster", node("n1", "a", 'A'), node("n2", "b", 'X')), "REFUSED the cluster is bound already", "n1@aA n2@bB"},
		}},
		{"a new node, twice", []change{{admit(node("n3", "c", 'C')), "OK", "n1@aA n2@bB n3@cC"}, {admit(node("n3", "c", 'C')), "OK", "n1@aA n2@bB n3@cC"}}},
		{"a new address", []change{{admit(node("n2", "d", 'B')), "OK", "n1@aA n2@dB"}}},
		{"a node that lost its disk", []change{{admit(node("n2", "b", 'X')), "REFUSED another node has this id", "n1@aA n2@bB"}}},
		{"the way back", []change{
			{dismiss(node("n2", "", 'B')), "OK", "n1@aA"}, {admit(node("n2", "b", 'X')), "OK", "n1@aA n2@bX"},
			{dismiss(node("n2", "", 'B')), "OK", "n1@aA n2@bX"},
		}},
		{"out by id alone", []change{{dismiss(&Member{Id: "n1"}), "OK", "n2@bB"}, {dismiss(&Member{Id: "n1"}), "OK", "n2@bB"}}},
		{"the last node", []change{{dismiss(&Member{Id: "n1"}), "OK", "n2@bB"}, {dismiss(&Member{Id: "n2"}), "REFUSED it is the last node", "n2@bB"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			for i, s := range test.steps {
				got := brief(r.do(s.c))
				var members []string
				for _, m := range r.Meta().Members {
					members = append(members, m.Id+"@"+m.RaftAddr+string(m.Incarnation[:1]))
				}
				if got != s.want || strings.Join(members, " ") != s.members {
					t.Errorf("step %d: %s, members are %v; want %s, %s", i+1, got, members, s.want, s.members)
				}
			}
		})
	}
}

func TestTimeNeverGoesBackNorPastItsEnd(t *testing.T) {
	r := newRig(t)
	r.do(claim("A"))
	r.at(1000).do(&Command{Kind: Kind_READ})
	if o := r.at(-1000).do(claim("B")); o.Time != start+1000 || o.Code != Code_GRANTED {
		t.Errorf("an entry from the past is judged at %d: %s", o.Time-start, brief(o))
	}
	if o := r.at(1<<63 - 1 - start).do(claim("C", key("k2"))); o.Time != maxTime || o.Record.LeaseExpiresAt != maxTime+1000 {
		t.Errorf("an entry from beyond is judged at %d: %s", o.Time, brief(o))
	}
	r.recount()
}

func TestFeatureLevelOnlyRises(t *testing.T) {
	r := newRig(t)
	for _, level := range []uint32{0, 1, 0} {
		r.do(&Command{Kind: Kind_FEATURE_LEVEL, Level: level})
	}
	if got := r.Meta().FeatureLevel; got != 1 {
		t.Errorf("the feature level is %d", got)
	}
}

func TestOpenRefusesAHigherFeatureLevel(t *testing.T) {
	store := NewMem()
	put(t, store, metaKey, &Meta{AppliedIndex: 1, FeatureLevel: FeatureLevel + 1})
	if _, err := Open(store); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("Open says %v", err)
	}
}

func TestFencesGrowWithEachGrantAlone(t *testing.T) {
	r := newRig(t)
	for _, s := range []struct {
		c    *Command
		want uint64
	}{
		{claim("A"), 1}, {claim("A"), 1}, {claim("B"), 1}, {release(1), 1}, {claim("C"), 2}, {create("D", "id", key("k2")), 3},
		{create("D", "id", key("k2")), 3}, {create("E", "id3", key("k2")), 3}, {forget("F", 2, forced), 3}, {claim("G"), 4},
	} {
		r.do(s.c)
		if got := r.Meta().Fence; got != s.want {
			t.Errorf("after %v of %s the fence is %d, want %d", s.c.Kind, s.c.RequestId, got, s.want)
		}
	}
}

func TestCommandsOfAnEntrySeeThoseBefore(t *testing.T) {
	r := newRig(t)
	var got []string
	for _, o := range r.apply(claim("A"), claim("B"), complete(1, "done"), claim("B"), forget("F", 1), claim("C")) {
		got = append(got, o.Code.String())
	}
	if want := "GRANTED IN_FLIGHT OK REPLAY OK GRANTED"; strings.Join(got, " ") != want {
		t.Errorf("outcomes are %v, want %s", got, want)
	}
}

func TestEntriesAppliedBeforeAreSkipped(t *testing.T) {
	m, err := Open(NewMem())
	if err != nil {
		t.Fatal(err)
	}
	bind := LogEntry{Index: 3, Term: 1, Data: entry(t, start, bindCommand())}
	first := LogEntry{Index: 5, Term: 2, Data: entry(t, start, claim("A"))}
	config := LogEntry{Index: 7, Term: 3, Configuration: []byte("config")}
	later := LogEntry{Index: 9, Term: 3, Data: entry(t, start, claim("B"))}
	var nils []bool
	for _, entries := range [][]LogEntry{{bind, first}, {bind, first, config}, {first, config}, {config, later, later}} {
		applied, err := m.Apply(entries)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range applied.Outcomes {
			nils = append(nils, o == nil)
		}
	}
	if want := []bool{false, false, true, true, true, true, true, true, false, true}; !slices.Equal(nils, want) {
		t.Errorf("entries without outcome are %v, want %v", nils, want)
	}
	got := m.Meta()
	if got.AppliedIndex != 9 || got.AppliedTerm != 3 || string(got.Configuration) != "config" || got.ConfigurationIndex != 7 || got.Fence != 1 {
		t.Errorf("meta is %v", got)
	}
}

func TestStateSurvivesOpeningAnew(t *testing.T) {
	r := newRig(t)
	r.do(claim("A"))
	r.do(create("B", "id", key("k2"), unique("email", "x")))
	before, hash := r.Meta(), r.hash()
	r.open()
	if after := r.Meta(); !reflect.DeepEqual(encode(t, before), encode(t, after)) || r.hash() != hash {
		t.Errorf("opened anew it is %v, was %v", after, before)
	}
	if got := brief(r.do(claim("A"))); got != "GRANTED claimed fence=1 attempt=1 lease@1000" {
		t.Errorf("opened anew the resend gets %s", got)
	}
}

// unknown is a protobuf field that no message has.
var unknown = protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)

func TestWhatIsNotUnderstoodStopsTheMachineUnchanged(t *testing.T) {
	withResponse := func(f func(*Response)) *Command {
		c := complete(1, "x")
		f(c.Response)
		return c
	}
	for name, b := range map[string][]byte{
		"kind none":              encode(t, &Command{}),
		"kind above those known": encode(t, &Command{Kind: Kind_DISMISS + 1}),
		"a negative kind":        encode(t, &Command{Kind: -1}),
		"a field of a command":   append(encode(t, claim("A")), unknown...),
		"a field of a response":  encode(t, withResponse(func(r *Response) { r.unknownFields = unknown })),
		"a field of a header":    encode(t, withResponse(func(r *Response) { r.Headers[0].unknownFields = unknown })),
		"a field of a unique": encode(t, create("A", "id", unique("f", "v"), func(c *Command) {
			c.Uniques[0].unknownFields = unknown
		})),
		"a field of a member": encode(t, &Command{Kind: Kind_ADMIT, Members: []*Member{{unknownFields: unknown}}}),
		"a surface":           encode(t, claim("A", surface(Surface_SURFACE_GATEWAY+1))),
		"a policy":            encode(t, claim("A", func(c *Command) { c.OnLapse = OnLapse_BLOCK + 1 })),
		"an encoding":         encode(t, withResponse(func(r *Response) { r.Encoding = BodyEncoding_ZSTD + 1 })),
		"a feature level":     encode(t, &Command{Kind: Kind_FEATURE_LEVEL, Level: FeatureLevel + 1}),
		"bytes cut short":     encode(t, claim("A"))[:19],
		"no protobuf":         []byte("\xff\xff\xff"),
	} {
		t.Run(name, func(t *testing.T) {
			unchanged(t, EncodeEntry(start+5000, [][]byte{encode(t, claim("Z", key("z"))), b}), ErrUndecodable)
		})
	}
	t.Run("a field of an entry", func(t *testing.T) {
		data := EncodeEntry(start, nil)
		unchanged(t, reseal(append(data, unknown...)), ErrUndecodable)
	})
	t.Run("an entry cut short", func(t *testing.T) {
		data := entry(t, start, claim("A"))
		unchanged(t, reseal(data[:len(data)-1]), ErrUndecodable)
	})
	t.Run("an entry with another digest", func(t *testing.T) {
		data := entry(t, start, claim("A"))
		data[20] ^= 1
		unchanged(t, data, ErrCorrupt)
	})
	t.Run("an empty entry", func(t *testing.T) { unchanged(t, nil, ErrCorrupt) })
}

// unchanged applies data behind a good entry, in one batch, and checks that it
// fails with want and that neither took effect.
func unchanged(t *testing.T, data []byte, want error) {
	t.Helper()
	r := newRig(t)
	r.do(claim("A"))
	before, meta := r.hash(), encode(t, r.Meta())
	applied, err := r.Apply([]LogEntry{
		{Index: 10, Term: 2, Data: entry(t, start+9000, complete(1, "done"), expire(9),
			&Command{Kind: Kind_ADMIT, Members: []*Member{node("n2", "moved", 'B')}},
			&Command{Kind: Kind_DISMISS, Members: []*Member{node("n1", "", 'A')}})},
		{Index: 11, Term: 2, Data: data},
	})
	if !errors.Is(err, want) || applied.Outcomes != nil || applied.Changed != nil {
		t.Errorf("Apply gives %v, %v; want %v", applied, err, want)
	}
	if r.hash() != before || string(encode(t, r.Meta())) != string(meta) || r.sweptTo.Load() != nil {
		t.Error("something took effect")
	}
	if got := brief(r.do(claim("A"))); got != "GRANTED claimed fence=1 attempt=1 lease@1000" {
		t.Errorf("afterwards the claim is %s", got)
	}
}

// reseal gives an entry whose payload was changed the digest it ought to have.
func reseal(data []byte) []byte {
	binary.BigEndian.PutUint64(data[1:], xxhash.Sum64(data[headerSize:]))
	return data
}
