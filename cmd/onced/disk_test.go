package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unlike returns n characters of text that occurs nowhere else and does not
// compress.
func unlike(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)[:n]
}

// startAgain starts node i and returns what tells what it has said since.
func (c *processes) startAgain(i int) (said func() string) {
	c.t.Helper()
	p := c.nodes[i]
	before := len(p.log.String())
	c.start(i)
	return func() string { return p.log.String()[before:] }
}

// stopsWith waits until node i has ended, for a reason that it gives in one
// line with want in it, and exit status 1.
func (c *processes) stopsWith(i int, said func() string, want string) {
	c.t.Helper()
	c.awaitExit(i)
	if status := c.nodes[i].cmd.ProcessState.ExitCode(); status != 1 {
		c.t.Errorf("exit status %d, want 1", status)
	}
	var reasons []string
	for _, line := range strings.Split(strings.TrimSpace(said()), "\n") {
		switch {
		case strings.HasPrefix(line, "onced: "):
			reasons = append(reasons, line)
		case !strings.HasPrefix(line, "time="):
			c.t.Errorf("a line that is neither log nor reason: %s", line)
		}
	}
	if len(reasons) != 1 || !strings.Contains(reasons[0], want) || len(reasons[0]) > 500 {
		c.t.Errorf("the reasons given are %q, want one with %q in it", reasons, want)
	}
	for _, dump := range []string{"panic", "goroutine ", "runtime error", "SIG"} {
		if strings.Contains(said(), dump) {
			c.t.Errorf("there is %q in its output:\n%s", dump, said())
		}
	}
}

// flip turns a bit at each place in the files of pattern where the answers of
// keys are.
func (k kept) flip(t *testing.T, keys []string, pattern ...string) {
	t.Helper()
	flipped := 0
	for _, path := range files(t, pattern...) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, key := range keys {
			text := []byte(k[key].data[1:30])
			for from := 0; ; flipped++ {
				at := bytes.Index(data[from:], text)
				if at < 0 {
					break
				}
				from += at + len(text)
				if _, err := f.WriteAt([]byte{data[from-1] ^ 1}, int64(from-1)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if flipped == 0 {
		t.Fatalf("nothing of them is in %s", filepath.Join(pattern...))
	}
}

func files(t *testing.T, pattern ...string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(pattern...))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no file is at %s (%v)", filepath.Join(pattern...), err)
	}
	return paths
}

// kept is what clients were told, by key.
type kept map[string]told

type told struct {
	data  string
	first answer
}

// createSome creates n keys with size characters of data each.
func (c *processes) createSome(n, size int, nodes ...int) kept {
	c.t.Helper()
	k := kept{}
	for i := range n {
		key, data := fmt.Sprintf("kept-%d", i), fmt.Sprintf("%q", unlike(size))
		k[key] = told{data, c.mustCreate(nodes[i%len(nodes)], key, data)}
	}
	return k
}

// wrong says what is wrong with the answer of node i to a retry of key, or "".
// No answer, or a refusal, is not wrong.
func (k kept) wrong(c *processes, i int, key string) string {
	got, err := c.create(i, key, k[key].data)
	if err != nil || got.status >= http.StatusInternalServerError {
		return ""
	}
	if want := k[key].first; got.status != want.status || got.body != want.body || !got.replayed {
		return fmt.Sprintf("%s on %s: %+v, the first answer was %+v", key, c.nodes[i].id, got, want)
	}
	return ""
}

// stand fails the test unless nodes replay every answer.
func (k kept) stand(c *processes, nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		for key, want := range k {
			if got := c.mustCreate(i, key, want.data); got.body != want.first.body || !got.replayed {
				c.t.Fatalf("%s on %s: %+v, the first answer was %+v", key, c.nodes[i].id, got, want.first)
			}
		}
	}
}

func TestAFlippedBitInTheLogStopsTheNodeAlone(t *testing.T) {
	t.Parallel()
	for kind, file := range map[string]string{"wal": "*.wal", "bolt": "log.db"} {
		t.Run(kind, func(t *testing.T) {
			c := startProcesses(t, 3, "--log-store", kind)
			k := c.createSome(30, 300, 0, 1, 2)
			c.agree()
			victim := c.others(c.leader())[0]
			c.kill(victim) // so that it has to read its log again
			k.flip(t, []string{"kept-17"}, c.nodes[victim].dir, "raft", file)
			c.stopsWith(victim, c.startAgain(victim), "corrupt")
			k.stand(c, c.others(victim)...)
			c.mustCreate(c.leader(), "later", `1`)
		})
	}
}

func TestAFlippedBitInAStoredRecordIsNeverServed(t *testing.T) {
	t.Parallel()
	c := startProcesses(t, 3)
	k := c.createSome(100, 300, 0, 1, 2)
	c.agree()
	victim := c.others(c.leader())[0]
	if status := c.terminate(victim); status != 0 { // which writes out what is in memory
		t.Fatalf("exit status %d", status)
	}
	c.start(victim)
	c.awaitReady()
	k.flip(t, slices.Collect(maps.Keys(k)), c.nodes[victim].dir, "state", "store-*", "*.sst")
	// What it has in memory it may serve.
	for key := range k {
		if wrong := k.wrong(c, victim, key); wrong != "" {
			t.Error(wrong)
		}
	}
	c.kill(victim)
	c.stopsWith(victim, c.startAgain(victim), "checksum mismatch")
	k.stand(c, c.others(victim)...)
	c.mustCreate(c.leader(), "later", `1`)
}

func TestADamagedDirectoryIsRefusedInOneLine(t *testing.T) {
	t.Parallel()
	cut := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	}
	for kind, logFile := range map[string]string{"wal": "raft/*.wal", "bolt": "raft/log.db"} {
		origin := startProcesses(t, 1, "--log-store", kind)
		k := origin.createSome(10, 300, 0)
		if status := origin.terminate(0); status != 0 {
			t.Fatalf("exit status %d", status)
		}
		for name, tc := range map[string]struct {
			file   string
			damage func(string) error
			want   string
		}{
			"identity cut short":     {"identity.json", cut, "identity.json is damaged"},
			"identity deleted":       {"identity.json", os.Remove, "no identity.json"},
			"term and vote cut":      {"raft/stable.db", cut, "stable.db: log is corrupt"},
			"term and vote deleted":  {"raft/stable.db", os.Remove, "stable.db beside it is missing"},
			"mark cut short":         {"raft/mark", cut, "log is corrupt"},
			"mark deleted":           {"raft/mark", os.Remove, "the file mark is missing"},
			"log cut short":          {logFile, cut, "log is corrupt"},
			"log file deleted":       {logFile, os.Remove, "open log"},
			"log deleted":            {"raft", os.RemoveAll, "the log does not go with the state"},
			"state's name cut short": {"state/CURRENT", cut, "CURRENT"},
			"state's name deleted":   {"state/CURRENT", os.Remove, "CURRENT is missing"},
			"table cut short":        {"state/store-*/*.sst", cut, "size mismatch"},
			"table deleted":          {"state/store-*/*.sst", os.Remove, "file does not exist"},
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				c := newProcesses(t, 1, "--log-store", kind)
				p := c.nodes[0]
				p.raft = origin.nodes[0].raft
				if err := os.CopyFS(p.dir, os.DirFS(origin.nodes[0].dir)); err != nil {
					t.Fatal(err)
				}
				for _, path := range files(t, p.dir, tc.file) {
					if err := tc.damage(path); err != nil {
						t.Fatal(err)
					}
				}
				said := c.startAgain(0)
				c.eventually("the node to meet the damage and end", func() bool {
					if wrong := k.wrong(c, 0, "kept-5"); wrong != "" {
						t.Fatal(wrong)
					}
					return !p.up()
				})
				c.stopsWith(0, said, tc.want)
			})
		}
	}
}
