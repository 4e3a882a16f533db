package report

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
)

func second(n int) history.Nano { return history.Span(time.Duration(n) * time.Second) }

// broken is a history in which a record is lost.
func broken() *history.History {
	h := &history.History{
		Run:     history.Run{Format: history.Format, Seed: 42, Nodes: []string{"n1", "n2"}, Load: second(9)},
		Faults:  []*history.Fault{{Kind: "kill", Nodes: []string{"n1"}, Begin: second(2), End: second(4), Evidence: "<b>it died</b>"}, {Kind: "pause", Begin: second(5), End: second(6)}},
		Leaders: []*history.Leader{{Node: "n1", Term: 1}, {At: second(3), Node: "n2", Term: 2}},
		End:     &history.End{At: second(9), LoadEnded: second(8), Calls: 3},
	}
	call := func(id uint64, at int, a *history.Answer) *history.Call {
		return &history.Call{ID: id, Node: "n1", Kind: history.Create, Namespace: "default", Key: "k", TTL: second(100), Begin: second(at), End: second(at) + 1000, Answer: a}
	}
	h.Calls = []*history.Call{
		call(1, 1, &history.Answer{Status: 201, Digest: "d"}),
		call(2, 7, &history.Answer{Status: 201, Digest: "e"}),
		{ID: 3, Node: "n2", Kind: history.Claim, Key: "other", Begin: second(3), End: history.Never},
	}
	return h
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReport(t *testing.T) {
	dir, h := t.TempDir(), broken()
	v := check.Judge(t.Context(), h, check.Options{})
	if err := Write(dir, h, v); err != nil {
		t.Fatal(err)
	}
	page := read(t, dir, Page)
	for _, want := range []string{"<h1>INVALID</h1>", "same-bytes", "kill", "nothing: it is not counted", "&lt;b&gt;it died", "Seed 42", "data:image/png;base64,"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	for _, never := range []string{"http://", "https://", "<script", "<b>it died", "ZgotmplZ"} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q", never)
		}
	}
	if _, err := png.Decode(bytes.NewReader([]byte(read(t, dir, Plot)))); err != nil {
		t.Errorf("the plot is no PNG: %v", err)
	}
	found, err := filepath.Glob(filepath.Join(dir, Findings, "*.ndjson"))
	if err != nil || len(found) != len(v.Findings) {
		t.Fatalf("%d findings are written of %d, %v", len(found), len(v.Findings), err)
	}
	if text := read(t, strings.TrimSuffix(found[0], ".ndjson")+".txt"); !strings.Contains(text, "seed  42") || !strings.Contains(text, "digest=e") {
		t.Errorf("the first finding says\n%s", text)
	}
	part, err := history.Read(strings.NewReader(read(t, found[0])))
	if err != nil {
		t.Fatal(err)
	}
	if again := check.Judge(t.Context(), part, check.Options{}); again.Outcome != check.Invalid {
		t.Errorf("the part that shows it is judged %s by itself", again.Outcome)
	}
}

// A run that broke off at once has a report too.
func TestReportOfNothing(t *testing.T) {
	dir, h := t.TempDir(), &history.History{Run: history.Run{Nodes: []string{"n1"}}}
	if err := Write(dir, h, check.Judge(t.Context(), h, check.Options{})); err != nil {
		t.Fatal(err)
	}
	if page := read(t, dir, Page); !strings.Contains(page, "<h1>inconclusive</h1>") {
		t.Error("its verdict is not inconclusive")
	}
	if _, err := os.Stat(filepath.Join(dir, Findings)); !os.IsNotExist(err) {
		t.Errorf("there is a directory of findings: %v", err)
	}
}
