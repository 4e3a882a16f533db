package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compareBriefly runs the command in a form that takes seconds.
func compareBriefly(t *testing.T, ctx context.Context, systems string) (out, progress, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	out, progress, err = runBench(ctx, "compare", "--systems", systems, "--connections", "2", "--rounds", "1", "--no-install",
		"--out", filepath.Join(dir, "out"), "--dir", dir, "--tools", filepath.Join(dir, "tools"))
	return out, progress, dir, err
}

func TestCompareMeasuresRedisBesideOnced(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is not installed, and this test is about it: apt-get install redis-server")
	}
	out, progress, dir, err := compareBriefly(t, t.Context(), "onced,redis")
	if err != nil {
		t.Fatalf("%v\n%s", err, progress)
	}
	if strings.Count(out, "new ") != 2 || strings.Count(out, "replay ") != 2 ||
		!strings.Contains(out, "durable on a majority of three nodes: onced; on one node only: redis\n") {
		t.Errorf("table:\n%s", out)
	}
	if !strings.Contains(out, "(Redis server v=") {
		t.Errorf("the table does not say which Redis it was:\n%s", out)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left %v, error %v; want out alone", left, err)
	}
	for _, name := range []string{"compare.png", "compare.csv"} {
		if info, err := os.Stat(filepath.Join(dir, "out", name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, error %v", name, info, err)
		}
	}
}

func TestCompareNamesWhatIsLeftOut(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, progress, _, err := compareBriefly(t, t.Context(), "etcd")
	if err == nil || !strings.Contains(progress, "etcd is left out: not installed") {
		t.Errorf("error %v, progress %q; want etcd left out", err, progress)
	}
}

func TestCompareRefusesBadFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--systems", "oracle"}, {"--systems", "onced,onced"}, {"--rounds", "0"}, {"--shared", "-1"}, {"--shared", "65"}, {"--shared", "2", "--systems", "onced,redis"}, {"--connections", "0"}, {"--duration", "1ms"},
	} {
		if _, _, err := runBench(t.Context(), append([]string{"compare"}, args...)...); err == nil {
			t.Errorf("%q were taken", args)
		}
	}
}

func TestReplaysGoElsewhere(t *testing.T) {
	const nodes, keys = 3, 30
	for node := range uint64(nodes) {
		seen := make(map[uint64]bool)
		for turn := range uint64(keys) {
			key := elsewhere(turn, node, nodes, keys)
			if key >= keys || key%nodes == node {
				t.Errorf("node %d repeats key %d, which it recorded or nobody did", node, key)
			}
			seen[key] = true
		}
		if len(seen) != keys*2/3 {
			t.Errorf("node %d repeats %d keys; want %d", node, len(seen), keys*2/3)
		}
	}
	if got := elsewhere(31, 0, 1, keys); got != 1 {
		t.Errorf("one node repeats key %d; want 1", got)
	}
}

func TestTreeTimeCountsTheChildrenOfTheProcess(t *testing.T) {
	d, err := parseTreeStat([]byte("1 (a) b) S 0 0 0 0 0 0 0 0 0 0 1 2 3 4 0 0"))
	if err != nil || d != 10*tick {
		t.Errorf("%v, error %v; want %v", d, err, 10*tick)
	}
	if _, err := parseTreeStat([]byte("1 (a) S 0")); err == nil {
		t.Error("a short line was taken")
	}
}
