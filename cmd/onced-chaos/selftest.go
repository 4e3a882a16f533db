package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/plant"
	"github.com/onced/onced/chaos/solo"
)

// selftestCommand plants faults in a history and has each found.
type selftestCommand struct {
	History  string        `placeholder:"FILE" help:"A valid history to plant in. Default: one is made, with a node in this process."`
	Duration time.Duration `default:"8s" help:"How long that is loaded."`
	Seed     uint64        `default:"1" help:"Of its load."`
}

// selftestCalls is how many calls a history to plant in has at least.
const selftestCalls = 300

// Run prints a line for each fault. A missed one is an error.
func (s *selftestCommand) Run(ctx context.Context, to streams) error {
	h, err := s.history(ctx)
	if err != nil {
		return err
	}
	options := check.Options{MinCalls: selftestCalls}
	whole := check.Judge(ctx, h, options)
	fmt.Fprintf(to.out, "%-12s nothing planted, %d calls on %d keys\n", whole.Outcome, whole.Calls.All, whole.Keys)
	failed := whole.Outcome != check.Valid
	if failed {
		printVerdict(to.out, h, whole, "")
	}
	for _, f := range plant.Faults() {
		said, err := seen(ctx, h, f, options)
		if err != nil {
			said, failed = "MISSED", true
			fmt.Fprintf(to.out, "%-12s %s: %v\n", said, f.Name, err)
			continue
		}
		fmt.Fprintf(to.out, "%-12s %s\n", said, f.Name)
	}
	switch {
	case failed && whole.Outcome == check.Valid:
		return fmt.Errorf("%w: the judge misses what is wrong", errInvalid)
	case failed:
		return fmt.Errorf("%w: the judge finds fault with a history as it should be, or the history is no good", errInvalid)
	}
	return nil
}

// seen plants f and returns the verdict. Anything but that f's rule finds it is
// an error.
func seen(ctx context.Context, h *history.History, f plant.Fault, o check.Options) (string, error) {
	planted, ok, err := f.In(h)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", errors.New("the history has no place for it: make a longer one")
	}
	v := check.Judge(ctx, planted, o)
	if v.Outcome != check.Invalid {
		return "", fmt.Errorf("the verdict is %s", v.Outcome)
	}
	if !slices.ContainsFunc(v.Findings, func(found check.Finding) bool { return found.Rule == f.Rule }) {
		return "", fmt.Errorf("only other rules than %s find it", f.Rule)
	}
	return string(v.Outcome), nil
}

// history reads the history, or makes one.
func (s *selftestCommand) history(ctx context.Context) (h *history.History, err error) {
	if s.History != "" {
		file, err := os.Open(s.History)
		if err != nil {
			return nil, fmt.Errorf("open history: %w", err)
		}
		defer file.Close()
		return history.Read(file)
	}
	dir, err := os.MkdirTemp("", "onced-chaos-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return solo.Run(ctx, solo.Config{Dir: dir, Seed: s.Seed, Duration: s.Duration, To: io.Discard})
}
