package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// simulateCommand runs the simulation, which is built from the sources: as
// WebAssembly, where everything that could differ between two runs of a seed is
// the seed's, or natively.
type simulateCommand struct {
	Seed      uint64 `default:"1" help:"The seed of the first run; each later one has the next."`
	Faults    int    `default:"0" help:"Go on until so many faults were seen to bite; 0: one run."`
	RunFaults int    `default:"100" help:"Faults injected in a run. A seed is replayed with the same number."`
	Native    bool   `help:"Run as a program of this machine: much faster, but then a seed fixes the faults and not what meets them."`
	Race      bool   `help:"With --native: with the race detector."`
	Twice     bool   `help:"Run every seed twice, and fail if the traces differ."`
	Plant     string `default:"" help:"A bug to put into the runs, to see that it is found."`
	Trace     bool   `help:"Print all that happens, and what the nodes log."`
	Jobs      int    `default:"0" help:"Runs at a time; 0: as many as there are processors."`
	Source    string `default:"." type:"existingdir" help:"The sources."`
}

// Run runs the simulation.
func (c *simulateCommand) Run(ctx context.Context, s streams) error {
	if c.Faults < 0 || c.RunFaults < 1 || c.Jobs < 0 {
		return errors.New("--faults, --run-faults and --jobs: use 0, 1 and 0 at least")
	}
	dir, err := os.MkdirTemp("", "onced-simulate-")
	if err != nil {
		return fmt.Errorf("make a directory for the program: %w", err)
	}
	defer os.RemoveAll(dir)
	program, err := c.build(ctx, dir, s.progress)
	if err != nil {
		return err
	}
	all := &simulations{simulateCommand: c, out: s.out, start: native(program)}
	if !c.Native {
		m, err := newMachine(ctx, program)
		if err != nil {
			return err
		}
		all.start = m.run
	}
	return all.run(ctx)
}

// build makes the program of the tests.
func (c *simulateCommand) build(ctx context.Context, dir string, progress io.Writer) (string, error) {
	program := filepath.Join(dir, "simulation.test")
	args := []string{"test", "-c", "-o", program}
	if c.Race {
		args = append(args, "-race")
	}
	build := exec.CommandContext(ctx, "go", append(args, "./chaos/simulation")...)
	build.Dir, build.Stdout, build.Stderr = c.Source, progress, progress
	build.Env = os.Environ()
	if !c.Native {
		build.Env = append(build.Env, "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	} else if c.Race {
		build.Env = append(build.Env, "CGO_ENABLED=1") // which the race detector needs
	}
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build the simulation: %w", err)
	}
	return program, nil
}

// runner runs the program with arguments; what it prints goes to out.
type runner func(ctx context.Context, seed uint64, args []string, out io.Writer) error

// simulations are all the runs, some at a time.
type simulations struct {
	*simulateCommand
	start runner

	mu     sync.Mutex
	out    io.Writer
	begun  uint64
	tried  int
	bitten int
	keys   int // that the runs had
	unsure int // of those, given up on by the search for an order
	failed error
}

// run runs seeds until enough faults have bitten, or one has failed.
func (s *simulations) run(ctx context.Context) error {
	jobs := s.Jobs
	if jobs == 0 {
		jobs = runtime.NumCPU()
	}
	var running sync.WaitGroup
	for range jobs {
		running.Go(func() {
			for seed, ok := s.take(ctx); ok; seed, ok = s.take(ctx) {
				s.one(ctx, seed)
			}
		})
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		// WebAssembly that could be stopped would look at every turn of every
		// loop whether it should, and run half as fast. The process ends.
		// Processes are stopped, and waited for: nobody else would do it.
		if s.Native {
			<-ended
		}
		return ctx.Err()
	}
	if s.failed == nil {
		fmt.Fprintf(s.out, "%d runs, %d faults of which %d were seen to bite: no promise was broken; %d of %d keys were not judged by an order of their calls\n",
			s.begun, s.tried, s.bitten, s.unsure, s.keys)
	}
	return s.failed
}

// take returns the next seed, and false when there is none to run any more.
func (s *simulations) take(ctx context.Context) (seed uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil || ctx.Err() != nil || s.begun > 0 && s.bitten >= s.Faults {
		return 0, false
	}
	s.begun++
	return s.Seed + s.begun - 1, true
}

// one runs one seed, and prints what it printed in one piece.
func (s *simulations) one(ctx context.Context, seed uint64) {
	var printed, again bytes.Buffer
	err := s.start(ctx, seed, s.arguments(seed), &printed)
	if err == nil && s.Twice {
		if err = s.start(ctx, seed, s.arguments(seed), &again); err == nil && again.String() != printed.String() {
			err = fmt.Errorf("it ran in two ways: %s; %s", printed.String(), again.String())
		}
	}
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.TrimSuffix(printed.String(), "PASS\n")
	_, _ = io.WriteString(s.out, text)
	var bitten, tried, unsure, keys int
	if at := strings.LastIndex(text, "seed "); at >= 0 {
		var n uint64
		_, _ = fmt.Sscanf(text[at:], "seed %d: %d of %d faults bit, %d of %d keys", &n, &bitten, &tried, &unsure, &keys)
	}
	if err == nil && bitten == 0 {
		err = errors.New("no fault was seen to bite")
	}
	s.bitten, s.tried = s.bitten+bitten, s.tried+tried
	s.unsure, s.keys = s.unsure+unsure, s.keys+keys
	if err != nil && s.failed == nil {
		s.failed = fmt.Errorf("%w: seed %d: %w; to see it again: %s", errInvalid, seed, err, s.replay(seed))
	}
}

// replay is the command that runs a seed again.
func (s *simulations) replay(seed uint64) string {
	command := fmt.Sprintf("scripts/simulate --seed %d --run-faults %d", seed, s.RunFaults)
	if s.Native {
		command += " --native"
	}
	if s.Plant != "" {
		command += " --plant " + s.Plant
	}
	return command + " --trace"
}

func (c *simulateCommand) arguments(seed uint64) []string {
	return []string{
		"-test.run=^TestACluster$", "-test.timeout=0", "-seed=" + strconv.FormatUint(seed, 10),
		"-faults=" + strconv.Itoa(c.RunFaults), "-plant=" + c.Plant, "-trace=" + strconv.FormatBool(c.Trace),
	}
}

func native(program string) runner {
	return func(ctx context.Context, _ uint64, args []string, out io.Writer) error {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd.Run()
	}
}

// machine runs the program as WebAssembly, with nothing from outside but what
// follows from the seed. It lasts as long as the process: it must not be closed
// under a run that was left behind.
type machine struct {
	runtime wazero.Runtime
	program wazero.CompiledModule
}

func newMachine(ctx context.Context, program string) (*machine, error) {
	code, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read the simulation: %w", err)
	}
	r := wazero.NewRuntime(ctx)
	m := &machine{runtime: r}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, errors.Join(fmt.Errorf("start the machine: %w", err), r.Close(ctx))
	}
	if m.program, err = r.CompileModule(ctx, code); err != nil {
		return nil, errors.Join(fmt.Errorf("compile the simulation: %w", err), r.Close(ctx))
	}
	return m, nil
}

// epoch is when every run begins, in nanoseconds; what the bubble's clock shows
// does not depend on it.
const epoch = 1_700_000_000_000_000_000

func (m *machine) run(ctx context.Context, seed uint64, args []string, out io.Writer) error {
	now := int64(epoch)
	tick := func() int64 { now += 1000; return now } // each look at a clock takes a microsecond
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	// It has memory enough; collecting it as often as usual costs a good part
	// of the time.
	cfg := wazero.NewModuleConfig().WithName("").WithEnv("GOGC", "400").WithStdout(out).WithStderr(out).
		WithArgs(append([]string{"simulation"}, args...)...).
		WithRandSource(rand.NewChaCha8(key)).
		WithNanotime(tick, sys.ClockResolution(1)).
		WithWalltime(func() (int64, int32) { n := tick(); return n / 1e9, int32(n % 1e9) }, sys.ClockResolution(1)).
		WithNanosleep(func(n int64) { now += n })
	mod, err := m.runtime.InstantiateModule(ctx, m.program, cfg)
	if mod != nil {
		defer mod.Close(ctx)
	}
	var exit *sys.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 0 {
		return nil
	}
	return err
}
