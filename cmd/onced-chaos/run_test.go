package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/plant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// called runs the program and returns what it printed, and its exit status.
func called(ctx context.Context, args ...string) (out string, status int) {
	var stdout, stderr bytes.Buffer
	err := run(ctx, args, &stdout, &stderr)
	if err != nil {
		stderr.WriteString(err.Error())
	}
	return stdout.String() + stderr.String(), statusOf(err)
}

func TestSelftestSeesEveryFault(t *testing.T) {
	out, status := called(t.Context(), "selftest", "--seed", "3", "--duration", "5s")
	if seen := strings.Count(out, string(check.Invalid)); status != exitValid || seen != len(plant.Faults()) {
		t.Errorf("its exit status is %d, and it sees %d faults of %d:\n%s", status, seen, len(plant.Faults()), out)
	}
}

// writeHistory writes one of two calls of which the second is a replay with
// that digest.
func writeHistory(t *testing.T, digest string) (name string) {
	t.Helper()
	span := func(d time.Duration) history.Nano { return history.Span(d) }
	h := &history.History{
		Run: history.Run{Nodes: []string{"n1"}},
		Calls: []*history.Call{
			{ID: 1, Node: "n1", Kind: history.Create, Key: "k", TTL: span(time.Hour), End: span(time.Millisecond), Answer: &history.Answer{Status: 201, Digest: "d"}},
			{ID: 2, Node: "n1", Kind: history.Create, Key: "k", TTL: span(time.Hour), Begin: span(time.Second), End: span(2 * time.Second), Final: true,
				Answer: &history.Answer{Status: 201, Digest: digest, Replayed: true}},
		},
		End: &history.End{},
	}
	name = filepath.Join(t.TempDir(), "history.ndjson")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(history.Write(file, h), file.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// The exit status is the verdict.
func TestExitStatus(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for _, test := range []struct {
		name string
		ctx  context.Context
		args []string
		want int
		says string
	}{
		{"a changed byte", t.Context(), []string{"check", writeHistory(t, "e")}, exitInvalid, "same-bytes"},
		{"too few calls", t.Context(), []string{"check", writeHistory(t, "d")}, exitInconclusive, "only 2 calls"},
		{"no history", t.Context(), []string{"check", "nothing.ndjson"}, exitInconclusive, "nothing.ndjson"},
		{"no such command", t.Context(), []string{"destroy"}, exitInconclusive, "destroy"},
		{"a duration of nothing", t.Context(), []string{"run", "--duration", "0s"}, exitInconclusive, "at least 1s"},
		{"interrupted", ended, []string{"selftest"}, exitInconclusive, "interrupted"},
		{"help", t.Context(), []string{"--help"}, exitValid, "Exit status"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, status := called(test.ctx, test.args...)
			if status != test.want || !strings.Contains(out, test.says) {
				t.Errorf("its exit status is %d, not %d, or it does not say %q:\n%s", status, test.want, test.says, out)
			}
		})
	}
}
