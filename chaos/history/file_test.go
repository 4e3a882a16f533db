package history

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sample() *History {
	return &History{
		Run: Run{Format: Format, Seed: 7, Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Nodes: []string{"n1", "n2"}, Faults: []string{"kill"}, TTL: 5, Load: 9},
		Calls: []*Call{
			{ID: 1, Node: "n1", Kind: Claim, Namespace: "default", Key: "k", Fingerprint: "a", Policy: Block, Lease: 3, Begin: 1, End: 2,
				Answer: &Answer{Status: 201, Fence: 1, Attempt: 1, State: "claimed"}},
			{ID: 2, Node: "n2", Kind: Complete, Key: "k", Fence: 1, Sent: "d", Begin: 3, End: Never, Failure: "it was cut off"},
		},
		Effects: []*Effect{{Call: 1, Where: "worker", Key: "k", Fence: 1, Begin: 2, End: 2, Result: Answered}},
		Faults:  []*Fault{{Kind: "kill", Nodes: []string{"n1"}, Begin: 1, End: 4, Evidence: "signal: killed"}},
		Leaders: []*Leader{{At: 1, Node: "n1", Term: 2}},
		States:  []*State{{Node: "n1", Index: 9, Hash: "ab"}},
		End:     &End{At: 10, Calls: 2, LoadEnded: 5},
	}
}

func write(t testing.TB, h *History) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := Write(&file, h); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestReadsWhatWasWritten(t *testing.T) {
	h := sample()
	read, err := Read(bytes.NewReader(write(t, h)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, h) {
		t.Errorf("it reads as\n%+v\nand was\n%+v", read, h)
	}
}

// The tool may be killed: what it has written until then is a history without
// an end.
func TestUnfinishedHistory(t *testing.T) {
	h := sample()
	h.End = nil
	read, err := Read(bytes.NewReader(write(t, h)))
	if err != nil || read.End != nil || len(read.Calls) != 2 {
		t.Errorf("it reads as %+v, %v", read, err)
	}
}

func TestRefusesWhatIsNoHistory(t *testing.T) {
	whole := string(write(t, sample()))
	lines := strings.SplitAfter(whole, "\n")
	for _, test := range []struct{ name, file string }{
		{"nothing", ""},
		{"no JSON", "a history\n"},
		{"without its first line", strings.Join(lines[1:], "")},
		{"the first line twice", lines[0] + whole},
		{"another format", strings.Replace(whole, `"format":1`, `"format":2`, 1)},
		{"an unknown member", strings.Replace(whole, `"client":0`, `"klient":0`, 1)},
		{"an empty line", strings.Replace(whole, "\n", "\n\n", 1)},
		{"null", lines[0] + "null\n"},
		{"two members on a line", lines[0] + `{"leader":{"at_ns":1,"node":"","term":1},"state":{"node":"","applied_index":1,"state_hash":""}}`},
		{"a call id twice", strings.Replace(whole, `"id":2`, `"id":1`, 1)},
		{"a call of no kind", strings.Replace(whole, `"kind":"claim"`, `"kind":"grab"`, 1)},
		{"no such policy", strings.Replace(whole, `"policy":"block"`, `"policy":"hope"`, 1)},
		{"an end without an answer", strings.Replace(whole, `"end_ns":9223372036854775807`, `"end_ns":9`, 1)},
		{"an end before the beginning", strings.Replace(whole, `"begin_ns":1,"end_ns":2,"answer"`, `"begin_ns":3,"end_ns":2,"answer"`, 1)},
		{"a beginning before the run", strings.Replace(whole, `"begin_ns":3`, `"begin_ns":-3`, 1)},
		{"a time that no run has", strings.Replace(whole, `"begin_ns":3`, `"begin_ns":2000000000000000000`, 1)},
		{"an effect without a result", strings.Replace(whole, `"result":"answered"`, `"result":"maybe"`, 1)},
		{"a call is missing", strings.Join(append(lines[:3:3], lines[4:]...), "")},
		{"a line behind the end", whole + lines[1]},
		{"half a line", whole[:len(whole)-5]},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.file == whole {
				t.Fatal("the history was not changed")
			}
			if h, err := Read(strings.NewReader(test.file)); !errors.Is(err, ErrMalformed) {
				t.Errorf("it reads as %+v, %v", h, err)
			}
		})
	}
}

// A disk that is full is told at the end.
func TestWriterTellsOfTheFirstError(t *testing.T) {
	w := NewWriter(full{}, Run{})
	for i := range 10_000 {
		w.Call(&Call{ID: uint64(i + 1), Kind: Get, End: Never})
	}
	if h, err := w.Finish(End{}); !errors.Is(err, errFull) || len(h.Calls) != 10_000 {
		t.Errorf("it ends with %d calls and %v", len(h.Calls), err)
	}
}

type full struct{}

var errFull = errors.New("no space left")

func (full) Write([]byte) (int, error) { return 0, errFull }

// What reads as a history is written as one that reads the same.
func FuzzRead(f *testing.F) {
	f.Add(write(f, sample()))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := Read(bytes.NewReader(write(t, h)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again.Calls, h.Calls) || !reflect.DeepEqual(again.Effects, h.Effects) || !reflect.DeepEqual(again.End, h.End) {
			t.Error("it reads as another history")
		}
		for _, c := range h.Calls {
			_ = c.Line()
		}
	})
}
