package fsm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "create golden files that are missing; those that exist are never changed")

// golden compares got with the frozen bytes of that name.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	want := frozen(t, name, func() []byte { return got })
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed:\n got %x\nwant %x\nold logs and stores would no longer be read; add to the format instead", name, got, want)
	}
	return want
}

// frozen returns the frozen bytes of that name; make makes them where they are missing.
func frozen(t *testing.T, name string, make func() []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", "golden", name+".hex")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && *update {
		text = []byte(wrap(hex.EncodeToString(make())))
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return want
}

// wrap cuts s into lines of 64.
func wrap(s string) string {
	var b strings.Builder
	for len(s) > 64 {
		b.WriteString(s[:64] + "\n")
		s = s[64:]
	}
	return b.String() + s + "\n"
}

// goldenCommands has each kind, with every field that it uses.
func goldenCommands() []*Command {
	answer := NewResponse(201, []*Header{
		{Name: "Content-Type", Value: "application/json"}, {Name: "Link", Value: "</a>"}, {Name: "Link", Value: "</b>"},
	}, []byte(`{"id":"0190d2c4"}`))
	answering := func(c *Command) { c.Response = answer }
	return []*Command{
		claim("A", attempt("attempt-1"), notAfter(10_000), block, surface(Surface_SURFACE_GATEWAY)),
		renew(7, 30_000),
		command(Kind_COMPLETE, "complete", []change{fenced(7), answering, notAfter(10_000)}),
		release(7),
		fail(1<<53 - 1),
		resolve("resolve", 7, retrying),
		forget("forget", 7, forced),
		create("create", "0190d2c4", answering, unique("email", "x"), unique("phone", "y")),
		expire(1000),
		{Kind: Kind_FEATURE_LEVEL, Level: 1},
		bindCommand(),
		read(),
		{Kind: Kind_ADMIT, Members: []*Member{node("n3", "c:7003", 'C')}},
		{Kind: Kind_DISMISS, Members: []*Member{node("n3", "", 'C')}},
	}
}

func TestGoldenCommands(t *testing.T) {
	kinds := map[Kind]bool{}
	for _, c := range goldenCommands() {
		kinds[c.Kind] = true
		frozen := golden(t, "command-"+strings.ToLower(c.Kind.String()), encode(t, c))
		got, err := decodeCommand(frozen)
		if err != nil {
			t.Fatal(err)
		}
		if again := encode(t, got); !bytes.Equal(again, frozen) {
			t.Errorf("%v is decoded and encoded to %x", c.Kind, again)
		}
	}
	for kind := range Kind_name {
		if kind != 0 && !kinds[Kind(kind)] {
			t.Errorf("%v has no golden file", Kind(kind))
		}
	}
}

func TestGoldenEntry(t *testing.T) {
	got := entry(t, start, claim("A"), expire(9))
	frozen := golden(t, "entry", got)
	now, commands, err := decodeEntry(frozen)
	if err != nil || now != start || len(commands) != 2 {
		t.Errorf("it is decoded to %d, %x, %v", now, commands, err)
	}
}

// TestGoldenValues freezes what is stored, key and value, by the state that a
// fixed history leaves.
func TestGoldenValues(t *testing.T) {
	r := furnished(t)
	r.do(create("duplicate", "id2", key("duplicate"), unique("email", "x")))
	r.do(claim("U", key("failed"), attempt("attempt-1"), surface(Surface_SURFACE_GATEWAY)))
	r.do(command(Kind_FAIL, "f", []change{key("failed"), fenced(5)}))
	if _, err := r.Apply([]LogEntry{{Index: 90, Term: 2, Configuration: []byte("configuration")}}); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]byte{
		"meta":             metaKey,
		"record-claimed":   claimedKey,
		"record-created":   createdKey,
		"record-duplicate": appendName(nil, tableRecord, "ns", "duplicate"),
		"record-failed":    appendName(nil, tableRecord, "ns", "failed"),
		"resource":         resourceKey,
		"unique":           uniqueKey,
		"done":             doneKey,
		"due":              appendDueKey(nil, start+1000, claimedKey),
	} {
		value, err := r.store.Get(key)
		if err != nil || value == nil {
			t.Errorf("%s is %x, %v", name, value, err)
		}
		golden(t, "stored-"+name+"-key", key)
		golden(t, "stored-"+name+"-value", value)
	}
}

func TestGoldenHash(t *testing.T) {
	h := furnished(t).hash()
	golden(t, "hash", h[:])
}

func TestGoldenDuplicateResponse(t *testing.T) {
	r := duplicate("0190d2c4-7b1e-7c3a-9d55-0242ac120002")
	golden(t, "duplicate-body", r.Body)
	golden(t, "duplicate-response", encode(t, r))
	if string(r.Body) != duplicateBody("0190d2c4-7b1e-7c3a-9d55-0242ac120002") {
		t.Errorf("the body is %s", r.Body)
	}
}
