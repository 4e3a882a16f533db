package simulation

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/onced/onced/fsm"
)

var (
	seed   = flag.Uint64("seed", 1, "the first seed")
	runs   = flag.Int("runs", 1, "how many runs, each with the next seed")
	faults = flag.Int("faults", 60, "faults in a run")
	plant  = flag.String("plant", "", "a bug to put into the run")
	told   = flag.Bool("trace", false, "print the trace")
)

// simulate is Run in a bubble of its own.
func simulate(t *testing.T, o Options) (r *Report) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil && (r == nil || !leftByTransfer()) {
			panic(p)
		}
	}()
	synctest.Test(t, func(t *testing.T) { r = Run(o) })
	return r
}

// leftByTransfer tells whether all that is left of a bubble are two goroutines of
// hashicorp/raft v1.7.3: a transfer of leadership that is under way when the node
// steps down waits for ever for a follower's replication that has ended.
func leftByTransfer() bool {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	for _, g := range strings.Split(string(all), "\n\n") {
		if strings.Contains(g, "synctest bubble") &&
			!strings.Contains(g, "raft.(*Raft).leadershipTransfer(") && !strings.Contains(g, "raft.(*Raft).leaderLoop.func") {
			return false
		}
	}
	return true
}

func TestMain(m *testing.M) {
	// What is made at first use, and shared, must not belong to one bubble.
	long := fsm.NewResponse(200, nil, make([]byte, 4096))
	if _, err := long.Plain(); err != nil {
		panic(err)
	}
	m.Run()
}

func (r *Report) String() string {
	s := fmt.Sprintf("seed %d: %d of %d faults bit, %d of %d keys given up on, %d calls, %d acknowledged, %d terms, %d snapshots, %.1f s simulated, %d things examined, %d early ends spared, trace %s of %d lines",
		r.Seed, r.Faults(), r.Tried, r.Undecided, r.Keys, r.Calls, r.Acked, r.Terms, r.Installs, r.Simulated.Seconds(), r.Examined, r.Spared, r.Trace[:16], len(r.Lines))
	for _, kind := range slices.Sorted(maps.Keys(r.Bitten)) {
		s += fmt.Sprintf(" %s=%d", kind, r.Bitten[kind])
	}
	return s
}

func TestACluster(t *testing.T) {
	for i := range *runs {
		o := Options{Seed: *seed + uint64(i), Faults: *faults, Plant: Plant(*plant)}
		if *told {
			o.Told = func(line string) { fmt.Println(line) }
		}
		r := simulate(t, o)
		if len(r.Violations) == 0 {
			Check(t.Context(), r)
		}
		fmt.Println(r)
		if len(r.Violations) == 0 {
			continue
		}
		if !*told {
			fmt.Println(strings.Join(r.Lines, "\n"))
		}
		t.Fatalf("seed %d:\n%s", r.Seed, strings.Join(r.Violations, "\n"))
	}
}

// A run that proves anything finds what is planted in it.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, bug := range Plants {
		t.Run(string(bug), func(t *testing.T) {
			const most = 2000
			tried := 0
			for s := uint64(1); tried < most; s++ {
				r := simulate(t, Options{Seed: s, Faults: 50, Plant: bug})
				tried += r.Tried
				if len(r.Violations) > 0 {
					t.Logf("found after %d faults, with seed %d: %s", tried, s, r.Violations[0])
					return
				}
			}
			t.Errorf("not found in %d faults", tried)
		})
	}
}
