//go:build linux

package fault

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// all has every fault done: some minutes. A few are done without it.
var all = flag.Bool("all", false, "do every fault, not just a few")

var few = []string{"kill-leader", "partition-clients-reach-leader", "power-cut-all", "clock-step", "wipe-follower", "kill-node+reorder"}

var buildDir string

// oncedBinary is onced as users run it, built once for all tests.
var oncedBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "onced")
	out, err := exec.Command("go", "build", "-o", path, "github.com/onced/onced/cmd/onced").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build onced: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "onced-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(dir)
		os.Exit(status)
	}))
}

// lab is a cluster with a little load, so that faults have something to meet.
type lab struct {
	*testing.T
	*Cluster
	begun time.Time
	dir   string
}

func startLab(t *testing.T, o Options) *lab {
	t.Helper()
	bin, err := oncedBinary()
	if err != nil {
		t.Fatal(err)
	}
	o.Binary, o.Dir = bin, t.TempDir()
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, Cluster: c, begun: time.Now(), dir: o.Dir}
	t.Cleanup(l.cleanUp)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	load, stop := context.WithCancel(t.Context())
	var loading sync.WaitGroup
	for i, m := range c.Nodes {
		loading.Go(func() {
			for n := 0; load.Err() == nil; n++ {
				ctx, cancel := context.WithTimeout(load, answerWithin)
				_, err := m.Call(ctx, http.MethodPost, "/create", fmt.Sprintf(`{"idempotencyKey":"load-%d-%d","data":%d}`, i, n, n))
				cancel()
				if err != nil {
					_ = wait(load, pollEvery)
				}
			}
		})
	}
	t.Cleanup(func() {
		stop()
		loading.Wait()
	})
	return l
}

func (l *lab) cleanUp() {
	if err := l.Stop(context.WithoutCancel(l.Context())); err != nil {
		l.Error(err)
	}
	if l.Failed() {
		for _, m := range l.Nodes {
			said, err := m.Said(max(0, m.LogSize()-5000))
			l.Logf("%s said, at the end (%v):\n%s", m.Name(), err, said)
		}
	}
}

// bites does a fault and fails the test unless it bit and healed.
func (l *lab) bites(kinds string) {
	l.Helper()
	step := Step{Kinds: strings.Split(kinds, "+"), Seed: 7, Hold: 1500 * time.Millisecond}
	e := l.Inject(l.Context(), l.begun, step)
	l.Logf("%s on %v from %v to %v: %s", e.Kind, e.Nodes, e.Begin.Round(time.Millisecond), e.End.Round(time.Millisecond), e.Evidence)
	if e.Err != nil || e.Evidence == "" || len(e.Nodes) == 0 || e.End < e.Begin+step.Hold/4 || e.Kind != kinds {
		l.Errorf("%s: %+v", kinds, e)
	}
	l.works()
}

// works fails the test unless every node takes a request.
func (l *lab) works() {
	l.Helper()
	for _, m := range l.Nodes {
		key := fmt.Sprintf("%s-%d", m.Name(), time.Since(l.begun))
		if _, err := m.Call(l.Context(), http.MethodPost, "/create", fmt.Sprintf(`{"idempotencyKey":%q,"data":1}`, key)); err != nil {
			l.Errorf("%s: %v", m.Name(), err)
		}
	}
}

func TestEachFaultBitesAndHeals(t *testing.T) {
	l := startLab(t, Options{})
	chosen := few
	if *all {
		chosen = append(slices.Clone(few), l.Cluster.Kinds()...)
	}
	for _, kinds := range chosen {
		if !t.Run(kinds, func(t *testing.T) { (&lab{t, l.Cluster, l.begun, l.dir}).bites(kinds) }) {
			break // what comes after would not say more
		}
	}
}

func TestWithoutHostsAndDisksTheFaultsOfProcessesAreLeft(t *testing.T) {
	l := startLab(t, Options{Loopback: true})
	kinds := l.Cluster.Kinds()
	if !slices.Contains(kinds, "pause-leader") || slices.Contains(kinds, "loss") || slices.Contains(kinds, "disk-full") {
		t.Errorf("the faults are %q", kinds)
	}
	for _, k := range []string{"pause-leader", "transfer-leader"} {
		l.bites(k)
	}
	if e := l.Inject(t.Context(), l.begun, Step{Kinds: []string{"loss"}}); e.Err == nil || e.Evidence != "" {
		t.Errorf("there are no links, and %+v", e)
	}
}

func TestAFaultThatIsBrokenOffHealsAtOnce(t *testing.T) {
	l := startLab(t, Options{Loopback: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan Event, 1)
	go func() {
		done <- l.Inject(ctx, l.begun, Step{Kinds: []string{"pause-follower"}, Hold: time.Hour})
	}()
	for deadline := time.Now().Add(readyWithin); !slices.ContainsFunc(l.Nodes, func(m *Member) bool { return m.Paused() }); time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			t.Fatal("no node was paused")
		}
	}
	cancel()
	if e := <-done; e.Err == nil || e.Evidence != "" {
		t.Errorf("it was broken off, and %+v", e)
	}
	l.works()
}
