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
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// simulateCommand runs the simulation, which is built from the sources: as
// WebAssembly, where everything that could differ between two runs of a seed is
// the seed's, or natively.
type simulateCommand struct {
	Seed      uint64 `default:"1" help:"The first seed; each run has the next."`
	Faults    int    `default:"100" help:"Faults in all, in runs of at most --run-faults. A seed is replayed with the same --run-faults."`
	RunFaults int    `default:"100" help:"Faults in a run."`
	Native    bool   `help:"Run as a program of this machine: faster, but a seed fixes the faults alone and not what meets them."`
	Race      bool   `help:"With --native: with the race detector."`
	Plant     string `default:"" help:"A bug to put into the runs, to see that it is found."`
	Trace     bool   `help:"Print all that happens."`
	Jobs      int    `default:"0" help:"Runs at a time; 0: as many as there are processors."`
	Source    string `default:"." type:"existingdir" help:"The sources."`
}

// Run runs the simulation.
func (c *simulateCommand) Run(ctx context.Context, s streams) error {
	if c.Faults < 1 || c.RunFaults < 1 {
		return errors.New("--faults and --run-faults: use at least 1")
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
	start := c.native(program)
	if !c.Native {
		m, err := newMachine(ctx, program)
		if err != nil {
			return err
		}
		defer m.close(ctx)
		start = m.run
	}
	return c.all(ctx, s.out, start)
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
	}
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build the simulation: %w", err)
	}
	return program, nil
}

// runner runs the program with arguments; what it prints goes to out.
type runner func(ctx context.Context, seed uint64, args []string, out io.Writer) error

// all runs every seed, some at a time, and prints what each printed in one
// piece. What failed is told with the command that replays it.
func (c *simulateCommand) all(ctx context.Context, out io.Writer, start runner) error {
	jobs := c.Jobs
	if jobs == 0 {
		jobs = runtime.NumCPU()
	}
	runs := (c.Faults + c.RunFaults - 1) / c.RunFaults
	var (
		mu      sync.Mutex
		next    int
		failed  []error
		running sync.WaitGroup
	)
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == runs || len(failed) > 0 || ctx.Err() != nil {
			return 0, false
		}
		next++
		return c.Seed + uint64(next-1), true
	}
	for range min(jobs, runs) {
		running.Go(func() {
			for {
				seed, ok := take()
				if !ok {
					return
				}
				var printed bytes.Buffer
				to := io.Writer(&printed)
				if c.Trace {
					to = out
				}
				err := start(ctx, seed, c.arguments(seed), to)
				mu.Lock()
				_, _ = printed.WriteTo(out)
				if err != nil && ctx.Err() == nil {
					failed = append(failed, fmt.Errorf("seed %d: %w; replay it: scripts/simulate --seed %[1]d --faults %[3]d%[4]s", seed, err, c.RunFaults, c.flags()))
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(failed...)
}

func (c *simulateCommand) flags() (s string) {
	if c.RunFaults != 100 {
		s += fmt.Sprintf(" --run-faults %d", c.RunFaults)
	}
	if c.Native {
		s += " --native"
	}
	if c.Plant != "" {
		s += " --plant " + c.Plant
	}
	return s
}

func (c *simulateCommand) arguments(seed uint64) []string {
	args := []string{"-test.run=^TestACluster$", "-test.timeout=0", "-seed=" + strconv.FormatUint(seed, 10), "-faults=" + strconv.Itoa(c.RunFaults), "-plant=" + c.Plant}
	if c.Trace {
		args = append(args, "-trace")
	}
	return args
}

func (c *simulateCommand) native(program string) runner {
	return func(ctx context.Context, _ uint64, args []string, out io.Writer) error {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd.Run()
	}
}

// machine runs the program as WebAssembly, with nothing from outside but what
// follows from the seed.
type machine struct {
	runtime wazero.Runtime
	program wazero.CompiledModule
}

func newMachine(ctx context.Context, program string) (*machine, error) {
	code, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read the simulation: %w", err)
	}
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(true))
	m := &machine{runtime: r}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, errors.Join(fmt.Errorf("start the machine: %w", err), r.Close(ctx))
	}
	if m.program, err = r.CompileModule(ctx, code); err != nil {
		return nil, errors.Join(fmt.Errorf("compile the simulation: %w", err), r.Close(ctx))
	}
	return m, nil
}

func (m *machine) close(ctx context.Context) { _ = m.runtime.Close(ctx) }

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
	cfg := wazero.NewModuleConfig().WithName("").WithStdout(out).WithStderr(out).
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
